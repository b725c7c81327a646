package noticerole

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/internal/nstest"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/kind/netroles"
)

// In a mount namespace of its own the control socket is nobody else's.
func TestMain(m *testing.M) { nstest.Main(m, nstest.Options{Mounts: true}) }

const patience = 20 * time.Second

// Whoever has a certificate of Keylime's authority can post, nobody else; what was posted is there to be asked for, and the receiver ends when it is told to.
func TestRun(t *testing.T) {
	if err := nstest.PrivateRun(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pki, err := keylime.CreatePKI(filepath.Join(dir, "pki"), keylime.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Lab: "x", PKI: pki.Dir, Listen: netip.MustParseAddrPort("127.0.0.1:8892"), Notifier: filepath.Join(dir, "none.crt")}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, path) }()
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", netroles.ControlSocket)
	}
	deadline := time.After(patience)
	for {
		list, err := Notices(t.Context(), dial)
		if err == nil {
			if len(list) != 0 {
				t.Errorf("told before anybody posted: %+v", list)
			}
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the receiver ended: %v", err)
		case <-deadline:
			t.Fatalf("no answer from the control socket: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	verifier := pki.ClientTLS()
	post := func() error {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: verifier, DisableKeepAlives: true}}
		resp, err := c.Post("https://"+config.Listen.String()+"/revocations", "application/json", strings.NewReader(`{"msg":"{\"agent_id\":\"u\",\"type\":\"revocation\"}","signature":""}`))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := post(); err != nil {
		t.Fatal(err)
	}
	verifier = pki.ClientTLS()
	verifier.Certificates = nil
	if err := post(); err == nil {
		t.Error("a client without a certificate may post")
	}
	list, err := Notices(t.Context(), dial)
	if err != nil || len(list) != 1 || list[0].Receiver != "webhook" || list[0].Agent != "u" || list[0].Type != "revocation" || list[0].Signed || list[0].Problem == "" {
		t.Errorf("told: %+v, %v", list, err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("its end: %v", err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}
