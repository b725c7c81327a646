package tpmrole

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/tpmsim"
)

const patience = 30 * time.Second

// testTPM is a TPM's container without the container: the state in one folder, the sockets in another.
type testTPM struct {
	*Client
	t       *testing.T
	config  Config
	control string
	ended   chan error
	end     context.CancelFunc
}

// startTPM runs the main process in dir until the test or stop ends it.
func startTPM(t *testing.T, dir string, change func(*Config)) *testTPM {
	t.Helper()
	p := &testTPM{t: t, control: filepath.Join(dir, "control", "control.sock"), ended: make(chan error, 1)}
	p.config = Config{Name: "node-1", Dir: filepath.Join(dir, "state"), SocketDir: filepath.Join(dir, "sockets"), Algorithm: "rsa2048"}
	if change != nil {
		change(&p.config)
	}
	if err := os.MkdirAll(p.config.SocketDir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.Client = NewClient(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.control)
	})
	ctx, cancel := context.WithCancel(context.Background())
	p.end = cancel
	go func() { p.ended <- run(ctx, p.config, p.control) }()
	t.Cleanup(p.stop)
	p.await("an answer on the control socket", func() error { _, err := p.Identity(t.Context()); return err })
	return p
}

// stop ends the main process as `docker stop` does.
func (p *testTPM) stop() {
	p.t.Helper()
	p.end()
	select {
	case err, ok := <-p.ended:
		if ok && err != nil {
			p.t.Errorf("the main process: %v", err)
		}
		if ok {
			close(p.ended)
		}
	case <-time.After(patience):
		p.t.Fatal("the main process does not end")
	}
}

func (p *testTPM) await(what string, ask func() error) {
	p.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case e := <-p.ended:
			close(p.ended)
			p.t.Fatalf("waiting for %s, the main process ended: %v", what, e)
		case <-deadline:
			p.t.Fatalf("waited in vain for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (p *testTPM) socket(name string) string { return filepath.Join(p.config.SocketDir, name) }

func (p *testTPM) dial() transport.TPMCloser {
	p.t.Helper()
	c, err := tpmsim.Dial(p.t.Context(), p.socket(SocketTPM))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

func (p *testTPM) identity() Identity {
	p.t.Helper()
	id, err := p.Identity(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

// shortDir is a folder whose name leaves room for the names of sockets, which are 107 bytes long at most.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// certify is the EK CA: it has only the key that the TPM's container tells.
func certify(t *testing.T, id Identity, serial int64) []byte {
	t.Helper()
	ek, err := x509.ParsePKIXPublicKey(id.EKSPKI)
	if err != nil {
		t.Fatalf("the EK that the TPM told: %v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ek, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The lab asks a new TPM for its EK, has it certified on the host, and hands the certificate back; pods then find both in the TPM, after any
// number of restarts, and a second `up` changes neither.
func TestManufacture(t *testing.T) {
	for _, algorithm := range tpmsim.Algorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			dir := shortDir(t)
			p := startTPM(t, dir, func(c *Config) { c.Algorithm = string(algorithm) })
			fresh := p.identity()
			if len(fresh.Certificate) != 0 {
				t.Error("a new TPM has a certificate already")
			}
			if fresh.Algorithm != string(algorithm) {
				t.Errorf("the EK is %s", fresh.Algorithm)
			}
			certificate := certify(t, fresh, 1)
			if err := p.SetCertificate(t.Context(), certificate); err != nil {
				t.Fatal(err)
			}
			check := func(p *testTPM, want []byte) {
				t.Helper()
				told := p.identity()
				read, err := tpmsim.ReadIdentity(p.dial())
				if err != nil {
					t.Fatalf("read the identity as a pod does: %v", err)
				}
				spki, err := x509.MarshalPKIXPublicKey(read.Public)
				if err != nil {
					t.Fatal(err)
				}
				for what, got := range map[string][2][]byte{
					"the EK, as told":          {told.EKSPKI, fresh.EKSPKI},
					"the EK, as read":          {spki, fresh.EKSPKI},
					"the public area":          {read.TPM2BPublic, told.EKPublic},
					"the certificate, as told": {told.Certificate, want},
					"the certificate, as read": {read.Certificate, want},
				} {
					if !bytes.Equal(got[0], got[1]) {
						t.Errorf("%s differs: %x, want %x", what, got[0], got[1])
					}
				}
			}
			check(p, certificate)
			p.stop()

			p = startTPM(t, dir, func(c *Config) { c.Algorithm = string(algorithm) })
			check(p, certificate)
			other := certify(t, fresh, 2)
			if err := p.SetCertificate(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			check(p, certificate) // the first one stays
			if err := p.ReplaceCertificate(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			check(p, other)
		})
	}
}

// A TPM whose maker certifies nothing is complete at once, and takes no certificate afterwards.
func TestWithoutCertificate(t *testing.T) {
	p := startTPM(t, shortDir(t), func(c *Config) { c.WithoutCertificate = true })
	if err := p.SetCertificate(t.Context(), certify(t, p.identity(), 1)); err != nil {
		t.Fatal(err)
	}
	id, err := tpmsim.ReadIdentity(p.dial())
	if err != nil || len(id.Certificate) != 0 {
		t.Errorf("identity with a certificate of %d bytes, error %v", len(id.Certificate), err)
	}
}

// The same seed makes the same EK, in whatever folder; a machine's labs are reproducible.
func TestSeed(t *testing.T) {
	seeded := func(seed string) []byte {
		return startTPM(t, shortDir(t), func(c *Config) { c.Seed = seed; c.Algorithm = "ecc-p256" }).identity().EKSPKI
	}
	one, again, other := seeded("000102030405060708090a0b0c0d0e0f"), seeded("000102030405060708090a0b0c0d0e0f"), seeded("f00102030405060708090a0b0c0d0e0f")
	if !bytes.Equal(one, again) || bytes.Equal(one, other) {
		t.Error("the EK does not follow the seed")
	}
	if err := run(t.Context(), Config{Seed: "zz"}, filepath.Join(shortDir(t), "c")); err == nil {
		t.Error("a seed that is no hexadecimal number was taken")
	}
}

// Any user of a pod may use the TPM, but only root in the container may change it; and sockets that a killed container left are no obstacle.
func TestSockets(t *testing.T) {
	dir := shortDir(t)
	names := []string{SocketTPM, SocketSwtpm, SocketCtrl}
	if err := os.MkdirAll(filepath.Join(dir, "sockets"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "sockets", name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	p := startTPM(t, dir, nil)
	for _, name := range names {
		if info, err := os.Stat(p.socket(name)); err != nil || info.Mode().Perm() != 0o666 {
			t.Errorf("%s: %v, %v; want mode 0666", name, info, err)
		}
	}
	if info, err := os.Stat(p.control); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v; want mode 0600", info, err)
	}
}

// Connections are clients of their own: none can name what another has loaded.
func TestClientsAreApart(t *testing.T) {
	p := startTPM(t, shortDir(t), nil)
	one, two := p.dial(), p.dial()
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: key.ObjectHandle}).Execute(one); err != nil {
		t.Errorf("the key's owner: %v", err)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: key.ObjectHandle}).Execute(two); err == nil {
		t.Error("another client can name the key")
	}
}

// clock reads TPMS_CLOCK_INFO, of which Keylime judges safe, and the counts.
func clock(t *testing.T, tpm transport.TPM) tpm2.TPMSClockInfo {
	t.Helper()
	r, err := tpm2.ReadClock{}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	return r.CurrentTime.ClockInfo
}

// A container that is stopped, or rebooted in order, has a TPM whose quotes are good at once; after a power cut they are not, until the clock is safe.
func TestPower(t *testing.T) {
	dir := shortDir(t)
	p := startTPM(t, dir, nil)
	before := clock(t, p.dial())
	p.stop()
	p = startTPM(t, dir, nil)
	stopped := clock(t, p.dial())
	if !stopped.Safe {
		t.Error("the clock is not safe after a stop in order")
	}
	if err := p.Reboot(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	rebooted := clock(t, p.dial())
	if !rebooted.Safe || rebooted.ResetCount != stopped.ResetCount+1 || stopped.ResetCount != before.ResetCount+1 {
		t.Errorf("clocks: %+v at first, %+v after the stop, %+v after the reboot", before, stopped, rebooted)
	}
	if err := p.Reboot(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if clock(t, p.dial()).Safe {
		t.Error("the clock is safe although the power was cut")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	waited, err := p.AwaitSafeClock(ctx)
	if err != nil || waited <= 0 {
		t.Fatalf("waited %v for the clock: %v", waited, err)
	}
	if !clock(t, p.dial()).Safe {
		t.Error("the clock is not safe after the wait")
	}
	if got := p.identity(); len(got.EKSPKI) == 0 {
		t.Error("the EK is lost")
	}
}
