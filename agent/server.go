package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"
)

const (
	// shutdownGrace is how long running requests may take to end with Serve.
	shutdownGrace = 5 * time.Second
	// idleTimeout is when an unused connection is closed.
	idleTimeout = 30 * time.Second
	// maxHeader is what the Rust agent's web framework takes of request line and
	// header, in bytes, far above what Keylime needs; net/http adds 4 KiB to it.
	maxHeader = 128<<10 - 4<<10
)

// Serve answers requests on Config.Listener until ctx ends or Close is called,
// lets running ones finish, and returns nil then. It closes the listener. An
// agent serves once.
func (a *Agent) Serve(ctx context.Context) error {
	if a.cfg.Push {
		return errors.New("agent configuration: an agent for the push model serves nothing")
	}
	if a.cfg.Listener == nil {
		return errors.New("agent configuration: Listener is not set, nothing to serve on")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	defer close(done)
	a.serving.Lock()
	if a.serving.stop != nil || a.serving.closed {
		a.serving.Unlock()
		return errors.New("the agent serves already, or did, or is closed")
	}
	a.serving.stop, a.serving.done = stop, done
	a.serving.Unlock()

	server := &http.Server{
		Handler:           http.HandlerFunc(a.serveHTTP),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ReadHeaderTimeout: a.cfg.RequestTimeout,
		ReadTimeout:       a.cfg.RequestTimeout,
		WriteTimeout:      2 * a.cfg.RequestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(serverLog{a}, "", 0),
		TLSConfig:         a.tlsConfig(),
		// OPTIONS * is answered like any other path that is none.
		DisableGeneralOptionsHandler: true,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(a.cfg.Listener, "", "") }()
	a.log.Info("serving", "address", a.cfg.Listener.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", a.cfg.Listener.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	err := server.Shutdown(grace)
	if err != nil {
		err = server.Close() // cuts what did not end in time
	}
	<-failed
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing the agent's server: %w", err)
	}
	return nil
}

// tlsConfig demands a client certificate from everybody, for every path, as the
// Rust agent does with enable_agent_mtls. Keylime opens a new connection per
// poll and resumes none, so session tickets would only cost memory.
func (a *Agent) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{*a.server},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              a.cfg.ClientCAs,
		NextProtos:             []string{"h2", "http/1.1"}, // as the Rust agent
		SessionTicketsDisabled: true,
	}
}

// serverLog takes net/http's complaints about connections, all of which are the
// peers' doing.
type serverLog struct{ a *Agent }

func (l serverLog) Write(line []byte) (int, error) {
	line = bytes.TrimSpace(line)
	if bytes.Contains(line, []byte("TLS handshake error")) {
		l.a.book.tlsRefused()
	}
	l.a.log.Debug("connection", "problem", string(line))
	return len(line), nil
}
