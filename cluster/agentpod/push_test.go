package agentpod

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/keylime"
)

// The Rust push agent's options, as the manifests write them, and what is wrong with them, all at once.
func TestConfigurePush(t *testing.T) {
	dir := t.TempDir()
	pki, err := keylime.CreatePKI(filepath.Join(dir, "pki"), keylime.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "agent.conf")
	text := "[agent]\nuuid = \"hash_ek\"\ncontact_ip = \"a.example\"\ncontact_port = 443\nregistrar_ip = \"198.18.10.11\"\nregistrar_port = 8890\n" +
		"verifier_url = \"https://198.18.10.12:8881\"\nverifier_tls_ca_cert = \"" + pki.CACertFile() + "\"\nattestation_interval_seconds = 2\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{EnvConfig: file, EnvTPM: "/run/tpm.sock"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	o, err := readOptions(lookup)
	if err != nil {
		t.Fatal(err)
	}
	c, err := configurePush(o, lookup, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if c.Verifier != "198.18.10.12:8881" || c.Registrar != "198.18.10.11:8890" || c.ContactAddress != "a.example" || c.ContactPort != 443 || c.Interval != 2*time.Second || c.VerifierCA == nil {
		t.Errorf("%+v", c)
	}
	delete(env, EnvTPM)
	for name, value := range map[string]string{"verifier_url": "http://verifier", "verifier_tls_ca_cert": file, "attestation_interval_seconds": "never", "tpm_signing_alg": "ecdsa"} {
		o[name] = value
	}
	_, err = configurePush(o, lookup, slog.New(slog.DiscardHandler))
	for _, want := range []string{
		"KEYLAB_TPM_SOCKET is not set", `option verifier_url: "http://verifier" is not https://HOST:PORT`, "option verifier_tls_ca_cert: " + file + " holds no certificate",
		`option attestation_interval_seconds: "never" is no number of seconds`, `option tpm_signing_alg: this agent has no "ecdsa"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
