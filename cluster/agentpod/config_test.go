package agentpod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/agent"
)

// environment is one that configure sees: the file's text, and variables.
func environment(t *testing.T, file string, variables map[string]string) func(string) (string, bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.conf")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{EnvConfig: path, EnvTPM: "/run/keylab-tpm/tpm.sock"}
	for k, v := range variables {
		all[k] = v
	}
	return func(name string) (string, bool) { v, ok := all[name]; return v, ok }
}

func caFile(t *testing.T) string {
	t.Helper()
	return newAuthority(t).file(t)
}

// The file is one of the Rust agent's, with options that mean nothing here; the environment overrules it.
func TestConfigure(t *testing.T) {
	ca := caFile(t)
	file := `[agent]
version = "2.4"
uuid = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
ip = "198.18.0.2"
port = 9002
contact_ip = "node-1.agents.test"
contact_port = "443"
registrar_ip = "198.18.0.1"
registrar_port = 8890
keylime_dir = "/var/lib/agent"
server_cert = "default"
server_key = "default"
trusted_client_ca = "` + ca + `"
tpm_encryption_alg = "ecc256"
tpm_signing_alg = "ecdsa"
tpm_hash_alg = "sha384"
api_versions = "2.3, 2.1, 9.9"
enable_agent_mtls = true
exponential_backoff_max_retries = 5
`
	got, address, err := configure(environment(t, file, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	check("the address", address, "198.18.0.2:9002")
	check("the UUID", got.UUID, "d432fbb3-d2f1-4a97-9ef7-75bd81c00000")
	check("the contact address", got.ContactAddress, "node-1.agents.test")
	check("the registrar", got.Registrar, "198.18.0.1:8890")
	check("the state", got.StateDir, "/var/lib/agent")
	check("the EK", got.EKAlgorithm, agent.EKECCP256)
	check("the AK", got.AKAlgorithm, agent.AKECDSA)
	check("the hash", got.HashAlgorithm, "sha384")
	check("the API versions", strings.Join(got.APIVersions, " "), "2.1 2.3")
	if got.ContactPort != 443 {
		t.Errorf("the contact port is %d", got.ContactPort)
	}
	check("the secure folder", got.SecureDir, "/var/lib/agent/secure")
	check("the payload's script", got.PayloadScript, "autorun.sh") // the Rust agent's default
	check("the actions", fmt.Sprintf("%v %s %v", got.RevocationActions, got.RevocationActionsDir, got.PayloadActions), "[] /usr/libexec/keylime true")
	if !got.ExtractPayload {
		t.Error("payloads are not unpacked, as the Rust agent does by default")
	}
	if got.ServerCertificate != nil || got.ClientCAs == nil {
		t.Errorf("server certificate %v, client CAs %v", got.ServerCertificate, got.ClientCAs)
	}

	got, address, err = configure(environment(t, file, map[string]string{
		"KEYLIME_AGENT_UUID": "hash_ek", "KEYLIME_AGENT_PORT": "9010", "KEYLIME_AGENT_TPM_ENCRYPTION_ALG": "rsa",
		"KEYLIME_AGENT_TPM_SIGNING_ALG": "rsassa", "KEYLIME_AGENT_REGISTRAR_IP": "fd00::1",
		"KEYLIME_AGENT_EXTRACT_PAYLOAD_ZIP": "false", "KEYLIME_AGENT_PAYLOAD_SCRIPT": "",
		"KEYLIME_AGENT_REVOCATION_ACTIONS": "a, b", "KEYLIME_AGENT_REVOCATION_ACTIONS_DIR": "/act", "KEYLIME_AGENT_ALLOW_PAYLOAD_REVOCATION_ACTIONS": "false",
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	check("the address by environment", address, "198.18.0.2:9010")
	check("the UUID by environment", got.UUID, agent.UUIDHashEK)
	check("the EK by environment", got.EKAlgorithm, agent.EKRSA2048)
	check("the AK by environment", got.AKAlgorithm, agent.AKRSASSA)
	check("the payload's script by environment", got.PayloadScript, "")
	check("the actions by environment", fmt.Sprintf("%v %s %v", got.RevocationActions, got.RevocationActionsDir, got.PayloadActions), "[a b] /act false")
	if got.ExtractPayload {
		t.Error("payloads are unpacked, although they are not to be")
	}
	check("the registrar by environment", got.Registrar, "[fd00::1]:8890")

	// All may be in the environment.
	_, _, err = configure(func(name string) (string, bool) {
		v, ok := map[string]string{"KEYLIME_AGENT_TRUSTED_CLIENT_CA": ca, EnvTPM: "/tpm.sock"}[name]
		return v, ok
	}, nil)
	if err != nil {
		t.Errorf("without a file: %v", err)
	}
}

// Where there is no socket, the TPM is where the Rust agent would look for it.
func TestTPMFrom(t *testing.T) {
	env := map[string]string{EnvTCTI: "swtpm:host=127.0.0.1,port=1"}
	look := func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
	open, err := tpmFrom(look)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context()); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("by TCTI: %v", err)
	}
	env[EnvTPM] = "/none/tpm.sock"
	if open, err = tpmFrom(look); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context()); err == nil || !strings.Contains(err.Error(), "/none/tpm.sock") {
		t.Errorf("by its socket, which comes first: %v", err)
	}
	env = map[string]string{EnvTCTI: "device:/dev/tpm0"}
	if _, err := tpmFrom(look); err == nil || !strings.Contains(err.Error(), `TCTI "device:/dev/tpm0" is not of the form swtpm:host=HOST,port=PORT`) {
		t.Errorf("a TCTI of another kind: %v", err)
	}
}

// Whatever is wrong is said at once, with the option's name.
func TestConfigureRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := configure(environment(t, `[agent]
port = 70000
contact_port = "many"
registrar_port = 0
tpm_encryption_alg = "ecc521"
tpm_signing_alg = "ecschnorr"
tpm_hash_alg = "md5"
extract_payload_zip = "maybe"
allow_payload_revocation_actions = "maybe"
revocation_actions = "a,,b"
trusted_client_ca = "`+empty+`"
server_cert = "/none.pem"
`, map[string]string{EnvTPM: ""}), nil)
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{
		`option port: "70000"`, `option contact_port: "many"`, `option registrar_port: "0"`, `tpm_encryption_alg: this agent has no "ecc521"`,
		`tpm_signing_alg: this agent has no "ecschnorr"`, `tpm_hash_alg: this agent has no "md5"`, "trusted_client_ca: " + empty + " holds no certificate",
		`option extract_payload_zip: strconv.ParseBool: parsing "maybe"`,
		`option allow_payload_revocation_actions: strconv.ParseBool: parsing "maybe"`, "option revocation_actions: list of actions \"a,,b\": nothing is between two commas", "server_cert", EnvTPM + " is not set",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	for name, env := range map[string]func(string) (string, bool){
		"no TOML":            environment(t, "agent = [", nil),
		"a file that is not": environment(t, "", map[string]string{EnvConfig: "/none/agent.conf"}),
		"no client CA":       environment(t, "[agent]", nil),
	} {
		if _, _, err := configure(env, nil); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
