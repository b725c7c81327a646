package tpmrole

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
)

// Connect joins standard input and output with a TPM's socket: it is what tpm2-tss' TCTI "cmd" runs.
func Connect(ctx context.Context, socket string, in io.Reader, out io.Writer) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reach the TPM: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() {
		_, _ = io.Copy(conn, in)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	if _, err := io.Copy(out, conn); err != nil {
		return fmt.Errorf("speak with the TPM: %w", err)
	}
	return nil
}

// Ports of swtpm's own protocol on a pod's loopback: data, and one above it control.
const (
	DataPort = "2321"
	CtrlPort = "2322"
)

// ServeTCP offers a TPM on the loopback in swtpm's own protocol, for programs that speak no other, such as the Rust agent.
func ServeTCP(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	for port, socket := range map[string]string{DataPort: SocketSwtpm, CtrlPort: SocketCtrl} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			cancel(nil)
			serving.Wait()
			return fmt.Errorf("offer the TPM on the loopback: %w", err)
		}
		context.AfterFunc(ctx, func() { l.Close() })
		serving.Go(func() { cancel(acceptAll(ctx, l, filepath.Join(dir, socket))) })
	}
	<-ctx.Done()
	serving.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func acceptAll(ctx context.Context, l net.Listener, socket string) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = Connect(ctx, socket, conn, conn) // the program sees that its connection ends
		}()
	}
}
