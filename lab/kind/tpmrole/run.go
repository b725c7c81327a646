package tpmrole

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/tpmsim"
)

// Config is what the TPM must know.
type Config struct {
	Name               string `json:"name"`
	Dir                string `json:"dir"`        // its state
	SocketDir          string `json:"socket_dir"` // where it is served
	Algorithm          string `json:"algorithm"`  // of the EK, as tpmsim names it
	Seed               string `json:"seed,omitempty"`
	WithoutCertificate bool   `json:"without_certificate,omitempty"`

	Lab          string             `json:"lab"`            // what the node measures depends on the lab's name
	MeasuredDir  string             `json:"measured_dir"`   // for what is to outlast this container of what the node measures
	IMA          *plan.IMA          `json:"ima,omitempty"`  // nil: the kernel measures nothing
	MeasuredBoot *plan.MeasuredBoot `json:"boot,omitempty"` // nil: the firmware measures nothing
}

// The sockets in SocketDir.
const (
	SocketTPM   = "tpm.sock"        // raw commands; each connection is a client of its own
	SocketSwtpm = "swtpm.sock"      // swtpm's data channel
	SocketCtrl  = "swtpm-ctrl.sock" // swtpm's control channel
)

// Identity is the TPM's EK and what NV memory holds of it.
type Identity struct {
	Algorithm   string `json:"algorithm"`
	EKSPKI      []byte `json:"ek_spki"`     // DER SubjectPublicKeyInfo
	EKPublic    []byte `json:"ek_public"`   // TPM2B_PUBLIC
	Certificate []byte `json:"certificate"` // DER; empty: there is none
}

// closeTimeout bounds the TPM's orderly end: a container that is stopped is killed soon after.
const closeTimeout = 4 * time.Second

// server is the running TPM.
type server struct {
	config   Config
	mu       sync.Mutex // one change at a time
	tpm      *tpmsim.TPM
	measured *measure.Node
}

// Run is the main process of a TPM's container. When ctx ends the TPM is shut down in order, so that its clock stays safe.
func Run(ctx context.Context, configPath string) error {
	data, err := os.ReadFile(configPath)
	if err != nil {
		return fmt.Errorf("read the TPM's configuration: %w", err)
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("read the TPM's configuration %s: %w", configPath, err)
	}
	return run(ctx, c, netroles.ControlSocket)
}

func run(ctx context.Context, c Config, control string) (err error) {
	options := tpmsim.Options{Name: c.Name, Dir: c.Dir, Backend: tpmsim.Swtpm(), Log: os.Stderr}
	if c.Seed != "" {
		if options.Seed, err = hex.DecodeString(c.Seed); err != nil {
			return fmt.Errorf("the TPM's seed: %w", err)
		}
	}
	tpm, err := tpmsim.Open(ctx, options)
	if err != nil {
		return err
	}
	s := &server{config: c, tpm: tpm}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, tpm.Close(ctx))
	}()
	// The EK is made now; its certificate comes from whoever is the TPM's maker.
	if _, err := s.manufacture(ctx, nil); err != nil && !errors.Is(err, errNoCertificate) {
		return err
	}
	// The node is switched on with its TPM, and nobody else has that before.
	if err := s.measure(); err != nil {
		return err
	}
	if err := s.measured.Boot(ctx); err != nil {
		return fmt.Errorf("boot %s: %w", c.Name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel(nil)
	if err := s.serve(ctx, &serving, cancel); err != nil {
		return err
	}
	go func() {
		select {
		case <-tpm.Done(): // swtpm died: the container must not look as if it ran
			cancel(fmt.Errorf("the TPM ended: %w", tpm.Err()))
		case <-ctx.Done():
		}
	}()
	if err := netroles.ServeControl(ctx, control, s.mux()); err != nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// serve offers the TPM on the sockets.
func (s *server) serve(ctx context.Context, serving *sync.WaitGroup, cancel context.CancelCauseFunc) error {
	var listeners []net.Listener
	for _, name := range []string{SocketTPM, SocketSwtpm, SocketCtrl} {
		l, err := listen(filepath.Join(s.config.SocketDir, name))
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	serving.Go(func() {
		if err := s.tpm.ServeClients(ctx, listeners[0]); err != nil {
			cancel(err)
		}
	})
	serving.Go(func() {
		if err := s.tpm.ServeTCTI(ctx, listeners[1], listeners[2]); err != nil {
			cancel(err)
		}
	})
	return nil
}

// listen makes a socket that every user of a pod may use: who gets to see the folder decides who has the TPM. One that an earlier run left is
// replaced.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the TPM's socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the TPM's socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("the TPM's socket: %w", err)
	}
	return l, nil
}

// errNoCertificate interrupts a manufacture before the certificate, which tpmsim lets be repeated.
var errNoCertificate = errors.New("the EK certificate is not there yet")

func (s *server) manufacture(ctx context.Context, certificate []byte) (*tpmsim.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tpm.Manufacture(ctx, tpmsim.ManufactureOptions{
		Algorithm: tpmsim.Algorithm(s.config.Algorithm), WithoutCertificate: s.config.WithoutCertificate,
		Certificate: func(crypto.PublicKey, tpmsim.Algorithm) ([]byte, error) {
			if certificate == nil {
				return nil, errNoCertificate
			}
			return certificate, nil
		},
	})
}

func (s *server) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /identity", netroles.Answer(func(r *http.Request) (any, error) { return s.identity(r.Context()) }))
	mux.HandleFunc("PUT /certificate", netroles.Answer(func(r *http.Request) (any, error) {
		var der []byte
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&der); err != nil {
			return nil, fmt.Errorf("read the certificate: %w", err)
		}
		if _, err := s.manufacture(r.Context(), der); err != nil {
			return nil, err
		}
		return s.identity(r.Context())
	}))
	mux.HandleFunc("PUT /certificate/replace", netroles.Answer(func(r *http.Request) (any, error) {
		var der []byte
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&der); err != nil {
			return nil, fmt.Errorf("read the certificate: %w", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return "done", s.tpm.ReplaceEKCertificate(r.Context(), der)
	}))
	mux.HandleFunc("DELETE /certificate", netroles.Answer(func(r *http.Request) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return "done", s.tpm.RemoveEKCertificate(r.Context())
	}))
	mux.HandleFunc("POST /reboot", netroles.Answer(func(r *http.Request) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		restart := s.tpm.Reboot
		if r.URL.Query().Get("orderly") == "false" {
			restart = s.tpm.Crash
		}
		if err := restart(r.Context()); err != nil {
			return nil, err
		}
		return "done", s.measured.Boot(r.Context())
	}))
	s.measurements(mux)
	mux.HandleFunc("POST /await-safe-clock", netroles.Answer(func(r *http.Request) (any, error) { return s.tpm.AwaitSafeClock(r.Context()) }))
	return mux
}

func (s *server) identity(ctx context.Context) (Identity, error) {
	id, err := s.tpm.Identity(ctx)
	if err != nil {
		return Identity{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(id.Public)
	if err != nil {
		return Identity{}, fmt.Errorf("encode the EK: %w", err)
	}
	return Identity{string(id.Algorithm), spki, id.TPM2BPublic, id.Certificate}, nil
}
