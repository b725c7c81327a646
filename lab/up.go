package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind"
	"keylab.dev/keylab/lab/netns"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/tpmsim"
)

// UpOptions say how a lab is brought up.
type UpOptions struct {
	// Retain leaves a lab that failed to start as it is, for a look at it.
	Retain bool
	// Force tries what is likely to fail: more nodes than there is memory for.
	Force bool
	// OnEvent receives the progress, one event after the other; nil: nobody does.
	OnEvent func(Event)
}

// StepInstall is the one step of `up` that comes before the lab: Keylime from PyPI, kept in the cache.
const StepInstall = "keylime-install"

// Plan works out the lab that a specification describes, without touching anything. Errors of the specification are a
// *spec.InvalidError.
func Plan(s Spec) (plan.Plan, error) {
	s.SetDefaults()
	if err := s.Validate(); err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(s)
}

// Up brings a lab up and returns when every node has been attested. It fails, and takes back what it did, when any
// step fails, when ctx ends, and when this process ends before Up has returned. ErrRunning when the lab runs already.
func Up(ctx context.Context, s Spec, o UpOptions) (*Lab, error) {
	if !initialised {
		return nil, errors.New("lab.Init was not called: call it first in main or TestMain")
	}
	p, err := Plan(s)
	if err != nil {
		return nil, err
	}
	s.SetDefaults()
	if err := supported(p); err != nil {
		return nil, err
	}
	payloads, err := readPayloads(s, p)
	if err != nil {
		return nil, err
	}
	actions, err := readActions(s, payloads)
	if err != nil {
		return nil, err
	}
	dir, err := state.For(p.Lab)
	if err != nil {
		return nil, err
	}
	cache, err := state.CacheBase()
	if err != nil {
		return nil, err
	}
	if err := canMeasureBoot(ctx, p, cache); err != nil {
		return nil, err
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	socket, err := control.Reserve(dir.Key())
	if errors.Is(err, ErrRunning) {
		return nil, fmt.Errorf("lab %q: %w: `keylab status %s` shows it, `keylab down %s` ends it", p.Lab, err, p.Lab, p.Lab)
	}
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	if err := roster.Check(dir, p); err != nil {
		return nil, err
	}
	if p.Kubernetes != nil {
		if err := kind.Preflight(ctx, dir, p, o.Force); err != nil {
			return nil, err
		}
	} else if err := at(dir).notInDocker(ctx); err != nil {
		return nil, err
	}
	if err := install(ctx, p, cache, o.OnEvent); err != nil {
		return nil, err
	}
	first := !dir.Made()
	l := at(dir)
	err = prepare(dir, s, p, payloads, actions)
	switch {
	case err != nil:
	case p.Kubernetes != nil:
		err = upKind(ctx, dir, p, cache, o, first)
	default:
		err = l.start(ctx, netns.Handoff{Dir: dir, Cache: cache, Retain: o.Retain, First: first}, socket, o.OnEvent)
	}
	if err != nil && first && p.Kubernetes == nil && !l.client.Running(context.WithoutCancel(ctx)) {
		// The supervisor does the same, which may outlive this process; but it may not have come that far.
		err = errors.Join(err, dir.Forget())
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// start starts the lab's supervisor and follows it until the lab is up.
func (l *Lab) start(ctx context.Context, h netns.Handoff, socket *os.File, emit func(Event)) error {
	starting, err := netns.Start(h, socket)
	if err != nil {
		return whyNoNamespaces(ctx, err)
	}
	return l.awaitUp(ctx, starting, emit)
}

// whyNoNamespaces adds to the kernel's bare word (such as "no space left on device" for a limit of namespaces) what stands
// behind it and what to do, where that can be found out.
func whyNoNamespaces(ctx context.Context, err error) error {
	for _, p := range netlab.Available(ctx) {
		err = fmt.Errorf("%w\n%s", err, p)
	}
	return err
}

// supported refuses, before anything is touched, what this program or this machine cannot do.
func supported(p plan.Plan) error {
	checked := map[string]bool{}
	for _, n := range p.Nodes {
		if p.Kubernetes == nil && !checked[n.TPM.Backend] {
			checked[n.TPM.Backend] = true
			if _, err := tpmsim.Select(n.TPM.Backend); err != nil {
				return fmt.Errorf("the TPM of %s: %w", n.Name, err)
			}
		}
		if err := fleet.Runnable(n); err != nil {
			return err
		}
		for _, m := range n.Mounts { // Docker would make an empty folder of what is not there
			if _, err := os.Stat(m.HostPath); err != nil {
				return fmt.Errorf("node %s is to see %s at %s: %w", n.Name, m.HostPath, m.ContainerPath, err)
			}
		}
	}
	return nil
}

// canMeasureBoot refuses measured boot on a machine that lacks what Keylime's verifier reads boot logs with: it would trust no node.
func canMeasureBoot(ctx context.Context, p plan.Plan, cache string) error {
	if !p.MeasuresBoot() || p.Kubernetes != nil {
		return nil
	}
	for _, problem := range keylime.Check(ctx, keylime.InstallOptions{Version: p.Keylime.Version, CacheDir: cache}) {
		if problem.MeasuredBoot {
			return fmt.Errorf("measuredBoot: %s", problem)
		}
	}
	return nil
}

// prepare writes the lab's folder. Logs are those of one run.
func prepare(dir state.Dir, s Spec, p plan.Plan, payloads, actions map[string][]byte) error {
	if err := os.RemoveAll(dir.Logs()); err != nil {
		return fmt.Errorf("delete the logs of the lab's last run: %w", err)
	}
	if err := dir.Create(); err != nil {
		return err
	}
	if err := writePayloads(dir, payloads, actions); err != nil {
		return err
	}
	return roster.Write(dir, withActionFiles(withPayloadFiles(s, p)), p)
}

// install puts Keylime in the cache where it is not there yet. Only this step needs the outside network.
func install(ctx context.Context, p plan.Plan, cache string, emit func(Event)) error {
	start := time.Now()
	emit(Event{Time: start, Step: StepInstall, State: "start"})
	_, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{
		Version: p.Keylime.Version, CacheDir: cache,
		Log: func(line string) {
			emit(Event{Time: time.Now(), Step: StepInstall, State: control.EventNote, Text: line})
		},
	})
	e := Event{Time: time.Now(), Step: StepInstall, State: "done", Elapsed: time.Since(start)}
	if err != nil {
		e.State, e.Error = "failed", err.Error()
	}
	emit(e)
	if err != nil {
		return fmt.Errorf("step %s: %w", StepInstall, err)
	}
	return nil
}

// awaitUp follows the lab's start to its good or bad end.
func (l *Lab) awaitUp(ctx context.Context, starting *netns.Starting, emit func(Event)) error {
	var last Event
	followed := make(chan error, 1)
	go func() {
		followed <- l.follow(ctx, starting, func(e Event) {
			last = e
			emit(e)
		})
	}()
	var err error
	select {
	case err = <-followed:
	case <-ctx.Done():
		starting.Abort() // the supervisor undoes what it did, and its progress ends
		err = <-followed
	}
	if last.State == control.EventReady && err == nil && ctx.Err() == nil {
		if err := starting.Release(); err != nil {
			return err
		}
		if last.Error != "" {
			return fmt.Errorf("%s\nthe lab was left as it is: `keylab down %s` ends it", last.Error, l.dir.Lab)
		}
		return nil
	}
	starting.Abort()
	<-starting.Done()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the start of lab %s was interrupted and undone: %w", l.dir.Lab, context.Cause(ctx))
	case last.State == control.EventEnded && last.Error != "":
		return errors.New(last.Error)
	}
	return fmt.Errorf("the lab's supervisor ended before the lab was up: %w\nlog %s:\n%s", errors.Join(err, starting.Err()), l.dir.Log("supervisor"), state.LogTail(l.dir.Log("supervisor"), 0))
}

// follow reads the progress from the supervisor's socket as soon as that listens.
func (l *Lab) follow(ctx context.Context, starting *netns.Starting, emit func(Event)) error {
	ctx = context.WithoutCancel(ctx) // the undoing too is to be seen
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := l.client.Events(ctx, emit)
		if !errors.Is(err, ErrNotRunning) {
			return err
		}
		select {
		case <-starting.Done():
			return err
		case <-tick.C:
		}
	}
}
