package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/noticerole"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
)

// openCAs is the plan's step: the EK CAs.
func (l *Lab) openCAs(context.Context) error {
	cas, err := fleet.OpenCAs(l.dir, l.planned.EKCA)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cas = cas
	return err
}

// configureKeylime is the plan's step: certificates and configuration, with Keylime's own templates and empty databases.
func (l *Lab) configureKeylime(ctx context.Context) error {
	onHost, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{Version: l.planned.Keylime.Version, CacheDir: l.cache})
	if err != nil {
		return err
	}
	configured, err := fleet.Configure(ctx, l.dir, l.planned, l.inContainers(onHost))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = configured
	return nil
}

// inContainer gives a command of Keylime's the environment of a container: not this machine's search path.
func inContainer(env []string) []string {
	out := make([]string, 0, len(env))
	for _, e := range env {
		if !strings.HasPrefix(e, "PATH=") {
			out = append(out, e)
		}
	}
	return append(out, "PATH=/opt/keylime/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// keylimePart is a container that sees the services' configuration and certificates, under the same paths as this machine has them, and
// may write to the working folder of one service.
func (l *Lab) keylimePart(ctx context.Context, name, image string, c *keylime.Configured) (*part, error) {
	volume, err := l.makeVolume(ctx, name, false)
	if err != nil {
		return nil, err
	}
	return l.keylimePartOn(volume, name, image, c)
}

// keylimePartOn is keylimePart whose working folder is in a certain volume.
func (l *Lab) keylimePartOn(volume, name, image string, c *keylime.Configured) (*part, error) {
	host, _ := l.planned.Host(name)
	p := l.container(name, image, "pause")
	p.networks = []attachment{{network: host.Interfaces[0].Network, address: host.Address(), mac: host.Interfaces[0].MAC}}
	resolver := filepath.Join(l.dir.Path, "containers", name+".resolv.conf")
	if err := os.MkdirAll(filepath.Dir(resolver), 0o700); err != nil {
		return nil, fmt.Errorf("resolver configuration of %s: %w", name, err)
	}
	if err := os.WriteFile(resolver, []byte(netlab.ResolvConf(host.Resolver, l.planned.Lab+".test")), 0o644); err != nil {
		return nil, fmt.Errorf("resolver configuration of %s: %w", name, err)
	}
	p.bind(resolver, "/etc/resolv.conf", true)
	p.bind(l.dir.PKI(), l.dir.PKI(), true)
	p.bind(l.dir.CertStore(), l.dir.CertStore(), true)
	p.bind(c.ConfDir, c.ConfDir, true)
	p.volume(volume, c.WorkDir(name))
	p.host.Tmpfs[c.RunDir()] = "mode=0700"
	return p, nil
}

// readyAttempt is how long a service may take for one answer until the container's state is looked at.
const readyAttempt = 2 * time.Second

// startService starts one of Keylime's services, and waits until it answers on all its ports.
func (u *up) startService(ctx context.Context, name, image string, command func(*keylime.Configured) keylime.Command) error {
	configured, err := u.keylime()
	if err != nil {
		return err
	}
	c := command(configured)
	p, err := u.keylimePart(ctx, name, image, configured)
	if err != nil {
		return err
	}
	p.runs(c)
	p.host.CPUShares = yieldingShares
	databases, err := filepath.Glob(filepath.Join(configured.WorkDir(name), "*.sqlite"))
	if err != nil {
		return err
	}
	for _, db := range databases {
		data, err := os.ReadFile(db)
		if err != nil {
			return fmt.Errorf("empty database of the %s: %w", name, err)
		}
		p.files = append(p.files, file{path.Join(configured.WorkDir(name), filepath.Base(db)), data, 0o600})
	}
	if err := u.start(ctx, p); err != nil {
		return err
	}
	return u.yielding(ctx, name, func() error { return u.awaitService(ctx, name, c) })
}

// While services start beside the control plane they yield to it, for which everything else waits: a container has yieldingShares of a processor that is wanted by
// a node too, which has fullShares (Docker's default).
const (
	yieldingShares = 64
	fullShares     = 1024
)

// yielding has a container, which was made with yieldingShares, have fullShares once it is ready or the API server of the cluster answers.
func (u *up) yielding(ctx context.Context, name string, ready func() error) error {
	done := make(chan error, 1)
	go func() { done <- ready() }()
	select {
	case err := <-done:
		if err != nil {
			return err
		}
		done <- nil
	case <-u.answers:
	}
	_, err := u.docker.ContainerUpdate(ctx, u.resource(name), container.UpdateConfig{Resources: container.Resources{CPUShares: fullShares}})
	if err != nil {
		err = fmt.Errorf("give container %s its share of the processors: %w", u.resource(name), err)
	}
	return errors.Join(err, <-done)
}

// runs has the container run a service.
func (p *part) runs(c keylime.Command) {
	init := true
	p.host.Init = &init
	p.config.Entrypoint = c.Argv
	// Docker's init then hands SIGTERM to the service's workers too: its main process ignores it, and ends when they have.
	p.config.Env = append(inContainer(c.Env), "TINI_KILL_PROCESS_GROUP=1")
	p.config.WorkingDir = c.Dir
}

// awaitService waits until a service answers on all its ports.
func (l *Lab) awaitService(ctx context.Context, name string, c keylime.Command) error {
	return l.awaitContainer(ctx, name, "the "+name+" to answer", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readyAttempt)
		defer cancel()
		return c.Ready(ctx, l.dialFrom(name))
	})
}

func (u *up) startRegistrar(ctx context.Context) error {
	return u.startService(ctx, plan.Registrar, u.images().Registrar, (*keylime.Configured).Registrar)
}

func (u *up) startVerifier(ctx context.Context) error {
	return u.startService(ctx, plan.Verifier, u.images().Verifier, (*keylime.Configured).Verifier)
}

// startTenant starts the tenant's container, in which each of its commands is run, and the process that enrols.
func (l *Lab) startTenant(ctx context.Context) error {
	configured, err := l.keylime()
	if err != nil {
		return err
	}
	p, err := l.keylimePart(ctx, plan.Tenant, l.images().Tenant, configured)
	if err != nil {
		return err
	}
	p.bind(configured.Dir, configured.Dir, true) // the enroller's script will be in there
	// Nodes that have policies may join a lab that has none.
	if err := os.MkdirAll(l.dir.Policies(), 0o700); err != nil {
		return fmt.Errorf("make the folder for policies: %w", err)
	}
	p.bind(l.dir.Policies(), l.dir.Policies(), true)
	if l.planned.HasPayload() || l.planned.HasActions() {
		p.bind(l.dir.Payloads(), l.dir.Payloads(), true)
	}
	if l.planned.PayloadPackaged() {
		p.bind(l.dir.Revocation(), l.dir.Revocation(), false)
	}
	receives, err := l.receiveNotices(p)
	if err != nil {
		return err
	}
	if err := l.start(ctx, p); err != nil {
		return err
	}
	if receives {
		return l.awaitContainer(ctx, plan.Tenant, "the receiver of notices to answer", func(ctx context.Context) error {
			_, err := noticerole.Notices(ctx, l.dialControl(plan.Tenant))
			return err
		})
	}
	return l.died(ctx, plan.Tenant)
}

// startEnroller starts the process that runs Keylime's tenant code for every enrolment of one `up`, in the tenant's container.
func (l *Lab) startEnroller(ctx context.Context, log io.Writer) (*keylime.Enroller, error) {
	configured, err := l.keylime()
	if err != nil {
		return nil, err
	}
	return keylime.StartEnroller(ctx, configured, keylime.EnrollerOptions{
		Stderr: log, Parallel: fleet.EnrolAtOnce(l.planned),
		Start: func(c keylime.Command, std keylime.Stdio) (keylime.Process, error) {
			cmd := c.Exec(context.WithoutCancel(ctx))
			l.dockerExec(cmd, l.resource(plan.Tenant), []string{"-i"})
			return keylime.StartCmd(cmd, std)
		},
	})
}

// dockerExec makes of a command for this machine one that runs in a container, by the docker command, with the same input and output.
func (l *Lab) dockerExec(cmd *exec.Cmd, name string, flags []string) {
	args := append([]string{"docker", "exec"}, flags...)
	for _, e := range inContainer(cmd.Env) {
		args = append(args, "--env", e)
	}
	if cmd.Dir != "" {
		args = append(args, "--workdir", cmd.Dir)
	}
	args = append(args, name)
	cmd.Args = append(args, cmd.Args...)
	cmd.Path, cmd.Err = exec.LookPath("docker")
	cmd.Env, cmd.Dir = os.Environ(), ""
}

// Tenant implements the lab's side of `keylab tenant`.
func (l *Lab) Tenant(context.Context) (control.Command, error) {
	configured, err := l.keylime()
	if err != nil {
		return control.Command{}, err
	}
	c := configured.Tenant()
	return control.Command{Host: plan.Tenant, Argv: c.Argv, Env: inContainer(c.Env)}, nil
}

// enrolNode has the tenant hand a node's agent to the verifier.
func (l *Lab) enrolNode(ctx context.Context, tenant *keylime.Enroller, log io.Writer, n plan.Node, uuid string) (verify.Enrolment, error) {
	request, err := l.request(ctx, n, uuid)
	if err != nil {
		return verify.Enrolment{}, err
	}
	k := l.planned.Keylime
	if !k.Push() {
		return fleet.Enrol(ctx, tenant, log, request)
	}
	registrar, err := l.registrar()
	if err != nil {
		return verify.Enrolment{}, err
	}
	defer registrar.Close()
	return fleet.EnrolPush(ctx, registrar, l.dir.CertStore(), k.RequireEKCert, tenant, log, request)
}
