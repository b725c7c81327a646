package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/lab/steps"
)

// UpOptions say how a lab is brought up.
type UpOptions struct {
	Cache  string // folder of what can be made again
	Retain bool   // leave a lab that failed to start as it is
	First  bool   // the lab's folder is new: after a failure only its logs are kept
	Emit   func(control.Event)
}

// up is a lab while it is being brought up.
type up struct {
	*Lab
	UpOptions
	enroller *keylime.Enroller
	tenant   io.WriteCloser // the tenant's log
	imaged   chan struct{}  // closed when the images are there
	creation *creation      // kind's work, once it has begun
	answers  chan struct{}  // closed when the cluster's API server answers
}

// Up brings the lab of a plan up, and returns when the verifier has attested every node. It fails, and takes back what it did, when any
// step fails and when ctx ends. The caller holds the lab's lock, and has asked
// Preflight.
func Up(ctx context.Context, dir state.Dir, p plan.Plan, o UpOptions) error {
	l, err := newLab(dir, p)
	if err != nil {
		return err
	}
	defer l.Close()
	l.cache = o.Cache
	u := &up{Lab: l, UpOptions: o, imaged: make(chan struct{}), answers: make(chan struct{})}
	// Of an earlier run nothing is known any more.
	if err := l.learn(func(f *facts) { *f = newFacts(); f.Started = time.Now() }); err != nil {
		return err
	}
	return u.run(ctx)
}

func (u *up) run(ctx context.Context) error {
	// Images may have to be built, which has nothing to do with the lab's readiness: its time begins when they are there.
	ready, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.Duration(u.planned.Ready)
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-u.imaged:
		case <-finished:
			return
		}
		t := time.NewTimer(limit)
		defer t.Stop()
		select {
		case <-t.C:
			cancel(&lateError{limit})
		case <-finished:
		}
	}()
	_, err := steps.Run(ready, u.steps(), steps.Options{Retain: u.Retain, OnEvent: u.event, UndoTimeout: removeLimit + time.Minute})
	u.closeEnroller(context.WithoutCancel(ctx))
	if err == nil {
		return u.learn(func(f *facts) { f.Ready = time.Now() })
	}
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("the start of lab %s was interrupted and undone: %w", u.planned.Lab, err)
	case u.Retain:
		return fmt.Errorf("%w\nthe lab was left as it is: `keylab down %s` ends it", err, u.planned.Lab)
	}
	return err
}

// lateError says that the lab's time to get ready is over.
type lateError struct{ limit time.Duration }

func (e *lateError) Error() string {
	return fmt.Sprintf("not ready within %s (timeouts.ready)", e.limit)
}

// event hands a step's progress on.
func (u *up) event(e steps.Event) {
	c := control.Event{Time: e.Time, Step: e.Step, State: string(e.State), Elapsed: e.Elapsed}
	if e.Err != nil {
		c.Error = e.Err.Error()
	}
	u.Emit(c)
}

func (u *up) note(step, text string) {
	u.Emit(control.Event{Time: time.Now(), Step: step, State: control.EventNote, Text: text})
}

// steps gives the plan's steps their work. What Docker has of the lab is found by its label, so that one undoing takes back all.
func (u *up) steps() []steps.Step {
	works := map[string]func(context.Context) error{
		plan.StepImages:       u.ensureImages,
		plan.StepEKCA:         u.openCAs,
		plan.StepConfig:       u.configureKeylime,
		plan.StepNetwork:      u.buildNetwork,
		plan.StepDNS:          u.startDNS,
		plan.StepRegistrar:    u.startRegistrar,
		plan.StepVerifier:     u.startVerifier,
		plan.StepTenant:       u.startTenantAndEnroller,
		plan.StepControlPlane: u.startCluster,
		plan.StepCluster:      u.awaitCluster,
		plan.StepNodes:        u.awaitNodes,
		plan.StepLoadBalancer: u.applyLoadBalancer,
		plan.StepIngress:      u.applyIngress,
		plan.StepAgents:       u.applyAgents,
		plan.StepPolicies:     u.makePolicies,
	}
	for _, n := range u.planned.Nodes {
		works[plan.NodeStep(plan.StepTPM, n.Name)] = u.startNewTPM(n)
		works[plan.NodeStep(plan.StepAgent, n.Name)] = u.awaitAgent(n)
		works[plan.NodeStep(plan.StepEnrol, n.Name)] = u.enrol(n)
		works[plan.NodeStep(plan.StepAttest, n.Name)] = u.awaitAttested(n)
	}
	undo := map[string]func(context.Context) error{plan.StepImages: u.takeBack}
	var list []steps.Step
	for _, p := range u.planned.Steps {
		do, ok := works[p.Name]
		if !ok {
			do = func(context.Context) error { return fmt.Errorf("this substrate does not know the step %q", p.Name) }
		}
		list = append(list, steps.Step{Name: p.Name, After: p.After, Do: do, Undo: undo[p.Name], UndoFailed: true})
	}
	return list
}

// takeBack removes all that Docker has of the lab; of a lab that never was up, its TPMs too.
func (u *up) takeBack(ctx context.Context) error {
	u.closeLinks()
	if u.creation != nil {
		if err := u.abandon(u.creation); err != nil {
			return err
		}
	}
	err := remove(ctx, u.docker, u.planned.Lab, removal{dir: u.dir.Path, volumes: u.First})
	if u.First {
		err = errors.Join(err, u.dir.Forget())
	}
	return err
}

// ensureImages finds or builds the images, and makes keylab's own out of the running program.
func (u *up) ensureImages(ctx context.Context) error {
	k := u.planned.Kubernetes
	set, err := images.Ensure(ctx, images.Options{
		Source: images.Source(k.ImageSource), Registry: k.ImageRegistry, CacheDir: filepath.Join(u.Cache, "images"),
		Keylime: u.planned.Keylime.Version, Kubernetes: k.Version, Docker: u.docker,
		Log: func(line string) { u.note(plan.StepImages, line) },
	})
	if err != nil {
		return err
	}
	if set.Why != "" {
		u.note(plan.StepImages, set.Why)
	}
	if err := u.keepProgram(ctx, set); err != nil {
		return err
	}
	if err := u.agentImages(ctx, u.planned.Nodes...); err != nil {
		return err
	}
	close(u.imaged)
	return nil
}

// keepProgram stores the running program and the image made of it, has the lab know them, and removes copies that nobody uses any more.
func (u *up) keepProgram(ctx context.Context, set images.Set) error {
	unlock, err := lockPrograms(u.Cache)
	if err != nil {
		return err
	}
	defer unlock()
	program, err := storeProgram(u.Cache, runningProgram)
	if err != nil {
		return err
	}
	image, archive, err := programImage(u.Cache, program)
	if err != nil {
		return err
	}
	u.program, u.imageArchive = program, archive
	if err := u.learn(func(f *facts) { f.Images, f.Program, f.Image = set, program, image }); err != nil {
		return err
	}
	freed, err := prunePrograms(ctx, u.docker, u.Cache, program)
	switch {
	case err != nil: // that is no reason not to have a lab
		u.note(plan.StepImages, fmt.Sprintf("old copies of keylab stay in %s: %v", programsDir(u.Cache), err))
	case freed > 0:
		u.note(plan.StepImages, fmt.Sprintf("removed old copies of keylab from the cache, %d MB", freed/1e6))
	}
	return nil
}

func (u *up) startTenantAndEnroller(ctx context.Context) error {
	if err := u.startTenant(ctx); err != nil {
		return err
	}
	return u.openEnroller(ctx)
}

// openEnroller starts the process that enrols in the tenant's container. closeEnroller ends it.
func (u *up) openEnroller(ctx context.Context) error {
	log, err := u.logFile(plan.Tenant)
	if err != nil {
		return err
	}
	u.tenant = log
	e, err := u.startEnroller(context.WithoutCancel(ctx), log)
	u.enroller = e
	return err
}

func (u *up) closeEnroller(ctx context.Context) {
	if u.enroller != nil {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = u.enroller.Close(ctx) // its work is done, or undone
	}
	if u.tenant != nil {
		u.tenant.Close()
	}
}

func (u *up) enrol(n plan.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		step := plan.NodeStep(plan.StepEnrol, n.Name)
		waited, err := u.tpm(n.Name).AwaitSafeClock(ctx)
		if err != nil {
			return err
		}
		if waited > time.Second {
			u.note(step, fmt.Sprintf("waited %.1f s until the TPM's clock was safe again: the TPM had lost its power", waited.Seconds()))
		}
		if u.planned.HasIngress() {
			// The agent is ready as soon as its own node can reach it; the ingress, and the other nodes' routes to its pods, may be behind. The tenant asks once.
			if err := u.awaitServed(ctx, n, n); err != nil {
				return err
			}
		}
		uuid := u.node(n.Name).UUID
		e, err := u.enrolNode(ctx, u.enroller, u.tenant, n, uuid)
		if err != nil {
			return err
		}
		if err := u.learnNode(n.Name, func(f *nodeFacts) { f.Enrolled = e }); err != nil {
			return err
		}
		l := fleet.EKLab{Dir: u.dir, Authorities: u.authorities()}
		return fleet.CheckFirstEnrolment(n, uuid, e, l, u.node(n.Name).EKCertificate, u.planned.Keylime.RequireEKCert, func(text string) { u.note(step, text) })
	}
}

func (u *up) awaitAttested(n plan.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		known := u.node(n.Name)
		if known.Enrolled.Done && !known.Enrolled.OK {
			return nil
		}
		v, err := u.verifier()
		if err != nil {
			return err
		}
		defer v.Close()
		return u.awaitTrusted(ctx, v, n, known.UUID)
	}
}
