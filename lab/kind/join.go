package kind

import (
	"context"
	"errors"
	"fmt"
	"time"

	cerrdefs "github.com/containerd/errdefs"

	"keylab.dev/keylab/internal/machine"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/steps"
)

// joining is a lab while one more node joins it: the steps for it are those that `up` takes for each.
type joining struct {
	*up
	n      plan.Node
	kept   spec.Spec // the specification with it
	before plan.Plan // without it
	token  token
	lab    string       // the container of the control plane: another one is another run of the lab
	newTPM bool         // it has no TPM from an earlier time
	forget func() error // takes back what the lab's folder has of it that is new
}

// join makes one more node, which for the rest is as the lab's specification has them by default, and has it attested. What fails is taken back.
func (l *Lab) join(ctx context.Context, defined spec.Node) (string, error) {
	kept, next, err := l.planJoin(ctx, defined)
	if err != nil {
		return "", err
	}
	if err := checkRoom(machine.AvailableMemory()); err != nil {
		return "", err
	}
	n, _ := next.Node(defined.Name)
	j := &joining{up: &up{Lab: l, UpOptions: UpOptions{Emit: func(control.Event) {}}}, n: n, kept: kept, before: l.planned}
	if j.token, err = newToken(); err != nil {
		return "", err
	}
	if j.lab, err = l.runOf(ctx); err != nil {
		return "", err
	}
	if j.newTPM, err = l.lacksTPM(ctx, n); err != nil {
		return "", err
	}
	if j.forget, err = roster.Reserve(l.dir, next, n.Name); err != nil {
		return "", err
	}
	l.planned = next
	defer j.closeEnroller(context.WithoutCancel(ctx))
	ctx, stop := j.untilDown(ctx)
	defer stop()
	if _, err := steps.Run(ctx, j.steps(), steps.Options{UndoTimeout: removeLimit}); err != nil {
		if why := context.Cause(ctx); why != nil && !errors.Is(err, why) {
			err = errors.Join(err, why)
		}
		return "", err
	}
	if e := l.node(n.Name).Enrolled; !e.OK {
		return fmt.Sprintf("it joined the lab at %s; the tenant refused it: %s", n.Address, e.Message), nil
	}
	return fmt.Sprintf("it joined the lab at %s: its agent has registered, and the verifier had a good quote", n.Address), nil
}

// planJoin works out specification and plan with one more node.
func (l *Lab) planJoin(ctx context.Context, defined spec.Node) (kept spec.Spec, next plan.Plan, err error) {
	if kept, err = roster.ReadSpec(l.dir); err != nil {
		return kept, next, err
	}
	if h, taken := l.plan().Host(defined.Name); taken {
		return kept, next, fmt.Errorf("the lab has a host of that name already, at %s", h.Address())
	}
	kept.Nodes = kept.Nodes.With(defined)
	if err := kept.Validate(); err != nil {
		return kept, next, err
	}
	taken, err := l.takenAddresses(ctx)
	if err != nil {
		return kept, next, err
	}
	if next, err = l.planned.Join(kept, defined.Name, taken...); err != nil {
		return kept, next, err
	}
	return kept, next, l.planned.Serves(next)
}

// checkRoom refuses one more node where there is no memory for it; available is in MiB, 0 when it is unknown.
func checkRoom(available int) error {
	if available == 0 || available >= memoryWorker {
		return nil
	}
	return fmt.Errorf("one more node needs about %d MiB of memory, and %d MiB are available", memoryWorker, available)
}

// lacksTPM tells whether Docker has no TPM of an earlier time for a node.
func (l *Lab) lacksTPM(ctx context.Context, n plan.Node) (bool, error) {
	home, err := l.tpmVolume(n.Name)
	if err != nil {
		return false, err
	}
	_, err = l.docker.VolumeInspect(ctx, l.resource(home))
	if cerrdefs.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the TPM of %s: %w", n.Name, err)
	}
	return false, nil
}

// Steps of a node that joins, beside those of `up`.
const (
	stepPlace   = "place"
	stepMachine = "machine"
	stepNode    = "node"
	stepNames   = "names"
	stepRoster  = "roster"
)

func (j *joining) steps() []steps.Step {
	n := j.n
	return []steps.Step{
		{Name: stepPlace, Do: j.place, Undo: j.takeBack, UndoFailed: true},
		{Name: plan.StepImages, After: []string{stepPlace}, Do: func(ctx context.Context) error { return j.agentImages(ctx, n) }},
		{Name: plan.StepTenant, After: []string{stepPlace}, Do: j.openEnroller},
		{Name: plan.StepTPM, After: []string{stepPlace}, Do: j.startTPM(n)},
		{Name: stepNames, After: []string{stepPlace}, Do: j.name},
		{Name: plan.StepPolicies, After: []string{stepPlace}, Do: j.makePolicy},
		{Name: stepMachine, After: []string{plan.StepImages}, Do: j.makeMachine},
		{Name: plan.StepAgents, After: []string{plan.StepTPM, plan.StepImages}, Do: j.applyAgents},
		// A pod is started on it as soon as it is there, which needs its TPM and its files.
		{Name: stepNode, After: []string{stepMachine, plan.StepAgents}, Do: j.enter},
		{Name: plan.StepAgent, After: []string{stepNode, stepNames}, Do: j.awaitAgent(n)},
		{Name: plan.StepEnrol, After: []string{plan.StepAgent, plan.StepTenant, plan.StepPolicies}, Do: j.enrol(n)},
		{Name: plan.StepAttest, After: []string{plan.StepEnrol}, Do: j.awaitAttested(n)},
		{Name: stepRoster, After: []string{plan.StepAttest}, Do: func(context.Context) error { return roster.Write(j.dir, j.kept, j.planned) }},
	}
}

// place makes room for the node: nothing is there of one that could not join, and whose keylab was killed.
func (j *joining) place(ctx context.Context) error {
	if err := errors.Join(j.removeMachine(ctx, j.n), j.deleteNode(ctx, j.n)); err != nil {
		return err
	}
	err := j.learn(func(f *facts) {
		f.Addresses[j.n.Name], f.Nodes[j.n.Name] = j.n.Address, nodeFacts{}
	})
	if err != nil {
		return err
	}
	k, err := j.cluster()
	if err != nil {
		return err
	}
	return k.admit(ctx, j.token)
}

// name has the node's name known, also to the lab's hosts when they are started again.
func (j *joining) name(ctx context.Context) error {
	if err := j.keepAddresses(); err != nil {
		return err
	}
	return j.setRecord(ctx, j.n, j.n.Address)
}

func (j *joining) makePolicy(ctx context.Context) error {
	if j.n.IMA == nil {
		return nil
	}
	tools, err := j.onThisMachine(ctx)
	if err != nil {
		return err
	}
	return fleet.MakePolicy(ctx, j.dir, tools, j.n)
}

func (j *joining) makeMachine(ctx context.Context) error {
	if err := j.makeWorker(ctx, j.n, j.token); err != nil {
		return err
	}
	return j.loadIntoWorker(ctx, j.n)
}

// enter has the node join the cluster, for which alone its token is.
func (j *joining) enter(ctx context.Context) error {
	if err := j.joinCluster(ctx, j.n); err != nil {
		return err
	}
	k, err := j.cluster()
	if err != nil {
		return err
	}
	return k.dismiss(ctx, j.token)
}

// takeBackLimit is how long each service may take to forget a node that could not join: it may be for the service that it could not.
const takeBackLimit = 5 * time.Second

var errTakenDown = errors.New("the lab was taken down meanwhile")

// runOf is the container of the control plane, which is another one in each run of the lab; "": it does not run.
func (l *Lab) runOf(ctx context.Context) (string, error) {
	containers, err := l.running(ctx)
	if err != nil {
		return "", err
	}
	if c := containers[l.planned.Kubernetes.ControlPlane]; c.State == "running" {
		return c.ID, nil
	}
	return "", nil
}

// untilDown is ctx that also ends when the lab is taken down, which another command may do at any time.
func (j *joining) untilDown(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now, err := j.runOf(ctx); err == nil && now != j.lab {
				cancel(errTakenDown)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// takeBack leaves nothing of a node that could not join. What one does not do, the others do all the same.
func (j *joining) takeBack(ctx context.Context) error {
	var errs []error
	switch now, err := j.runOf(ctx); {
	case err == nil && now == "":
		errs = append(errs, j.removeMachine(ctx, j.n)) // nobody is left who could be told
	case err == nil && now != j.lab:
		return nil // what there is now belongs to the lab's next run
	default:
		errs = append(errs, j.forgetAgent(ctx))
		if k, err := j.cluster(); err == nil {
			errs = append(errs, k.dismiss(ctx, j.token))
		}
		errs = append(errs, j.takeNodeOut(ctx, j.n, j.before))
	}
	if j.newTPM {
		errs = append(errs, j.discardTPM(ctx))
	}
	return errors.Join(append(errs, j.forget())...)
}

// forgetAgent has verifier and registrar forget its agent, unless another node has its UUID.
func (j *joining) forgetAgent(ctx context.Context) error {
	uuid := machines{j.Lab}.outdated(j.n)
	if uuid == "" {
		return nil
	}
	verifier, err := j.verifier()
	if err != nil {
		return err
	}
	defer verifier.Close()
	registrar, err := j.registrar()
	if err != nil {
		return err
	}
	defer registrar.Close()
	asked, cancel := context.WithTimeout(ctx, takeBackLimit)
	defer cancel()
	errs := []error{fleet.ForgetAll(asked, verifier, registrar, uuid, nil)}
	told, cancel := context.WithTimeout(ctx, takeBackLimit)
	defer cancel()
	if err := registrar.Delete(told, uuid); err != nil && !errors.Is(err, keylime.ErrNotFound) {
		errs = append(errs, fmt.Errorf("have the registrar forget %s: %w", uuid, err))
	}
	return errors.Join(errs...)
}

// discardTPM destroys the TPM that the node was given.
func (j *joining) discardTPM(ctx context.Context) error {
	home, err := j.tpmVolume(j.n.Name)
	if err != nil {
		return err
	}
	if err := j.docker.VolumeRemove(ctx, j.resource(home), true); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("destroy the TPM of %s: %w", j.n.Name, err)
	}
	return nil
}
