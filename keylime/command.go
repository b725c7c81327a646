package keylime

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Dial opens a connection where the services are, e.g. in another network namespace. nil stands for [net.Dialer.DialContext].
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Command is one process to start.
type Command struct {
	Name string   // "registrar", "verifier", "tenant", "enroller"
	Argv []string // program and arguments
	Env  []string // the whole environment: nothing is inherited, so that proxies or PYTHON* variables of the user cannot interfere
	Dir  string   // working folder

	ready func(ctx context.Context, dial Dial) error
}

// Exec makes an *exec.Cmd of the command, in a process group of its own. When ctx ends the whole group gets SIGTERM, and the main process
// SIGKILL ten seconds later. The caller gives it output files and starts it, inside whatever namespaces it likes.
func (c Command) Exec(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = c.Env
	cmd.Dir = c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return SignalGroup(cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Ready waits until the service really answers (GET /version on each of its ports, with TLS where there is TLS), or until ctx ends; then
// the error holds the last failure. It cannot see that the process has died: watch that at the same time, and cancel ctx.
// A command that is no service is ready at once.
func (c Command) Ready(ctx context.Context, dial Dial) error {
	if c.ready == nil {
		return nil
	}
	return c.ready(ctx, dial)
}

// Registrar is the command of the registrar.
func (c *Configured) Registrar() Command {
	cmd := c.command("registrar", c.Installation.script("keylime_registrar"))
	cmd.ready = func(ctx context.Context, dial Dial) error {
		plain := "http://" + net.JoinHostPort(c.RegistrarIP, strconv.Itoa(c.RegistrarPort))
		if err := waitHTTP(ctx, "registrar", plain, newHTTPClient(nil, dial)); err != nil {
			return err
		}
		return waitHTTP(ctx, "registrar", "https://"+c.RegistrarAddr, newHTTPClient(c.PKI.ClientTLS(), dial))
	}
	return cmd
}

// Verifier is the command of the verifier.
func (c *Configured) Verifier() Command {
	cmd := c.command("verifier", c.Installation.script("keylime_verifier"))
	cmd.ready = func(ctx context.Context, dial Dial) error {
		return waitHTTP(ctx, "verifier", "https://"+c.VerifierAddr, newHTTPClient(c.PKI.ClientTLS(), dial))
	}
	return cmd
}

// Tenant is one command of Keylime's command line tenant, e.g. Tenant("-c", "add", "-u", id). To enrol many agents use [StartEnroller].
func (c *Configured) Tenant(args ...string) Command {
	return c.command("tenant", append([]string{c.Installation.script("keylime_tenant")}, args...)...)
}

// Tool is any other command of Keylime, e.g. Tool("keylime-policy", "create", ...), with the lab's configuration.
func (c *Configured) Tool(script string, args ...string) Command {
	return c.command("tenant", append([]string{c.Installation.script(script)}, args...)...)
}

// RuntimePolicy is the tool that makes a runtime policy, a file of JSON, of an allowlist (lines of a digest, two spaces and a path), and of files with keys by
// which measured files may be signed.
func (c *Configured) RuntimePolicy(allowlist, output string, keys ...string) Command {
	tool, args := "keylime-policy", []string{"create", "runtime"}
	if c.Installation.Version == "7.12.2" {
		// Its keylime-policy ends with a TypeError before Python 3.12 (create_runtime_policy: "in algorithms.Hash"); the tool that came before it does the same,
		// and takes this machine's own measurements too unless told otherwise.
		tool, args = "keylime_create_policy", []string{"--ima-measurement-list", os.DevNull}
	}
	args = append(args, "--allowlist", allowlist, "--output", output)
	for _, key := range keys {
		args = append(args, "--add-ima-signature-verification-key", key)
	}
	return c.Tool(tool, args...)
}

func (c *Configured) command(service string, args ...string) Command {
	dir := c.workDirs[service]
	env := slices.Concat(pythonEnv(), []string{
		"HOME=" + dir,
		"KEYLIME_DIR=" + dir,
		// Keylime's TLS contexts take in the system's certificate authorities, and its HTTP library those of Mozilla for each connection: tens of
		// milliseconds each time, and it would trust them all. These variables, read by OpenSSL and by requests, leave the lab's own authority.
		"SSL_CERT_FILE=" + c.PKI.CACertFile(),
		"SSL_CERT_DIR=" + c.RunDir(),
		"REQUESTS_CA_BUNDLE=" + c.PKI.CACertFile(),
		"XDG_RUNTIME_DIR=" + c.RunDir(), // for the socket between a service's processes, where /run/keylime cannot be used
	}, c.environ)
	return Command{Name: service, Argv: append([]string{c.Installation.Python}, args...), Env: env, Dir: dir}
}

// pythonEnv is the part of the environment that every Python of ours has. Nothing else is inherited.
func pythonEnv() []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env := []string{
		"PATH=" + path, // the verifier runs tpm2_eventlog
		"LANG=C.UTF-8",
		"PYTHONUNBUFFERED=1",
		"PYTHONNOUSERSITE=1",
		"PYTHONDONTWRITEBYTECODE=1", // the installation is compiled already, and shared
	}
	if tz := os.Getenv("TZ"); tz != "" {
		env = append(env, "TZ="+tz)
	}
	return env
}

// RunDir is the folder for the socket between the processes of a service; it holds nothing else.
func (c *Configured) RunDir() string { return filepath.Join(c.Dir, "run") }

// waitHTTP asks for /version until any HTTP answer comes: 200 from most, 410 from a verifier in push mode.
func waitHTTP(ctx context.Context, what, base string, client *http.Client) error {
	defer client.CloseIdleConnections()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		err := probe(ctx, client, base+"/version")
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		var certErr *tls.CertificateVerificationError
		if errors.As(err, &certErr) {
			return fmt.Errorf("%s at %s answers with a certificate of somebody else: %w", what, base, err)
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = context.Cause(ctx)
			}
			return fmt.Errorf("wait for the %s to answer at %s/version: %w; last try: %w", what, base, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

func probe(ctx context.Context, client *http.Client, url string) error {
	// The listening socket is there some time before anybody accepts, so one try may hang: cut it and try again.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusGone {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
