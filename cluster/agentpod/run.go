package agentpod

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/tpmsim"
)

// EnvTPM names the socket of the TPM; the device plugin sets it. Without it EnvTCTI says where the TPM is, as for the Rust agent.
const (
	EnvTPM  = "KEYLAB_TPM_SOCKET"
	EnvTCTI = "TCTI"
)

// Run is the agent of a pod: it registers, trying again as long as it takes, and serves. It listens only once it is registered, so that a pod
// which is ready is one that the verifier may ask. It ends with ctx.
func Run(ctx context.Context, log *slog.Logger) error {
	o, err := readOptions(os.LookupEnv)
	if err != nil {
		return err
	}
	if o.text("verifier_url", "") != "" {
		return runPush(ctx, o, log)
	}
	config, address, err := configure(os.LookupEnv, log)
	if err != nil {
		return err
	}
	listener := &lateListener{address: address, ready: make(chan struct{})}
	config.Listener = listener
	a, err := agent.New(ctx, config)
	if err != nil {
		return err
	}
	defer a.Close()
	log.Info("agent", "uuid", a.UUID(), "contact", config.ContactAddress)
	if err := a.Register(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := listener.open(ctx); err != nil {
		return err
	}
	log.Info("registered and listening", "address", address)
	if err := a.Serve(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// configure translates the Rust agent's options. All that is wrong is in the error.
func configure(env func(string) (string, bool), log *slog.Logger) (agent.Config, string, error) {
	o, err := readOptions(env)
	if err != nil {
		return agent.Config{}, "", err
	}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	port, err := o.port("port", 9002)
	note(err)
	contactPort, err := o.port("contact_port", 9002)
	note(err)
	registrarPort, err := o.port("registrar_port", 8890)
	note(err)
	ek, err := o.oneOf("tpm_encryption_alg", "rsa", ekAlgorithms)
	note(err)
	ak, err := o.oneOf("tpm_signing_alg", "rsassa", map[string]string{"rsassa": agent.AKRSASSA, "ecdsa": agent.AKECDSA, "rsapss": agent.AKRSAPSS})
	note(err)
	hash, err := o.oneOf("tpm_hash_alg", "sha256", map[string]string{"sha256": "sha256", "sha384": "sha384", "sha512": "sha512", "sha1": "sha1"})
	note(err)
	extract, err := strconv.ParseBool(o.text("extract_payload_zip", "true"))
	if err != nil {
		note(fmt.Errorf("option extract_payload_zip: %w", err))
	}
	script, given := o["payload_script"] // "" is none, not the default
	if !given {
		script = "autorun.sh"
	}
	allow, err := strconv.ParseBool(o.text("allow_payload_revocation_actions", "true"))
	if err != nil {
		note(fmt.Errorf("option allow_payload_revocation_actions: %w", err))
	}
	actions, err := agent.ParseActions(o.text("revocation_actions", ""))
	if err != nil {
		note(fmt.Errorf("option revocation_actions: %w", err))
	}
	cas, err := readCAs("trusted_client_ca", o.text("trusted_client_ca", ""))
	note(err)
	server, err := serverCertificate(o.text("server_cert", ""), o.text("server_key", ""))
	note(err)
	openTPM, err := tpmFrom(env)
	note(err)
	if len(errs) > 0 {
		return agent.Config{}, "", fmt.Errorf("the agent's configuration: %w", errors.Join(errs...))
	}
	c := agent.Config{
		UUID:        o.text("uuid", agent.UUIDHashEK),
		OpenTPM:     openTPM,
		EKAlgorithm: ek, AKAlgorithm: ak, HashAlgorithm: hash, APIVersions: o.apiVersions("api_versions"),
		StateDir:       o.text("keylime_dir", "/var/lib/keylime"),
		SecureDir:      filepath.Join(o.text("keylime_dir", "/var/lib/keylime"), "secure"),
		ExtractPayload: extract, PayloadScript: script,
		RevocationActions: actions, RevocationActionsDir: o.text("revocation_actions_dir", "/usr/libexec/keylime"), PayloadActions: allow,
		ContactAddress: o.text("contact_ip", "127.0.0.1"), ContactPort: contactPort,
		ServerCertificate: server, ClientCAs: cas,
		Registrar: net.JoinHostPort(o.text("registrar_ip", "127.0.0.1"), strconv.Itoa(registrarPort)),
		Logger:    log,
		OnAccess: func(x agent.Access) {
			log.Info("request", "remote", x.Remote, "method", x.Method, "path", x.Path, "nonce", x.Nonce, "status", x.Status, "name", x.ServerName)
		},
	}
	notes := &notebook{dir: c.StateDir}
	c.OnRevocation = func(r agent.Revocation) {
		if err := notes.note(time.Now(), r); err != nil {
			log.Warn("a revocation notice", "error", err)
		}
	}
	c.OnActions = func(r agent.Revocation, runs []agent.ActionRun) {
		if err := notes.noteActions(time.Now(), r, runs); err != nil {
			log.Warn("the actions of a revocation notice", "error", err)
		}
	}
	if path := o.text("ima_ml_path", ""); path != "" {
		c.IMAList = func() (io.ReadCloser, error) { return os.Open(path) }
	}
	if path := o.text("measuredboot_ml_path", ""); path != "" {
		c.MeasuredBootLog = func() ([]byte, error) { return os.ReadFile(path) }
	}
	return c, net.JoinHostPort(o.text("ip", "0.0.0.0"), strconv.Itoa(port)), nil
}

// tpmFrom is how the agent gets to its TPM.
func tpmFrom(env func(string) (string, bool)) (func(ctx context.Context) (transport.TPMCloser, error), error) {
	if socket, _ := env(EnvTPM); socket != "" {
		return func(ctx context.Context) (transport.TPMCloser, error) { return tpmsim.Dial(ctx, socket) }, nil
	}
	tcti, _ := env(EnvTCTI)
	if tcti == "" {
		return nil, errNoTPM
	}
	if err := tpmsim.CheckTCTI(tcti); err != nil {
		return nil, fmt.Errorf("%s: %w", EnvTCTI, err)
	}
	return func(ctx context.Context) (transport.TPMCloser, error) { return tpmsim.DialTCTI(ctx, tcti) }, nil
}

var errNoTPM = fmt.Errorf("%s is not set: the pod has no TPM; its container must ask for the resource keylab.dev/tpm", EnvTPM)

// readCAs reads the certificates that an option names, without which nobody on the other side could be trusted.
func readCAs(option, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, fmt.Errorf("option %s: it is not set; without it nobody could be trusted", option)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("option %s: %w", option, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("option %s: %s holds no certificate", option, path)
	}
	return pool, nil
}

// serverCertificate reads the agent's certificate; without one it makes its own.
func serverCertificate(cert, key string) (*tls.Certificate, error) {
	if cert == "" && key == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("options server_cert and server_key: %w", err)
	}
	return &pair, nil
}

// lateListener listens only when it is told to.
type lateListener struct {
	address string
	ready   chan struct{}
	net.Listener
}

func (l *lateListener) open(ctx context.Context) error {
	inner, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.address)
	if err != nil {
		return fmt.Errorf("the agent's port: %w", err)
	}
	l.Listener = inner
	close(l.ready)
	return nil
}

// Close implements net.Listener; it may be called before the port is open.
func (l *lateListener) Close() error {
	select {
	case <-l.ready:
		return l.Listener.Close()
	default:
		return nil
	}
}

// Addr implements net.Listener.
func (l *lateListener) Addr() net.Addr {
	select {
	case <-l.ready:
		return l.Listener.Addr()
	default:
		return &net.TCPAddr{}
	}
}
