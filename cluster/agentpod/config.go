package agentpod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"keylab.dev/keylab/agent"
)

// EnvConfig names the configuration file; defaultConfig is where the Rust agent looks without it.
const (
	EnvConfig     = "KEYLIME_AGENT_CONFIG"
	defaultConfig = "/etc/keylime/agent.conf"
	envPrefix     = "KEYLIME_AGENT_"
)

// options are the Rust agent's options by name, from its file, section [agent], and over it from the environment.
type options map[string]string

func readOptions(env func(string) (string, bool)) (options, error) {
	path, named := env(EnvConfig)
	if path == "" {
		path = defaultConfig
	}
	o := options{}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named: // all may be in the environment
	case err != nil:
		return nil, fmt.Errorf("read the agent's configuration: %w", err)
	default:
		var file struct {
			Agent map[string]any `toml:"agent"`
		}
		if err := toml.Unmarshal(data, &file); err != nil {
			return nil, fmt.Errorf("read the agent's configuration %s: %w", path, err)
		}
		for name, value := range file.Agent {
			o[name] = fmt.Sprint(value)
		}
	}
	for _, name := range known {
		if v, ok := env(envPrefix + strings.ToUpper(name)); ok {
			o[name] = v
		}
	}
	return o, nil
}

// known are the options that mean something here; the Rust agent has more.
var known = []string{
	"uuid", "ip", "port", "contact_ip", "contact_port", "registrar_ip", "registrar_port", "trusted_client_ca", "server_cert", "server_key",
	"keylime_dir", "tpm_encryption_alg", "tpm_signing_alg", "tpm_hash_alg",
	"ima_ml_path", "measuredboot_ml_path", "extract_payload_zip", "payload_script", "revocation_actions", "revocation_actions_dir", "allow_payload_revocation_actions", "verifier_url", "verifier_tls_ca_cert", "attestation_interval_seconds", "api_versions",
}

// text is an option's value, or a default where it is not set; the Rust agent's word for that is "default" or nothing.
func (o options) text(name, otherwise string) string {
	if v := o[name]; v != "" && v != "default" {
		return v
	}
	return otherwise
}

// port is an option that names a TCP port.
func (o options) port(name string, otherwise int) (int, error) {
	n, err := strconv.Atoi(o.text(name, strconv.Itoa(otherwise)))
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("option %s: %q is not a port", name, o[name])
	}
	return n, nil
}

// apiVersions are those of an option that says "default", "latest", or a list with commas, as the Rust agent reads it.
func (o options) apiVersions(name string) []string {
	all := agent.APIVersions()
	text := o.text(name, "")
	if text == "latest" {
		return all[len(all)-1:]
	}
	var versions []string
	for _, v := range all {
		if slices.Contains(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", []'\"", r) }), v) {
			versions = append(versions, v)
		}
	}
	return versions // none: package agent's default, all, as the Rust agent does it too
}

// ekAlgorithms are the Rust agent's words for the EK's algorithm, with package agent's.
var ekAlgorithms = map[string]string{"rsa": "rsa2048", "rsa2048": "rsa2048", "ecc": "ecc-p256", "ecc256": "ecc-p256"}

// oneOf translates an option's value.
func (o options) oneOf(name, otherwise string, words map[string]string) (string, error) {
	v := o.text(name, otherwise)
	if w, ok := words[v]; ok {
		return w, nil
	}
	return "", fmt.Errorf("option %s: this agent has no %q", name, v)
}
