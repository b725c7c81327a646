package agent

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Names of the EK algorithms an agent can use (TCG EK Credential Profile 2.5,
// appendix B: the "low range" templates L-1 and L-2).
const (
	EKRSA2048 = "rsa2048"
	EKECCP256 = "ecc-p256"
)

// Names of the AK signature schemes, as Keylime spells them in sign_alg.
const (
	AKRSASSA = "rsassa"
	AKRSAPSS = "rsapss"
	AKECDSA  = "ecdsa"
)

// Special values of Config.UUID.
const (
	UUIDHashEK   = "hash_ek"  // SHA-256 of the EK's public key in PEM
	UUIDGenerate = "generate" // random, kept in StateDir
)

// APIVersions lists the API versions that an agent can serve, oldest first. They
// are those of the Rust agent 0.2.9 and of the Keylime services 7.14.
func APIVersions() []string {
	return []string{"2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}
}

// Config tells New everything about one agent. OpenTPM, ContactAddress,
// ContactPort and, but for Push, ClientCAs are required; Registrar is needed by Register and
// Listener by Serve.
type Config struct {
	// UUID is the agent's identity: UUIDHashEK (also ""), UUIDGenerate, or a
	// UUID or other identifier the registrar accepts ([A-Za-z0-9_.-], at most 64).
	UUID string

	// OpenTPM opens one client of the TPM. It is called again when a connection
	// breaks, e.g. because the TPM was restarted. The TPM must have been started
	// up (TPM2_Startup): the agent, like the Rust one, does not do it.
	OpenTPM func(ctx context.Context) (transport.TPMCloser, error)

	// EKAlgorithm is EKRSA2048 (default) or EKECCP256.
	EKAlgorithm string
	// AKAlgorithm is AKRSASSA (default), AKRSAPSS (both RSA-2048) or AKECDSA
	// (P-256). Keylime's verifier accepts no ECDSA unless told so by
	// accept_tpm_signing_algs, and cannot check RSAPSS at all.
	AKAlgorithm string
	// HashAlgorithm names the PCR bank and the AK's digest: "sha256" (default),
	// "sha1", "sha384" or "sha512".
	HashAlgorithm string

	// APIVersions are the versions to serve, some of [APIVersions] in their order,
	// as the Rust agent's option api_versions. Default: all. Keylime's tenant
	// before 7.14 does not negotiate but takes the newest that an agent names, and
	// does not understand the answers of one that it does not know.
	APIVersions []string

	// StateDir keeps AK, keys and certificate over restarts. Private files are
	// 0600, the folder 0700. Empty: nothing is kept.
	StateDir string

	// ContactAddress (IP or host name) and ContactPort are what the registrar
	// tells verifier and tenant.
	ContactAddress string
	ContactPort    int
	// Hostnames are the DNS names and IP addresses in the server certificate,
	// besides the loopback names. Default: ContactAddress.
	Hostnames []string

	// ServerCertificate is served and registered as it is, its Leaf included. Default:
	// one of the agent's own making, kept in StateDir.
	ServerCertificate *tls.Certificate

	// Registrar is host:port of the registrar's plain HTTP listener (8890).
	Registrar string
	// ClientCAs are the authorities of verifier and tenant (Keylime's cv_ca).
	// A client without a certificate from them gets no HTTP answer at all.
	ClientCAs *x509.CertPool

	// Dial connects to the registrar. Default: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Listener is a plain stream listener; the agent speaks TLS on it.
	Listener net.Listener

	// PayloadKey is the RSA-2048 key for payload key halves. Default: from
	// StateDir, or generated (some 100 ms of CPU).
	PayloadKey *rsa.PrivateKey
	// OnPayload receives a decrypted payload, once per delivery, in the request
	// that completed it. It must not keep the caller long.
	OnPayload func(payload []byte)

	// SecureDir is where a decrypted payload is put, as the Rust agent does: below
	// it in PayloadDir, 0600. It should be on a tmpfs. Empty: nowhere.
	SecureDir string
	// ExtractPayload unpacks a payload, which must be a zip archive, beside itself,
	// and then runs PayloadScript, the name of a program in it; "" runs nothing.
	ExtractPayload bool
	PayloadScript  string
	// StartScript starts the payload's script, or a revocation action, where the agent's machine is, e.g. in
	// a network namespace. Default: cmd.Start.
	StartScript func(*exec.Cmd) error

	// OnRevocation receives each of the verifier's notices, checked or not, in the
	// request that brought it. It must not keep the caller long.
	OnRevocation func(Revocation)
	// RevocationActions are programs to run at each notice whose signature is right,
	// by their names in RevocationActionsDir (or in the payload, if PayloadActions), as
	// the Rust agent's options revocation_actions and revocation_actions_dir. They have
	// the agent's rights, and a file of the notice's message as their argument.
	RevocationActions    []string
	RevocationActionsDir string
	// PayloadActions has those run too that the payload's file ActionList names, of
	// the payload itself (the Rust agent's option allow_payload_revocation_actions,
	// which is true by default). They are found in an archive that ExtractPayload unpacks.
	PayloadActions bool
	// OnActions receives how the actions of a notice ended, when the last one has.
	OnActions func(Revocation, []ActionRun)

	// IMAList opens the IMA measurement list (ASCII). Nil: no list is sent.
	IMAList func() (io.ReadCloser, error)
	// MeasuredBootLog returns the binary UEFI event log, sent with quotes that
	// cover PCR 0. Nil: no log is sent.
	MeasuredBootLog func() ([]byte, error)

	// Push makes an agent for Keylime's push model, as package push drives it: it has
	// no server, no payload key and no certificate, and registers mtls_cert
	// "disabled". ClientCAs and what only Serve uses are not needed then.
	Push bool

	// RequestTimeout bounds one HTTP request, served or sent. Default 30 s.
	RequestTimeout time.Duration
	// RetryDelay is the first pause of Register before it tries again; pauses
	// double up to RetryMaxDelay. Defaults 200 ms and 5 s.
	RetryDelay    time.Duration
	RetryMaxDelay time.Duration

	// Logger receives the agent's log; nil discards it.
	Logger *slog.Logger
	// OnAccess is called after each served request, concurrently.
	OnAccess func(Access)
}

// identifier is what Keylime's valid_agent_id admits, ASCII only, and no longer
// than the common name of a certificate may be (RFC 5280, ub-common-name).
var identifier = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// hashAlgorithms maps Keylime's names to TPM algorithms.
var hashAlgorithms = map[string]tpm2.TPMAlgID{
	"sha1":   tpm2.TPMAlgSHA1,
	"sha256": tpm2.TPMAlgSHA256,
	"sha384": tpm2.TPMAlgSHA384,
	"sha512": tpm2.TPMAlgSHA512,
}

// withDefaults returns a copy with defaults filled in, or an error naming every
// field that cannot be used.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.UUID, UUIDHashEK)
	setDefault(&c.EKAlgorithm, EKRSA2048)
	setDefault(&c.AKAlgorithm, AKRSASSA)
	setDefault(&c.HashAlgorithm, "sha256")
	setDefault(&c.RequestTimeout, 30*time.Second)
	setDefault(&c.RetryDelay, 200*time.Millisecond)
	setDefault(&c.RetryMaxDelay, 5*time.Second)
	if len(c.APIVersions) == 0 {
		c.APIVersions = APIVersions()
	}
	if len(c.Hostnames) == 0 && c.ContactAddress != "" {
		c.Hostnames = []string{c.ContactAddress}
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.StartScript == nil {
		c.StartScript = (*exec.Cmd).Start
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}

	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf(format, args...))
	}
	if c.OpenTPM == nil {
		report("OpenTPM is not set")
	}
	if c.ClientCAs == nil && !c.Push {
		report("ClientCAs is not set: without a client CA (cv_ca) nobody could be authenticated")
	}
	if c.ContactAddress == "" {
		report("ContactAddress is not set")
	}
	if c.ContactPort < 1 || c.ContactPort > 65535 {
		report("ContactPort %d is not a port (1-65535)", c.ContactPort)
	}
	if !identifier.MatchString(c.UUID) {
		report("UUID %q: want %q, %q or an identifier of 1 to 64 letters, digits, '.', '_' and '-'", c.UUID, UUIDHashEK, UUIDGenerate)
	}
	if c.EKAlgorithm != EKRSA2048 && c.EKAlgorithm != EKECCP256 {
		report("EKAlgorithm %q: want %q or %q", c.EKAlgorithm, EKRSA2048, EKECCP256)
	}
	switch c.AKAlgorithm {
	case AKRSASSA, AKRSAPSS, AKECDSA:
	default:
		report("AKAlgorithm %q: want %q, %q or %q", c.AKAlgorithm, AKRSASSA, AKRSAPSS, AKECDSA)
	}
	if _, ok := hashAlgorithms[c.HashAlgorithm]; !ok {
		report("HashAlgorithm %q: want sha1, sha256, sha384 or sha512", c.HashAlgorithm)
	}
	for _, version := range c.APIVersions {
		if !slices.Contains(APIVersions(), version) {
			report("APIVersions: %q is none of %s", version, strings.Join(APIVersions(), ", "))
		}
	}
	if !slices.IsSorted(c.APIVersions) { // one digit each
		report("APIVersions %s: want the oldest first", strings.Join(c.APIVersions, ", "))
	}
	for _, name := range append([]string{c.ContactAddress}, c.Hostnames...) {
		if err := checkHostname(name); err != nil {
			problems = append(problems, err)
		}
	}
	if c.PayloadScript != "" && !filepath.IsLocal(c.PayloadScript) {
		report("PayloadScript %q is not a path inside of the payload", c.PayloadScript)
	}
	if c.PayloadKey != nil && c.PayloadKey.N.BitLen() != 2048 {
		report("PayloadKey has %d bits: Keylime encrypts payload keys to RSA-2048 only", c.PayloadKey.N.BitLen())
	}
	if len(problems) > 0 {
		return c, fmt.Errorf("agent configuration: %w", errors.Join(problems...))
	}
	return c, nil
}

// setDefault gives *v the value def if it has its zero value.
func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// checkHostname refuses names with a label over 63 octets (RFC 1035 section
// 2.3.4): a 64-digit UUID as one label resolves nowhere and must be split.
func checkHostname(name string) error {
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > 63 {
			return fmt.Errorf("host name %q: label %q has %d characters, DNS allows 63 (split a 64-digit UUID in two labels)", name, label, len(label))
		}
	}
	return nil
}
