package push

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
	var answered, hanging atomic.Bool
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if answered.CompareAndSwap(false, true) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
			return
		}
		hanging.Store(true)
		<-r.Context().Done() // never answers
	}))
	server.TLS, server.Config.ErrorLog = &tls.Config{Certificates: []tls.Certificate{cert}}, log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	tpm := startTPM(t)
	var reports records
	a, err := New(t.Context(), Config{
		OpenTPM:  func(context.Context) (transport.TPMCloser, error) { return tpm.Client(), nil },
		Verifier: testHost + ":8881", VerifierCA: roots,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
		OnAttestation: reports.add,
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
	gone := func() bool {
		text := stacks()
		return !strings.Contains(text, "net/http.(*persistConn)") && !strings.Contains(text, "push.(*runner)")
	}

	// The end comes in a pause, with an unused connection.
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- a.Run(ctx) }()
	reports.find(t, "the first attempt", func(record *Attestation) bool { return record.Next >= time.Hour })
	if gone() {
		t.Error("the agent keeps no connection to use again")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	eventually(t, "the end of the agent's connection", stacks, gone)

	// The end comes in a request.
	go func() { ended <- a.Run(context.Background()) }()
	eventually(t, "a request at the verifier", stacks, hanging.Load)
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second Run: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(stacks(), "push.(*runner)") {
		t.Error("Close did not wait for the end of Run")
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	eventually(t, "the end of the agent's connections", stacks, gone)
	if err := a.Run(t.Context()); err == nil {
		t.Error("a closed agent runs")
	}
	if stats := a.Stats(); stats != (Stats{Attempts: 1}) || len(reports.list()) != 1 {
		t.Errorf("stats %+v, reports %+v: want the first attempt alone, not the one that was cut off", stats, reports.list())
	}
}

func TestCloseWaitsForTheLastReport(t *testing.T) {
	tpm := startTPM(t)
	reporting, release := make(chan struct{}), make(chan struct{})
	var reported atomic.Bool
	a, err := New(t.Context(), Config{
		OpenTPM:  func(context.Context) (transport.TPMCloser, error) { return tpm.Client(), nil },
		Verifier: testHost + ":8881", VerifierCA: x509.NewCertPool(), RetryDelay: time.Hour,
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		OnAttestation: func(Attestation) {
			close(reporting)
			<-release
			reported.Store(true)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	<-reporting
	closed := make(chan error, 1)
	go func() { closed <- a.Close() }()
	eventually(t, "Close to wait for Run", stacks, func() bool {
		for _, goroutine := range strings.Split(stacks(), "\n\n") {
			if strings.Contains(goroutine, "[chan receive") && strings.Contains(goroutine, "push.(*Agent).Close") {
				return true
			}
		}
		return false
	})
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if !reported.Load() {
		t.Error("Close returned before the last report was over")
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}
