package agent

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"
)

// Register makes the agent known to the registrar and proves that EK and AK are
// in one TPM. It tries again, pausing longer each time, while the registrar is
// unreachable, cuts the connection or answers with a transient status, until ctx
// ends. It returns at once with an error matching ErrRegistrarRefused,
// ErrRegistrarAnswer or ErrAPIVersion, or with one of the TPM's.
//
// An agent may register again at any time; the registrar then wants the same EK,
// EK certificate and AK.
func (a *Agent) Register(ctx context.Context) error {
	if a.cfg.Registrar == "" {
		return errors.New("agent configuration: Registrar is not set, nowhere to register")
	}
	client := a.registrarClient()
	defer client.close()
	pause := a.cfg.RetryDelay
	for attempt := 1; ; attempt++ {
		err := a.registerOnce(ctx, client)
		if err == nil {
			a.settle(ctx)
			a.log.Info("registered", "registrar", a.cfg.Registrar, "attempt", attempt)
			return nil
		}
		err = fmt.Errorf("registering agent %s: %w", a.uuid, err)
		if !transient(err) {
			return err
		}
		if ctx.Err() == nil {
			a.log.Debug("registration will be tried again", "error", err, "pause", pause)
		}
		if stopped := wait(ctx, pause); stopped != nil {
			return fmt.Errorf("%w (gave up after %d attempts: %w)", err, attempt, stopped)
		}
		pause = min(2*pause, a.cfg.RetryMaxDelay)
	}
}

func (a *Agent) registerOnce(ctx context.Context, client *registrarClient) error {
	version, err := client.apiVersion(ctx)
	if err != nil {
		return err
	}
	blob, err := client.register(ctx, version, a.uuid, a.registration())
	if err != nil {
		return err
	}
	idObject, encrypted, err := parseCredential(blob)
	if err != nil {
		return err
	}
	secret, err := a.activate(ctx, idObject, encrypted)
	if err != nil {
		return err
	}
	// Keylime keys the HMAC with the base64 text of the secret, not its bytes.
	key := base64.StdEncoding.EncodeToString(secret)
	return client.activate(ctx, version, a.uuid, hex.EncodeToString(hmacSHA384([]byte(key), a.uuid)))
}

// transient names the failures that mend themselves when the registrar comes up
// or is less busy.
func transient(err error) bool {
	if errors.Is(err, ErrTPM) {
		return false
	}
	var refused *RegistrarError
	if errors.As(err, &refused) {
		return transientStatus(refused.Status)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsTemporary || dns.IsTimeout
	}
	for _, known := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT, io.EOF, io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// wait pauses for about d, a fifth more or less so that a fleet's agents spread
// out, or returns why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
