package push

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
)

// Config tells New everything about one agent. OpenTPM, Verifier and VerifierCA
// are required; Registrar is needed by Register.
type Config struct {
	// UUID is the agent's identity, as in agent.Config: "hash_ek" (also ""),
	// "generate", or an identifier of 1 to 64 of [A-Za-z0-9_.-].
	UUID string
	// OpenTPM opens one client of the TPM, as in agent.Config.
	OpenTPM func(ctx context.Context) (transport.TPMCloser, error)
	// EKAlgorithm is agent.EKRSA2048 (default) or agent.EKECCP256. The AK is always
	// RSA-2048 with RSASSA and SHA-256: the verifier accepts no other proof.
	EKAlgorithm string
	// StateDir keeps identity and AK over restarts. Empty: nothing is kept.
	StateDir string

	// Registrar is host:port of the registrar's plain HTTP listener (8890).
	Registrar string
	// ContactAddress and ContactPort are registered and shown by the registrar; nobody
	// connects there. Default 127.0.0.1 and 9002, as the Rust agent has it.
	ContactAddress string
	ContactPort    int

	// Verifier is host:port of the verifier (8881). The host, a name or an address,
	// must be in the verifier's certificate, which VerifierCA must have issued.
	Verifier   string
	VerifierCA *x509.CertPool
	// Dial connects to registrar and verifier. Default: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Interval is the pause after accepted evidence if the verifier names none.
	// Default 60 s.
	Interval time.Duration
	// RetryDelay is the first pause after a failure and the shortest of all pauses;
	// pauses double up to RetryMaxDelay. Defaults 200 ms and 10 s: an agent that is
	// not enrolled stays below the 15 sessions a minute that Keylime allows it
	// (session_create_rate_limit_per_agent).
	RetryDelay    time.Duration
	RetryMaxDelay time.Duration
	// RequestTimeout bounds one HTTP request with its answer. Default 30 s.
	RequestTimeout time.Duration

	// IMA returns the IMA measurement list (ASCII, a line for each entry) from entry
	// number from on, 0 being the first, and how many entries there are in all. For a
	// from not below the total the text is empty. Nil: the agent has no such list.
	IMA func(from int) (text string, total int, err error)
	// BootLog returns the binary UEFI event log (TCG PC Client Platform Firmware
	// Profile, section 10). Nil: the agent has none.
	BootLog func() ([]byte, error)
	// BootTime says when the system last started. It must not go back, and must go on
	// when the IMA list begins anew: the verifier then wants the list from its start.
	// Whole seconds are sent. Default: when this machine started.
	BootTime func() time.Time

	// Logger receives the agent's log; nil discards it.
	Logger *slog.Logger
	// OnAttestation is called after each attempt to attest, from Run; it must not
	// keep the caller long.
	OnAttestation func(Attestation)
}

// setDefault gives *v the value def if it has its zero value.
func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// withDefaults returns a copy with defaults filled in, or an error naming every
// field that cannot be used. Those of package agent are left to it.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.ContactAddress, "127.0.0.1")
	setDefault(&c.ContactPort, 9002)
	setDefault(&c.Interval, time.Minute)
	setDefault(&c.RetryDelay, 200*time.Millisecond)
	setDefault(&c.RetryMaxDelay, 10*time.Second)
	setDefault(&c.RequestTimeout, 30*time.Second)
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var problems []error
	report := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if host, port, err := net.SplitHostPort(c.Verifier); err != nil {
		report("Verifier %q: want host:port: %w", c.Verifier, err)
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		report("Verifier %q: want host:port with a port of 1-65535", c.Verifier)
	}
	if c.VerifierCA == nil {
		report("VerifierCA is not set: without it no verifier could be trusted")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", c.Interval}, {"RetryDelay", c.RetryDelay}, {"RetryMaxDelay", c.RetryMaxDelay}, {"RequestTimeout", c.RequestTimeout}} {
		if d.value < 0 {
			report("%s %s is negative", d.name, d.value)
		}
	}
	if c.BootTime == nil {
		boot, err := machineBootTime()
		if err != nil {
			report("BootTime is not set: %w", err)
		}
		c.BootTime = func() time.Time { return boot }
	}
	if len(problems) > 0 {
		return c, fmt.Errorf("push agent configuration: %w", errors.Join(problems...))
	}
	return c, nil
}

// machineBootTime is the btime of /proc/stat (proc_stat(5)), in whole seconds.
func machineBootTime() (time.Time, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when the machine started: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, len(data)+1) // the line of interrupts is long
	for lines.Scan() {
		if value, ok := bytes.CutPrefix(lines.Bytes(), []byte("btime ")); ok {
			seconds, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("btime in /proc/stat: %w", err)
			}
			return time.Unix(seconds, 0).UTC(), nil
		}
	}
	return time.Time{}, errors.New("/proc/stat has no btime")
}
