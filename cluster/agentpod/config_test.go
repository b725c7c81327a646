package agentpod

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
)

// files writes the files of an agent: the configuration, a CA and a server certificate.
func files(t *testing.T, config string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cert, key, err := keylime.AgentServerCertificate(keylime.RSA2048, "a.agents.test")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"agent.conf": strings.ReplaceAll(config, "DIR", dir), "ca.crt": string(cert), "cert.pem": string(cert), "key.pem": string(key)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// The Rust agent's file is understood, options of its own included, and the environment goes over it.
func TestConfigure(t *testing.T) {
	dir := files(t, `[agent]
version = "2.4"
uuid = "hash_ek"
ip = "0.0.0.0"
port = 9102
contact_ip = "a.agents.test"
contact_port = 443
registrar_ip = "198.18.10.11"
registrar_port = "8890"
trusted_client_ca = "DIR/ca.crt"
server_cert = "DIR/cert.pem"
server_key = "DIR/key.pem"
keylime_dir = "DIR"
tpm_encryption_alg = "ecc256"
tpm_signing_alg = "ecdsa"
tpm_hash_alg = "default"
enable_revocation_notifications = false
`)
	c, address, err := configure(environment(map[string]string{
		EnvConfig: filepath.Join(dir, "agent.conf"), EnvTPM: "/run/keylab-tpm/tpm.sock", "KEYLIME_AGENT_CONTACT_PORT": "8443",
	}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if address != "0.0.0.0:9102" || c.UUID != agent.UUIDHashEK || c.ContactAddress != "a.agents.test" || c.ContactPort != 8443 || c.Registrar != "198.18.10.11:8890" {
		t.Errorf("address %s, configuration %+v", address, c)
	}
	if c.EKAlgorithm != agent.EKECCP256 || c.AKAlgorithm != agent.AKECDSA || c.HashAlgorithm != "sha256" || c.StateDir != dir {
		t.Errorf("algorithms %s %s %s, state %s", c.EKAlgorithm, c.AKAlgorithm, c.HashAlgorithm, c.StateDir)
	}
	if c.ServerCertificate == nil || c.ServerCertificate.Leaf.VerifyHostname("a.agents.test") != nil || c.ClientCAs == nil {
		t.Error("certificates are missing")
	}
}

// All that is wrong is said at once.
func TestConfigureRefuses(t *testing.T) {
	dir := files(t, "[agent]\nport = 0\ntpm_signing_alg = \"sm2\"\ntrusted_client_ca = \"DIR/nowhere\"\nserver_cert = \"DIR/cert.pem\"\n")
	_, _, err := configure(environment(map[string]string{EnvConfig: filepath.Join(dir, "agent.conf")}), nil)
	if err == nil {
		t.Fatal("it is accepted")
	}
	for _, want := range []string{`option port: "0" is not a port`, `tpm_signing_alg: this agent has no "sm2"`, "trusted_client_ca: open ", "server_cert and server_key", "keylab.dev/tpm"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	if _, _, err := configure(environment(map[string]string{EnvConfig: "/nowhere/agent.conf"}), nil); err == nil || !strings.Contains(err.Error(), "/nowhere/agent.conf") {
		t.Errorf("a file that is not there: %v", err)
	}
}
