package tpmrole

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/tpmsim"
)

// TestMain is also the program that TCTI "cmd" starts.
func TestMain(m *testing.M) {
	if socket := os.Getenv("KEYLAB_TEST_CONNECT"); socket != "" && len(os.Args) > 1 && os.Args[1] == "connect" {
		if err := Connect(context.Background(), socket, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// role is a TPM's main process, running in this one.
type role struct {
	*Client
	dir    string
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, dir string, c Config) *role {
	t.Helper()
	if err := tpmsim.Swtpm().Available(); err != nil {
		t.Skip(err)
	}
	c.Name, c.Dir, c.SocketDir = "n", filepath.Join(dir, "state"), dir
	control := filepath.Join(dir, "control.sock")
	ctx, cancel := context.WithCancel(context.Background())
	r := &role{dir: dir, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- run(ctx, c, control) }()
	r.Client = NewClient(func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", control) })
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := r.Identity(t.Context())
		if err == nil {
			return r
		}
		select {
		case ended := <-r.done:
			t.Fatalf("the TPM ended: %v", ended)
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for the TPM: %v", err)
		}
	}
}

func (r *role) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Errorf("the TPM's end: %v", err)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kt") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// The EK is made first, its certificate comes from outside, and both are the same after a restart.
func TestManufacture(t *testing.T) {
	dir := shortDir(t)
	r := start(t, dir, Config{Algorithm: "ecc-p256"})
	first, err := r.Identity(t.Context())
	if err != nil || len(first.Certificate) != 0 || len(first.EKSPKI) == 0 {
		t.Fatalf("a new TPM: %+v, %v", first, err)
	}
	ca, _, err := ekca.OpenOrCreate(filepath.Join(dir, "ca"), ekca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ek, err := x509.ParsePKIXPublicKey(first.EKSPKI)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(ekca.Request{Public: ek, Label: "n", TPM: ekca.Model{Manufacturer: "id:4B4C4142", Model: "m", Version: "id:00010000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetCertificate(t.Context(), cert.Raw); err != nil {
		t.Fatal(err)
	}
	r.stop(t)
	r = start(t, dir, Config{Algorithm: "ecc-p256"})
	defer r.stop(t)
	again, err := r.Identity(t.Context())
	if err != nil || !bytes.Equal(again.EKSPKI, first.EKSPKI) || !bytes.Equal(again.Certificate, cert.Raw) {
		t.Errorf("after a restart it is another TPM: %+v, %v", again, err)
	}
	// The end was orderly, so the clock is safe at once.
	if waited, err := r.AwaitSafeClock(t.Context()); err != nil || waited > 2*time.Second {
		t.Errorf("the clock was safe after %s, %v", waited, err)
	}
}

// Real tpm2-tools reach the TPM by TCTI "cmd", and a chain of them keeps its keys in saved contexts; by TCP, as the Rust agent does, it is the same TPM.
func TestTools(t *testing.T) {
	for _, tool := range []string{"tpm2_createprimary", "tpm2_getrandom"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := shortDir(t)
	r := start(t, dir, Config{Algorithm: "ecc-p256", WithoutCertificate: true})
	defer r.stop(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(tcti string, argv ...string) string {
		t.Helper()
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+tcti, "KEYLAB_TEST_CONNECT="+filepath.Join(dir, SocketTPM))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
		return string(out)
	}
	byCommand := "cmd:" + self + " connect"
	run(byCommand, "tpm2_createprimary", "-Q", "-G", "ecc", "-c", "primary.ctx")
	run(byCommand, "tpm2_create", "-Q", "-C", "primary.ctx", "-G", "ecc", "-u", "key.pub", "-r", "key.priv")
	run(byCommand, "tpm2_load", "-Q", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
	run(byCommand, "tpm2_pcrextend", "16:sha256=1111111111111111111111111111111111111111111111111111111111111111")

	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeTCP(ctx, dir) }()
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+CtrlPort)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case err := <-served:
			t.Fatalf("offering the TPM on the loopback: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if a, b := run("swtpm:host=127.0.0.1,port="+DataPort, "tpm2_pcrread", "sha256:16"), run(byCommand, "tpm2_pcrread", "sha256:16"); a != b {
		t.Errorf("two TPMs: %q by TCP, %q by command", a, b)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
