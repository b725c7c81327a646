package tpmrole

import (
	"context"
	"net"
	"net/http"
	"time"

	"keylab.dev/keylab/lab/kind/netroles"
)

// Client speaks with the control API of a TPM.
type Client struct{ c netroles.Client }

// NewClient is a client of the TPM whose control socket dial reaches.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{netroles.NewClient(dial)}
}

// Identity reads EK and EK certificate out of the TPM.
func (c *Client) Identity(ctx context.Context) (id Identity, err error) {
	err = c.c.Call(ctx, http.MethodGet, "/identity", nil, &id)
	return id, err
}

// SetCertificate completes the manufacture with a certificate (DER) for the EK. A TPM that has one keeps it.
func (c *Client) SetCertificate(ctx context.Context, der []byte) error {
	return c.c.Call(ctx, http.MethodPut, "/certificate", der, nil)
}

// ReplaceCertificate puts another certificate (DER) in the place of the one that is there.
func (c *Client) ReplaceCertificate(ctx context.Context, der []byte) error {
	return c.c.Call(ctx, http.MethodPut, "/certificate/replace", der, nil)
}

// RemoveCertificate takes the certificate out; it is no error when there is none.
func (c *Client) RemoveCertificate(ctx context.Context) error {
	return c.c.Call(ctx, http.MethodDelete, "/certificate", nil, nil)
}

// Reboot takes the TPM's power away and gives it back; orderly says whether it is told beforehand (TPM2_Shutdown).
func (c *Client) Reboot(ctx context.Context, orderly bool) error {
	path := "/reboot"
	if !orderly {
		path += "?orderly=false"
	}
	return c.c.Call(ctx, http.MethodPost, path, nil, nil)
}

// AwaitSafeClock returns when the TPM's clock is safe, and how long that took (tpmsim.TPM.AwaitSafeClock).
func (c *Client) AwaitSafeClock(ctx context.Context) (waited time.Duration, err error) {
	err = c.c.Call(ctx, http.MethodPost, "/await-safe-clock", nil, &waited)
	return waited, err
}
