// Package noticerole is what runs as the main process of the tenant's container where the verifier tells a receiver of agents that it no longer trusts: that
// receiver.
package noticerole

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/netroles"
)

// Config is what the receiver must know.
type Config struct {
	Lab      string         `json:"lab"`
	PKI      string         `json:"pki"`      // folder of Keylime's authority
	Listen   netip.AddrPort `json:"listen"`   // where the verifier posts
	Notifier string         `json:"notifier"` // the certificate by which the verifier's word is checked; it may come later
}

// Run is the main process of the container.
func Run(ctx context.Context, configPath string) error {
	data, err := os.ReadFile(configPath)
	if err != nil {
		return fmt.Errorf("read the receiver's configuration: %w", err)
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("read the receiver's configuration %s: %w", configPath, err)
	}
	pki, err := keylime.OpenPKI(c.PKI)
	if err != nil {
		return err
	}
	notices := &fleet.Notices{}
	server, err := fleet.NoticeServer(pki, c.Lab, c.Listen.Addr(), c.Notifier, notices.Add)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen.String())
	if err != nil {
		return fmt.Errorf("listen for notices: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer server.Close()
	go func() {
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			cancel(fmt.Errorf("the receiver of notices ended: %w", err))
		}
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notices", netroles.Answer(func(*http.Request) (any, error) { return notices.List(), nil }))
	if err := netroles.HoldPlace(ctx, mux); err != nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// Notices asks the main process, whose control socket dial reaches, for what the verifier has told.
func Notices(ctx context.Context, dial func(context.Context) (net.Conn, error)) (list []control.Notice, err error) {
	c := netroles.NewClient(dial)
	err = c.Call(ctx, http.MethodGet, "/notices", nil, &list)
	return list, err
}
