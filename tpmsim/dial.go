package tpmsim

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"
)

// Dial connects to a TPM that [TPM.ServeClients] serves on a unix socket. The connection is one client of the TPM, with handles of its own;
// when it breaks, as when the TPM is restarted, every Send fails: dial again.
func Dial(ctx context.Context, socket string) (transport.TPMCloser, error) {
	return dial(ctx, "unix", socket)
}

// DialTCTI connects to a TPM by a TCTI for the data socket of a swtpm, as [TPM.ServeTCTI] has one: "swtpm:host=127.0.0.1,port=2321", with these as defaults.
// All who connect so are one client of the TPM.
func DialTCTI(ctx context.Context, tcti string) (transport.TPMCloser, error) {
	address, err := tctiAddress(tcti)
	if err != nil {
		return nil, err
	}
	return dial(ctx, "tcp", address)
}

// CheckTCTI tells why DialTCTI does not understand a TCTI.
func CheckTCTI(tcti string) error {
	_, err := tctiAddress(tcti)
	return err
}

func tctiAddress(tcti string) (string, error) {
	host, port := "127.0.0.1", "2321"
	name, options, _ := strings.Cut(tcti, ":")
	wrong := name != "swtpm"
	for option := range strings.SplitSeq(options, ",") {
		switch key, value, _ := strings.Cut(option, "="); {
		case option == "":
		case key == "host" && value != "":
			host = value
		case key == "port" && value != "":
			port = value
		default:
			wrong = true
		}
	}
	if wrong {
		return "", fmt.Errorf("tpmsim: TCTI %q is not of the form swtpm:host=HOST,port=PORT", tcti)
	}
	return net.JoinHostPort(host, port), nil
}

func dial(ctx context.Context, network, address string) (transport.TPMCloser, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
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
