package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/kind/roles"
	"keylab.dev/keylab/lab/netns"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/tpmsim"
)

// The specification's types, for users of this package.
type (
	Spec  = spec.Spec
	Nodes = spec.Nodes
	Node  = spec.Node
)

// Status is a lab at one moment; Event is one line of its progress.
type (
	Status = control.Status
	Event  = control.Event
)

// ErrNotRunning says that the lab does not run; ErrRunning that it does, or is being started.
var (
	ErrNotRunning = control.ErrNotRunning
	ErrRunning    = control.ErrRunning
)

// initialised is set by Init: without it this program cannot be started again as a supervisor.
var initialised bool

// Init must be called first thing in main, or in TestMain: a lab's supervisor is this very program, started again with
// arguments of its own, and Init is where such a call is answered. It then does not return.
func Init() {
	tpmsim.MaybeRunChild()
	if status, handled := roles.Main(os.Args); handled {
		exit(status)
	}
	if status, handled := sandbox.Main(os.Args, netns.Roles()); handled {
		exit(status)
	}
	initialised = true
}

// exit ends a process that is no user's: a role of this program in a lab.
var exit = os.Exit

// Lab is one lab by name, running or not.
type Lab struct {
	dir      state.Dir
	client   *control.Client // of a lab that has a supervisor
	terminal bool
}

// running is a lab that can be asked: by its supervisor's socket, or, where a lab needs no process of its own, by opening it again.
type running interface {
	Status(ctx context.Context) (Status, error)
	Verify(ctx context.Context) (report.Result, error)
	Network(ctx context.Context) (control.Network, error)
	Fault(ctx context.Context, f control.Fault) (string, error)
	Mark(ctx context.Context) (control.Mark, error)
	Fired(ctx context.Context, f control.Fault, since control.Mark) (control.Proof, error)
	Act(ctx context.Context, a control.Action) (string, error)
	Measure(ctx context.Context, m control.Measurement) (control.Measured, error)
	EK(ctx context.Context, o control.EKOrder) (control.EKDone, error)
	HTTP(ctx context.Context, r control.HTTPRequest) (control.HTTPAnswer, error)
	Tenant(ctx context.Context) (control.Command, error)
	Notices(ctx context.Context) ([]control.Notice, error)
}

// Open names a lab. It need not exist.
func Open(name string) (*Lab, error) {
	dir, err := state.For(name)
	if err != nil {
		return nil, err
	}
	return at(dir), nil
}

func at(dir state.Dir) *Lab { return &Lab{dir: dir, client: control.NewClient(dir.Key())} }

// List is every lab of this user, with its status; one that does not run has the state "stopped". Labs of which only Docker has something
// left are in it too.
func List(ctx context.Context) ([]Status, error) {
	dirs, err := state.List()
	if err != nil {
		return nil, err
	}
	var list []Status
	seen := map[string]bool{}
	for _, d := range dirs {
		seen[d.Lab] = true
		s, err := at(d).Status(ctx)
		if errors.Is(err, ErrNotRunning) {
			if !d.Made() {
				seen[d.Lab] = false
				continue // the logs of a first `up` that failed are no lab
			}
			s, err = at(d).Stopped(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("lab %s: %w", d.Lab, err)
		}
		list = append(list, s)
	}
	return append(list, remains(ctx, seen)...), nil
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.dir.Lab }

// Dir is the lab's folder on disk.
func (l *Lab) Dir() state.Dir { return l.dir }

// Exists tells whether the lab runs or has a folder.
func (l *Lab) Exists(ctx context.Context) bool { return l.dir.Exists() || l.client.Running(ctx) }

// open is the lab as it can be asked. The caller calls done.
func (l *Lab) open() (r running, done func(), err error) {
	k, err := l.kind()
	if err != nil || k == nil {
		return l.client, func() {}, err
	}
	return k, func() { k.Close() }, nil
}

// Status asks the lab how it is. ErrNotRunning when it does not run.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	r, done, err := l.open()
	if err != nil {
		return Status{}, err
	}
	defer done()
	return r.Status(ctx)
}

// Stopped is the status of a lab that does not run.
func (l *Lab) Stopped() Status {
	return Status{Lab: l.dir.Lab, State: control.Stopped, Components: []control.Component{}, Nodes: []control.Node{}}
}

// Verify has the lab prove its claims (package verify).
func (l *Lab) Verify(ctx context.Context) (report.Result, error) {
	r, done, err := l.open()
	if err != nil {
		return report.Result{}, err
	}
	defer done()
	return r.Verify(ctx)
}

// Network asks for hosts, routes, the router's rules and all counters.
func (l *Lab) Network(ctx context.Context) (control.Network, error) {
	r, done, err := l.open()
	if err != nil {
		return control.Network{}, err
	}
	defer done()
	return r.Network(ctx)
}

// Fault breaks or mends one thing on purpose, and says what was done.
func (l *Lab) Fault(ctx context.Context, f control.Fault) (string, error) {
	r, done, err := l.open()
	if err != nil {
		return "", err
	}
	defer done()
	return r.Fault(ctx, f)
}

// Mark counts what Fired compares with: take it before a fault is inflicted.
func (l *Lab) Mark(ctx context.Context) (control.Mark, error) {
	r, done, err := l.open()
	if err != nil {
		return control.Mark{}, err
	}
	defer done()
	return r.Mark(ctx)
}

// Fired tells whether, since the mark, something was seen that only this fault can have caused, and what. One call takes about a second at
// most, and may come too early: ask again until a deadline. Before the fault, and after it was mended, nothing is seen.
func (l *Lab) Fired(ctx context.Context, f control.Fault, since control.Mark) (control.Proof, error) {
	r, done, err := l.open()
	if err != nil {
		return control.Proof{}, err
	}
	defer done()
	return r.Fired(ctx, f, since)
}

// Act does one thing to one node (stop, start, reboot, another TPM, …), and says what was done. It returns when that has come to its end.
func (l *Lab) Act(ctx context.Context, a control.Action) (string, error) {
	r, done, err := l.open()
	if err != nil {
		return "", err
	}
	defer done()
	return r.Act(ctx, a)
}

// Measure shows what a node has measured (IMA, measured boot), or changes it. It returns when that has come to its end.
func (l *Lab) Measure(ctx context.Context, m control.Measurement) (control.Measured, error) {
	r, done, err := l.open()
	if err != nil {
		return control.Measured{}, err
	}
	defer done()
	return r.Measure(ctx, m)
}

// HTTP has a host of the lab make one HTTP request to a service of Keylime's or to a node's agent, and says what came of it. That there was no answer is no
// error of this method. It takes ten seconds at most.
func (l *Lab) HTTP(ctx context.Context, req control.HTTPRequest) (control.HTTPAnswer, error) {
	r, done, err := l.open()
	if err != nil {
		return control.HTTPAnswer{}, err
	}
	defer done()
	return r.HTTP(ctx, req)
}

// downTimeout is how long an orderly end may take before the lab is ended by force.
const downTimeout = 30 * time.Second

// Down ends the lab in order and returns when nothing of it runs any more. A lab that does not run is no error:
// wasRunning tells. The folder with its TPMs and keys stays.
func (l *Lab) Down(ctx context.Context) (wasRunning bool, err error) {
	pid, err := l.client.PID(ctx)
	if errors.Is(err, ErrNotRunning) {
		return l.dockerDown(ctx, false)
	}
	if err != nil {
		return false, err
	}
	ended, err := holdSandbox(pid)
	if err != nil {
		return true, err
	}
	defer ended.Close()
	asked := l.client.Down(ctx)
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	if asked == nil {
		if err := ended.Wait(ctx); err == nil {
			return true, nil
		}
	}
	// It does not answer or does not end. Its first process' death takes everything along.
	if err := ended.Kill(); err != nil {
		return true, fmt.Errorf("end the lab by force: %w", errors.Join(err, asked))
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	if err := ended.Wait(ctx); err != nil {
		return true, fmt.Errorf("waiting for the killed lab to end: %w", err)
	}
	return true, nil
}

// Wipe is Down, and then deletes the lab's folder: its TPMs, its CA and all keys.
func (l *Lab) Wipe(ctx context.Context) (existed bool, err error) {
	if _, err := l.Down(ctx); err != nil {
		return true, err
	}
	left, err := l.dockerDown(ctx, true)
	if err != nil {
		return true, err
	}
	socket, err := control.Reserve(l.dir.Key())
	if err != nil {
		return true, err
	}
	defer socket.Close()
	existed = l.dir.Exists() || left
	return existed, l.dir.Remove()
}

// SetTerminal says that the commands made from now on have a terminal as their standard input and output.
func (l *Lab) SetTerminal(is bool) { l.terminal = is }

// Command makes a command that runs argv on one of the lab's hosts: in its network namespace, with its resolv.conf and
// host name, and with the node's TPM in TPM2TOOLS_TCTI and TCTI. The caller sets standard input, output and error.
func (l *Lab) Command(ctx context.Context, host string, argv ...string) (*exec.Cmd, error) {
	if k, err := l.kind(); err != nil || k != nil {
		if err != nil {
			return nil, err
		}
		defer k.Close()
		return k.Command(ctx, host, l.terminal, argv...)
	}
	pid, err := l.client.PID(ctx)
	if err != nil {
		return nil, err
	}
	cmd, err := sandbox.EnterCommand(ctx, l.dir.Lab, pid, host, argv...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+netns.TCTI, "TCTI="+netns.TCTI)
	return cmd, nil
}

// TPMCommand makes a command that runs a TPM tool against a node's TPM: on the node, with this machine's tools, or where the TPM is in a
// container, in that, with the tools of its image.
func (l *Lab) TPMCommand(ctx context.Context, node string, argv ...string) (*exec.Cmd, error) {
	if k, err := l.kind(); err != nil || k != nil {
		if err != nil {
			return nil, err
		}
		defer k.Close()
		return k.TPMCommand(ctx, node, l.terminal, argv...)
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil, fmt.Errorf("%w: tpm2-tools come with `apt-get install tpm2-tools`", err)
	}
	return l.Command(ctx, node, argv...)
}

// TenantCommand makes a command that runs Keylime's own keylime_tenant in the lab with these arguments.
func (l *Lab) TenantCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if k, err := l.kind(); err != nil || k != nil {
		if err != nil {
			return nil, err
		}
		defer k.Close()
		return k.TenantCommand(ctx, l.terminal, args...)
	}
	tenant, err := l.client.Tenant(ctx)
	if err != nil {
		return nil, err
	}
	cmd, err := l.Command(ctx, tenant.Host, append(tenant.Argv, args...)...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env, tenant.Env...)
	return cmd, nil
}
