package agent

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// eventually waits until ok holds, or fails saying what was awaited.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

func TestOnlyTheCVCAsClientsAreServed(t *testing.T) {
	f := startAgent(t, nil)
	for name, client := range map[string]*http.Client{
		"no certificate": f.clientWith(),
		"another CA":     f.clientWith(newCA(t, "cv_ca").client(t)), // the same name even
	} {
		response, err := client.Get(f.url + "/version")
		if err == nil {
			_ = response.Body.Close()
			t.Errorf("%s: got status %d", name, response.StatusCode)
		}
	}
	eventually(t, "two refused handshakes in the statistics", func() bool { return f.Stats().TLSRefused == 2 })
	if n := len(f.Stats().Requests); n != 0 {
		t.Errorf("%d requests were counted", n)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	f := startAgent(t, nil)
	_, err := tls.Dial("tcp", f.cfg.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("error %v, want one about the version", err)
	}
}

// TestHTTP2 is what a client gets that offers it, as from the Rust agent.
func TestHTTP2(t *testing.T) {
	f := startAgent(t, nil)
	f.client = f.clientWith(f.ca.client(t))
	f.client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	defer f.client.CloseIdleConnections()
	for path, want := range map[string]int{"/v2.6/quotes/identity?nonce=abc": 200, "/v2.6/quotes/identity": 400} {
		response, err := f.client.Get(f.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.Proto != "HTTP/2.0" || response.StatusCode != want {
			t.Errorf("%s: %s, status %d, want HTTP/2.0 and %d", path, response.Proto, response.StatusCode, want)
		}
	}
	if n := f.ServedNonce("abc"); n != 1 {
		t.Errorf("the quote counts as served %d times", n)
	}
}

// TestHostilePeers: connections that say nothing, nonsense, or half a request do
// not keep others from being served.
func TestHostilePeers(t *testing.T) {
	t.Parallel() // it waits for timeouts
	f := startAgent(t, func(cfg *Config) { cfg.RequestTimeout = 2 * time.Second })
	addr := f.cfg.Listener.Addr().String()
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := io.WriteString(plain, "GET /version HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	half, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{f.ca.client(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := io.WriteString(half, "POST /v2.6/keys/vkey HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	cut, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{f.ca.client(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(cut, "GET /v2.6/quotes/identity?nonce=a HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = cut.Close()
	if status, _ := f.get(t, "/version"); status != 200 {
		t.Errorf("status %d", status)
	}
	// Each of them is dropped by the agent in the end.
	for _, conn := range []net.Conn{silent, half} {
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "i/o timeout") {
			t.Error("a stalled connection was kept")
		}
	}
}

func TestServeEndsAndLeavesNothing(t *testing.T) {
	tpm, ca := startTPM(t), newCA(t, "cv_ca")
	before := runtime.NumGoroutine()
	for _, end := range []string{"context", "Close"} {
		cfg := baseConfig(tpm, ca)
		var err error
		if cfg.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		a, err := New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- a.Serve(ctx) }()
		f := &fixture{Agent: a, ca: ca, url: "https://" + cfg.Listener.Addr().String()}
		f.client = f.clientWith(ca.client(t))
		if status, _ := f.get(t, "/version"); status != 200 {
			t.Fatalf("status %d", status)
		}
		if end == "context" {
			cancel()
		} else if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Errorf("%s: Serve returned %v", end, err)
		}
		cancel()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := a.Serve(t.Context()); err == nil {
			t.Error("a closed agent serves again")
		}
		if _, err := net.Dial("tcp", cfg.Listener.Addr().String()); err == nil {
			t.Errorf("%s: the listener is still open", end)
		}
		f.client.CloseIdleConnections()
	}
	eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}
