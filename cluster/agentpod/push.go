package agentpod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/agent/push"
	"keylab.dev/keylab/ima"
)

// runPush is the agent of a pod in the push model: it registers, and sends its evidence until ctx ends.
func runPush(ctx context.Context, o options, log *slog.Logger) error {
	config, err := configurePush(o, os.LookupEnv, log)
	if err != nil {
		return err
	}
	a, err := push.New(ctx, config)
	if err != nil {
		return err
	}
	defer a.Close()
	log.Info("agent", "uuid", a.UUID(), "verifier", config.Verifier)
	if err := a.Register(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return a.Run(ctx)
}

// configurePush translates the options of the Rust push agent. All that is wrong is in the error.
func configurePush(o options, env func(string) (string, bool), log *slog.Logger) (push.Config, error) {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	contactPort, err := o.port("contact_port", 9002)
	note(err)
	registrarPort, err := o.port("registrar_port", 8890)
	note(err)
	ek, err := o.oneOf("tpm_encryption_alg", "rsa", ekAlgorithms)
	note(err)
	_, err = o.oneOf("tpm_signing_alg", "rsassa", map[string]string{"rsassa": agent.AKRSASSA})
	note(err)
	cas, err := readCAs("verifier_tls_ca_cert", o.text("verifier_tls_ca_cert", ""))
	note(err)
	verifier, err := url.Parse(o.text("verifier_url", ""))
	if err == nil && (verifier.Scheme != "https" || verifier.Port() == "") {
		err = fmt.Errorf("%q is not https://HOST:PORT", verifier)
	}
	if err != nil {
		note(fmt.Errorf("option verifier_url: %w", err))
		verifier = &url.URL{}
	}
	interval, err := strconv.Atoi(o.text("attestation_interval_seconds", "60"))
	if err != nil || interval < 1 {
		note(fmt.Errorf("option attestation_interval_seconds: %q is no number of seconds", o["attestation_interval_seconds"]))
	}
	openTPM, err := tpmFrom(env)
	note(err)
	if len(errs) > 0 {
		return push.Config{}, fmt.Errorf("the agent's configuration: %w", errors.Join(errs...))
	}
	c := push.Config{
		UUID:           o.text("uuid", agent.UUIDHashEK),
		OpenTPM:        openTPM,
		EKAlgorithm:    ek,
		StateDir:       o.text("keylime_dir", "/var/lib/keylime"),
		ContactAddress: o.text("contact_ip", "127.0.0.1"), ContactPort: contactPort,
		Registrar: net.JoinHostPort(o.text("registrar_ip", "127.0.0.1"), strconv.Itoa(registrarPort)),
		Verifier:  verifier.Host, VerifierCA: cas,
		Interval: time.Duration(interval) * time.Second,
		Logger:   log,
		OnAttestation: func(a push.Attestation) {
			log.Info("attestation", "verdict", a.Verdict, "index", a.Index, "challenge", a.Challenge, "error", a.Err)
		},
	}
	if path := o.text("ima_ml_path", ""); path != "" {
		c.IMA = listFrom(path)
		// The machine's own start is not the node's. With the node this program starts again, and then the list may have begun anew.
		started := time.Now()
		c.BootTime = func() time.Time { return started }
	}
	if path := o.text("measuredboot_ml_path", ""); path != "" {
		c.BootLog = func() ([]byte, error) { return os.ReadFile(path) }
	}
	return c, nil
}

// listFrom reads a node's IMA list from an entry on.
func listFrom(path string) func(from int) (text string, total int, err error) {
	return func(from int) (string, int, error) {
		list, err := os.ReadFile(path)
		if err != nil {
			return "", 0, fmt.Errorf("read the IMA list: %w", err)
		}
		text, total := ima.From(string(list), from)
		return text, total, nil
	}
}
