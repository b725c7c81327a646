package keylime

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// configured is a Keylime that is ready to be started.
func configured(t testing.TB, change func(*Config)) *Configured {
	t.Helper()
	dir := t.TempDir()
	pki, err := CreatePKI(filepath.Join(dir, "pki"), PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(dir, "keylime"), PKI: pki, Installation: installed(t), QuoteInterval: 300 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	kl, err := WriteConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return kl
}

// services starts registrar and verifier and waits until both answer. They end with the test, and their logs are shown if it fails.
func services(t testing.TB, change func(*Config)) *Configured {
	t.Helper()
	kl := configured(t, change)
	start := time.Now()
	for _, c := range []Command{kl.Registrar(), kl.Verifier()} {
		launch(t, c, filepath.Dir(kl.Dir))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, c := range []Command{kl.Registrar(), kl.Verifier()} {
		if err := c.Ready(ctx, nil); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s answers after %s", c.Name, time.Since(start).Round(time.Millisecond))
	}
	return kl
}

func launch(t testing.TB, c Command, dir string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log, err := os.Create(filepath.Join(dir, c.Name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := c.Exec(ctx)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of the %s:\n%s", c.Name, text)
		}
	})
	return cmd
}

func TestServicesAnswer(t *testing.T) {
	kl := services(t, nil)
	ctx := t.Context()

	v, err := kl.VerifierClient(nil).Version(ctx)
	if err != nil || v.Current != "2.6" {
		t.Errorf("verifier: version %+v, error %v", v, err)
	}
	if v, err := kl.RegistrarClient(nil).Version(ctx); err != nil || v.Current != "2.6" {
		t.Errorf("registrar: version %+v, error %v", v, err)
	}
	if ids, err := kl.RegistrarClient(nil).Agents(ctx); err != nil || len(ids) != 0 {
		t.Errorf("registrar: agents %v, error %v; want none", ids, err)
	}
	if all, err := kl.VerifierClient(nil).Agents(ctx); err != nil || len(all) != 0 {
		t.Errorf("verifier: agents %v, error %v; want none", all, err)
	}
	_, err = kl.VerifierClient(nil).Agent(ctx, "0123")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "agent id not found") {
		t.Errorf("verifier: unknown agent: %v; want ErrNotFound with the verifier's own words", err)
	}
	if _, err = kl.RegistrarClient(nil).Agent(ctx, "0123"); !errors.Is(err, ErrNotFound) {
		t.Errorf("registrar: unknown agent: %v; want ErrNotFound", err)
	}
	if err := kl.VerifierClient(nil).Reactivate(ctx, "0123"); !errors.Is(err, ErrNotFound) {
		t.Errorf("verifier: reactivate unknown agent: %v; want ErrNotFound", err)
	}
}

func TestOnlyAuthoritysClientsAreAdmitted(t *testing.T) {
	kl := services(t, nil)
	cert, key, err := AgentServerCertificate("", "intruder.example")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"no certificate": nil, "an agent's certificate": {pair}} {
		conf := kl.PKI.ClientTLS()
		conf.Certificates = certs
		if _, err := NewVerifierClient(kl.VerifierAddr, conf, nil).Agents(t.Context()); err == nil {
			t.Errorf("the verifier lists its agents to a client with %s", name)
		}
		if _, err := NewRegistrarClient(kl.RegistrarAddr, conf, nil).Agents(t.Context()); err == nil {
			t.Errorf("the registrar lists its agents to a client with %s", name)
		}
	}
}

func TestPushMode(t *testing.T) {
	kl := services(t, func(c *Config) { c.Mode, c.QuoteInterval = Push, 2*time.Second })
	if all, err := kl.VerifierClient(nil).Agents(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("agents %v, error %v; want none", all, err)
	}
}

func TestRSACertificates(t *testing.T) {
	kl := services(t, func(c *Config) {
		pki, err := CreatePKI(filepath.Join(t.TempDir(), "rsa"), PKIOptions{Algorithm: RSA2048})
		if err != nil {
			t.Fatal(err)
		}
		c.PKI = pki
	})
	if _, err := kl.RegistrarClient(nil).Agents(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestReadySaysWhatItWaitedFor(t *testing.T) {
	pki, err := CreatePKI(t.TempDir(), PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kl, err := WriteConfig(t.Context(), Config{Dir: t.TempDir(), PKI: pki, Installation: installed(t), VerifierPort: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = kl.Verifier().Ready(ctx, nil)
	for _, want := range []string{"verifier", "https://127.0.0.1:1/version", "connection refused"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want it to say %q", err, want)
		}
	}
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v; want both causes in its chain", err)
	}
}

// The command line tenant is the fallback for everything the enroller does not do.
func TestTenantCommand(t *testing.T) {
	kl := services(t, nil)
	cmd := kl.Tenant("-c", "cvlist").Exec(t.Context())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `{"uuids": []}`) {
		t.Errorf("keylime_tenant -c cvlist: %v\n%s", err, out)
	}
}
