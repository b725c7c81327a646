package keylime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

// components are Keylime's configuration files, without ".conf".
var components = []string{"verifier", "registrar", "tenant", "ca", "logging", "agent"}

// configEnv is the environment variable that names a component's configuration file.
func configEnv(component, path string) string {
	return "KEYLIME_" + strings.ToUpper(component) + "_CONFIG=" + path
}

// Modes of the verifier.
const (
	Pull = "pull" // the verifier asks the agents for quotes
	Push = "push" // the agents send evidence to the verifier
)

// Names that Keylime gives its SQLite files.
const (
	verifierDB  = "cv_data.sqlite"
	registrarDB = "reg_data.sqlite"
)

// Config describes one set of services. Dir, PKI and Installation are required; all else has a default.
type Config struct {
	Dir          string // configuration, databases and working folders go here; made if missing, mode 0700
	PKI          *PKI
	Installation *Installation

	RegistrarIP      string // default 127.0.0.1
	RegistrarPort    int    // plain HTTP, for agents; default 8890
	RegistrarTLSPort int    // mutual TLS, for tenant and verifier; default 8891
	VerifierIP       string // default 127.0.0.1
	VerifierPort     int    // default 8881

	Mode          string        // Pull (default) or Push
	QuoteInterval time.Duration // between two quotes of an agent; default 2 s; whole seconds in push mode
	RetryInterval time.Duration // verifier, after a failed request to an agent; default 1 s, not growing
	MaxRetries    int           // verifier: after so many failed requests an agent has failed; default 10

	TPMCertStore  string // folder of *.pem certificates of those who issue EK certificates; default Dir/tpm_cert_store, made empty
	SkipEKCert    bool   // true: do not require a valid EK certificate (Keylime's require_ek_cert = False)
	EKCheckScript string // Keylime's ek_check_script; default none

	AcceptSigningAlgs    []string // default Keylime's own: ecschnorr, rsassa
	AcceptHashAlgs       []string // default Keylime's own: sha512, sha384, sha256
	AcceptEncryptionAlgs []string // default Keylime's own: ecc, rsa

	// RevocationNotifiers says whom the verifier tells of a failed agent: "agent", "zeromq", "webhook". Default nobody: Keylime's own
	// default, "agent", makes one failure a request to every other agent.
	RevocationNotifiers []string
	WebhookURL          string // where the notifier "webhook" posts to: https, with a certificate of the PKI's authority

	// CAPassword locks the store of the authority that the tenant makes for `--cert`; default Keylime's own, which the tenant would ask for.
	CAPassword string

	VerifierWorkers  int // processes; default 1: the quickest start; one serves about ten polls at a time. At most one for each CPU is used.
	RegistrarWorkers int // default 1

	// Overrides sets any other option: component ("verifier", "registrar", "tenant", "ca", "logging", "agent") -> option -> value.
	// An option outside the file's main section is written "section.option", e.g. "revocations.webhook_url".
	Overrides map[string]map[string]string
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.PKI == nil || c.Installation == nil {
		return c, errors.New("keylime configuration: Dir, PKI and Installation are required")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("keylime configuration: %w", err)
	}
	c.Dir = dir
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	defInt := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.RegistrarIP, "127.0.0.1")
	def(&c.VerifierIP, "127.0.0.1")
	def(&c.Mode, Pull)
	def(&c.TPMCertStore, filepath.Join(c.Dir, "tpm_cert_store"))
	defInt(&c.RegistrarPort, 8890)
	defInt(&c.RegistrarTLSPort, 8891)
	defInt(&c.VerifierPort, 8881)
	defInt(&c.MaxRetries, 10)
	defInt(&c.VerifierWorkers, 1)
	defInt(&c.RegistrarWorkers, 1)
	if c.QuoteInterval == 0 {
		c.QuoteInterval = 2 * time.Second
	}
	if c.RetryInterval == 0 {
		c.RetryInterval = time.Second
	}
	if c.TPMCertStore, err = filepath.Abs(c.TPMCertStore); err != nil {
		return c, fmt.Errorf("keylime configuration: tpm_cert_store: %w", err)
	}
	return c, c.validate()
}

// validate reports every problem at once.
func (c Config) validate() error {
	var errs []error
	for name, ip := range map[string]string{"RegistrarIP": c.RegistrarIP, "VerifierIP": c.VerifierIP} {
		if net.ParseIP(ip) == nil {
			errs = append(errs, fmt.Errorf("%s %q is not an IP address", name, ip))
		}
	}
	for name, port := range map[string]int{"RegistrarPort": c.RegistrarPort, "RegistrarTLSPort": c.RegistrarTLSPort, "VerifierPort": c.VerifierPort} {
		if port < 1 || port > 65535 {
			errs = append(errs, fmt.Errorf("%s %d is not a port", name, port))
		}
	}
	switch c.Mode {
	case Pull:
	case Push:
		if c.QuoteInterval%time.Second != 0 {
			errs = append(errs, fmt.Errorf("QuoteInterval %s: the push model needs whole seconds", c.QuoteInterval))
		}
	default:
		errs = append(errs, fmt.Errorf("mode %q is neither %s nor %s", c.Mode, Pull, Push))
	}
	if c.QuoteInterval < 0 || c.RetryInterval < 0 || c.MaxRetries < 0 {
		errs = append(errs, errors.New("QuoteInterval, RetryInterval and MaxRetries must not be negative"))
	}
	for component := range c.Overrides {
		if !slices.Contains(components, component) {
			errs = append(errs, fmt.Errorf("overrides: there is no component %q; there are %s", component, strings.Join(components, ", ")))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("keylime configuration: %w", errors.Join(errs...))
	}
	return nil
}

// newerOptions are options that only speed things up, and that versions before 7.14 lack.
var newerOptions = map[string]bool{"max_workers": true, "shutdown_drain_timeout": true, "session_create_rate_limit_per_ip": true}

// settings are the options that differ from Keylime's defaults, by component.
func (c Config) settings() map[string]map[string]string {
	pki := c.PKI.path
	trusted := pyList([]string{pki(fileCACert)})
	verifier := map[string]string{
		"ip": c.VerifierIP, "port": strconv.Itoa(c.VerifierPort),
		"registrar_ip": c.RegistrarIP, "registrar_port": strconv.Itoa(c.RegistrarTLSPort),
		"tls_dir": c.PKI.Dir, "server_cert": fileVerifierCert, "server_key": fileVerifierKey, "trusted_client_ca": trusted,
		"client_cert": filePollerCert, "client_key": filePollerKey, "trusted_server_ca": trusted,
		"quote_interval": seconds(c.QuoteInterval), "retry_interval": seconds(c.RetryInterval),
		"exponential_backoff": "False", "max_retries": strconv.Itoa(c.MaxRetries), "max_workers": strconv.Itoa(c.VerifierWorkers),
		"num_workers": strconv.Itoa(c.VerifierWorkers), // what versions before 7.14 heed
		"revocations.enabled_revocation_notifications": pyList(c.RevocationNotifiers),
		// A whole push lab may share one source address, so the limit per address is no protection here.
		"session_create_rate_limit_per_ip": "100000",
		"shutdown_drain_timeout":           "2",
	}
	if c.WebhookURL != "" {
		verifier["revocations.webhook_url"] = c.WebhookURL
	}
	if c.Mode != Pull { // versions before 7.14 have no other, nor the option
		verifier["mode"] = c.Mode
	}
	registrar := map[string]string{
		"ip": c.RegistrarIP, "port": strconv.Itoa(c.RegistrarPort), "tls_port": strconv.Itoa(c.RegistrarTLSPort),
		"tls_dir": c.PKI.Dir, "server_cert": fileRegistrarCert, "server_key": fileRegistrarKey, "trusted_client_ca": trusted,
		"max_workers": strconv.Itoa(c.RegistrarWorkers),
	}
	tenant := map[string]string{
		"verifier_ip": c.VerifierIP, "verifier_port": strconv.Itoa(c.VerifierPort),
		"registrar_ip": c.RegistrarIP, "registrar_port": strconv.Itoa(c.RegistrarTLSPort),
		"tls_dir": c.PKI.Dir, "client_cert": fileTenantCert, "client_key": fileTenantKey, "trusted_server_ca": trusted,
		"tpm_cert_store": c.TPMCertStore, "require_ek_cert": pyBool(!c.SkipEKCert), "ek_check_script": c.EKCheckScript,
		// Deleting an agent while a quote is under way takes one wait, hence a short one; together they allow ten seconds.
		"exponential_backoff": "False", "retry_interval": "0.25", "max_retries": "40", "request_timeout": "15",
	}
	for option, algs := range map[string][]string{"accept_tpm_signing_algs": c.AcceptSigningAlgs,
		"accept_tpm_hash_algs": c.AcceptHashAlgs, "accept_tpm_encryption_algs": c.AcceptEncryptionAlgs} {
		if algs != nil {
			tenant[option] = pyList(algs)
		}
	}
	ca := map[string]string{}
	if c.CAPassword != "" {
		ca["password"] = c.CAPassword
	}
	return map[string]map[string]string{"verifier": verifier, "registrar": registrar, "tenant": tenant, "ca": ca}
}

// Configured is a written configuration: what to run, and how to talk to it.
type Configured struct {
	Config               // with every default filled in
	ConfDir       string // the .conf files
	workDirs      map[string]string
	environ       []string
	RegistrarAddr string // base address of the registrar's mutual TLS port, host:port
	VerifierAddr  string // base address of the verifier, host:port
}

// workers are the programs with a working folder of their own.
var workers = []string{"verifier", "registrar", "tenant"}

// OpenConfig is the result of WriteConfig with the same arguments, without anything being written or read.
func OpenConfig(cfg Config) (*Configured, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Configured{
		Config:        cfg,
		ConfDir:       filepath.Join(cfg.Dir, "conf"),
		workDirs:      map[string]string{},
		RegistrarAddr: net.JoinHostPort(cfg.RegistrarIP, strconv.Itoa(cfg.RegistrarTLSPort)),
		VerifierAddr:  net.JoinHostPort(cfg.VerifierIP, strconv.Itoa(cfg.VerifierPort)),
	}
	for _, service := range workers {
		c.workDirs[service] = filepath.Join(cfg.Dir, service)
	}
	for _, component := range components {
		c.environ = append(c.environ, configEnv(component, c.file(component)))
	}
	return c, nil
}

// file is the configuration file of a component.
func (c *Configured) file(component string) string {
	return filepath.Join(c.ConfDir, component+".conf")
}

// WorkDir is the working folder of a service, "registrar", "verifier" or "tenant": its database is in there.
func (c *Configured) WorkDir(service string) string { return c.workDirs[service] }

// WriteConfig writes Keylime's configuration files, with Keylime's own comments, and the working folders of the services with empty
// databases. Written again over an earlier configuration it keeps databases that are there.
func WriteConfig(ctx context.Context, cfg Config) (*Configured, error) {
	c, err := OpenConfig(cfg)
	if err != nil {
		return nil, err
	}
	cfg = c.Config
	dirs := []string{cfg.Dir, c.ConfDir, c.RunDir()}
	for _, service := range workers {
		dirs = append(dirs, c.workDirs[service])
	}
	if cfg.TPMCertStore == filepath.Join(cfg.Dir, "tpm_cert_store") {
		dirs = append(dirs, cfg.TPMCertStore)
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("keylime configuration: %w", err)
		}
	}
	for service, db := range map[string]string{"verifier": verifierDB, "registrar": registrarDB} {
		to := filepath.Join(c.workDirs[service], db)
		if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := copyFile(filepath.Join(cfg.Installation.Databases, db), to, 0o600); err != nil {
			return nil, fmt.Errorf("empty database of the %s: %w", service, err)
		}
	}
	settings := cfg.settings()
	var errs []error
	for _, component := range components {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("keylime configuration: %w", context.Cause(ctx))
		}
		f, err := readINI(filepath.Join(cfg.Installation.Config, component+".conf"))
		if err != nil {
			return nil, err
		}
		for _, opts := range []map[string]string{settings[component], cfg.Overrides[component]} {
			for _, name := range slices.Sorted(maps.Keys(opts)) {
				if newerOptions[name] && !f.has(component, name) {
					continue
				}
				if err := f.set(component, name, opts[name]); err != nil {
					errs = append(errs, err)
				}
			}
		}
		if err := atomicfile.Write(c.file(component), []byte(f.String()), 0o600); err != nil {
			return nil, err
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("keylime configuration: %w", errors.Join(errs...))
	}
	return c, nil
}

// seconds is a duration in Keylime's unit.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

func pyBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// pyList is a Python list of strings, as Keylime reads it with ast.literal_eval.
func pyList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
