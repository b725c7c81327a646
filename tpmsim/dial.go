package tpmsim

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"
)

// Dial connects to a TPM that [TPM.ServeClients] serves on a unix socket. The connection is one client of the TPM, with handles of its own;
// when it breaks, as when the TPM is restarted, every Send fails: dial again.
func Dial(ctx context.Context, socket string) (transport.TPMCloser, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("tpmsim: reach the TPM: %w", err)
	}
	return &connection{conn: conn}, nil
}

// connection is a TPM at the other end of a stream.
type connection struct {
	mu   sync.Mutex // one command at a time
	conn net.Conn
}

// Send implements transport.TPM.
func (c *connection) Send(command []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(command); err != nil {
		return nil, fmt.Errorf("tpmsim: send a command to the TPM: %w", err)
	}
	response, err := readMessage(c.conn)
	if err != nil {
		return nil, fmt.Errorf("tpmsim: read the TPM's response: %w", err)
	}
	return response, nil
}

// Close ends the connection; the TPM forgets what it had loaded for it.
func (c *connection) Close() error { return c.conn.Close() }
