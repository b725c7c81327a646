package tpmrole

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs one of tpm2-tools by a TCTI.
func tool(t *testing.T, dir, tcti string, argv ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+tcti)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q by %s: %v (it needs the Debian packages tpm2-tools and libtss2-tcti-cmd0)\n%s%s", argv, tcti, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// chain is what people do with tpm2-tools, each command of which is a program, and a connection, of its own.
func chain(t *testing.T, tcti string) {
	t.Helper()
	dir := t.TempDir()
	for _, command := range []string{
		"tpm2_createprimary -C o -G ecc -c primary.ctx",
		"tpm2_create -C primary.ctx -G ecc -u key.pub -r key.priv",
		"tpm2_load -C primary.ctx -u key.pub -r key.priv -c key.ctx",
		"tpm2_sign -c key.ctx -g sha256 -o signature message",
		"tpm2_verifysignature -c key.ctx -g sha256 -s signature -m message",
	} {
		if err := os.WriteFile(filepath.Join(dir, "message"), []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, dir, tcti, strings.Fields(command)...)
	}
}

func TestToolsByCommand(t *testing.T) {
	p := startTPM(t, shortDir(t), nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tcti := "cmd:" + self + " tpm-connect " + p.socket(SocketTPM)
	if got := tool(t, t.TempDir(), tcti, "tpm2_getrandom", "8"); len(got) != 8 {
		t.Errorf("%d random bytes", len(got))
	}
	chain(t, tcti)
}

// In a pod the sidecar makes the TPM look like swtpm to programs that can nothing else.
func TestToolsByTCP(t *testing.T) {
	p := startTPM(t, shortDir(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- ServeTCP(ctx, p.config.SocketDir) }()
	for _, port := range []string{DataPort, CtrlPort} {
		p.await("port "+port, func() error {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	chain(t, "swtpm:host=127.0.0.1,port="+DataPort)
	if err := ServeTCP(t.Context(), p.config.SocketDir); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second sidecar: %v", err)
	}
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("the sidecar's end: %v", err)
		}
	case <-time.After(patience):
		t.Error("the sidecar does not end")
	}
}

// A pod whose TPM is gone hears so, rather than waiting.
func TestConnectWithoutTPM(t *testing.T) {
	in, _ := io.Pipe()
	err := Connect(t.Context(), filepath.Join(shortDir(t), "none.sock"), in, io.Discard)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
