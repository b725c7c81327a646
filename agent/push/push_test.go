package push

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/tpmsim"
)

// startTPM is a swtpm with nothing in it.
func startTPM(t *testing.T) *tpmsim.TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm-") // the path of a unix socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm, err := tpmsim.Open(t.Context(), tpmsim.Options{Name: "push", Dir: dir, Backend: tpmsim.Swtpm()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Kill() })
	return tpm
}

// stacks are those of all goroutines.
func stacks() string {
	text := make([]byte, 1<<20)
	return string(text[:runtime.Stack(text, true)])
}

func TestRunEndsWithCloseAndLeavesNothing(t *testing.T) {
	cert, roots := serverCertificate(t)
	var hanging atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		hanging.Add(1)
		<-r.Context().Done() // never answers
	}))
	server.TLS, server.Config.ErrorLog = &tls.Config{Certificates: []tls.Certificate{cert}}, log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	tpm := startTPM(t)
	a, err := New(t.Context(), Config{
		OpenTPM:  func(context.Context) (transport.TPMCloser, error) { return tpm.Client(), nil },
		Verifier: testHost + ":8881", VerifierCA: roots,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
		OnAttestation: func(record Attestation) { t.Errorf("a request that was cut off by Close is reported: %+v", record) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.UUID()) != 64 || len(a.EKCertificates()) != 0 {
		t.Errorf("UUID %q and %d EK certificates, want the EK's hash and none", a.UUID(), len(a.EKCertificates()))
	}
	if err := a.Register(t.Context()); err == nil || !strings.Contains(err.Error(), "Registrar is not set") {
		t.Errorf("Register without a registrar: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	eventually(t, "a request at the verifier", stacks, func() bool { return hanging.Load() > 0 })
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second Run: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if err := a.Run(t.Context()); err == nil {
		t.Error("a closed agent runs")
	}
	if stats := a.Stats(); stats != (Stats{}) {
		t.Errorf("stats %+v of an agent that did not end one attempt", stats)
	}
	eventually(t, "the end of the agent's connections", stacks, func() bool {
		return !strings.Contains(stacks(), "net/http.(*persistConn)") && !strings.Contains(stacks(), "push.(*runner)")
	})
}
