package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/kind"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// kind is the lab opened from its folder, if its substrate is kind; else nil. The caller closes it.
func (l *Lab) kind() (*kind.Lab, error) {
	k, err := kind.Open(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || k.Substrate() != string(spec.SubstrateKind) {
		if k != nil {
			k.Close()
		}
		return nil, err
	}
	return k, nil
}

// mustKind is kind, or an error that says what verb wants one.
func (l *Lab) mustKind(what string) (*kind.Lab, error) {
	k, err := l.kind()
	if err == nil && k == nil {
		if !l.dir.Made() {
			return nil, ErrNotRunning
		}
		err = fmt.Errorf("lab %q has no cluster: %s is for labs of the substrate kind", l.dir.Lab, what)
	}
	return k, err
}

// upKind brings a lab of the substrate kind up, in this process: such a lab needs none afterwards.
func upKind(ctx context.Context, dir state.Dir, p plan.Plan, cache string, o UpOptions, first bool) error {
	return kind.Up(ctx, dir, p, kind.UpOptions{Cache: cache, Retain: o.Retain, First: first, Emit: o.OnEvent})
}

// notInDocker refuses to make a lab of another substrate where the folder is that of one on Kubernetes of which Docker still has something: its containers, or its TPMs,
// would be nobody's any more.
func (l *Lab) notInDocker(ctx context.Context) error {
	k, err := l.kind()
	if k == nil {
		return err
	}
	defer k.Close()
	running, kept, err := k.Has(ctx)
	name := l.dir.Lab
	switch {
	case err != nil:
		return fmt.Errorf("lab %q is one on Kubernetes, and Docker does not say whether it runs: %w", name, err)
	case running:
		return fmt.Errorf("lab %q, which is on Kubernetes: %w: `keylab status %s` shows it, `keylab wipe %s` ends and deletes it", name, ErrRunning, name, name)
	case kept:
		return fmt.Errorf("lab %q is one on Kubernetes, and Docker keeps its TPMs: take another name, or `keylab wipe %s` deletes them", name, name)
	}
	return nil
}

// dockerTimeout is how long Docker may take to say whether it has something of a lab that has no folder to say so.
const dockerTimeout = 5 * time.Second

// dockerDown removes what Docker has of the lab. Where the lab's folder does not say that it is one of the substrate kind, a machine without Docker
// has nothing of it.
func (l *Lab) dockerDown(ctx context.Context, wipe bool) (was bool, err error) {
	k, err := l.kind()
	certain := err == nil && k != nil
	if certain {
		k.Close()
	}
	if !certain && l.dir.Made() && err == nil {
		return false, nil // another substrate's
	}
	docker, err := kind.NewClient()
	if err != nil {
		return false, err
	}
	defer docker.Close()
	if !certain {
		ping, cancel := context.WithTimeout(ctx, dockerTimeout)
		defer cancel()
		if _, err := docker.Ping(ping); err != nil {
			return false, nil
		}
	} else if _, err := kind.CheckDocker(ctx, docker); err != nil {
		return false, err
	}
	if wipe {
		return kind.Wipe(ctx, docker, l.dir)
	}
	return kind.Down(ctx, docker, l.dir)
}

// remains are the labs of which Docker has something and this user no folder: half made, or their folders deleted by hand.
func remains(ctx context.Context, known map[string]bool) []Status {
	docker, err := kind.NewClient()
	if err != nil {
		return nil
	}
	defer docker.Close()
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	names, err := kind.Remains(ctx, docker)
	if err != nil {
		return nil // no Docker, no remains
	}
	var list []Status
	for _, name := range names {
		if !known[name] {
			list = append(list, Status{Lab: name, Substrate: string(spec.SubstrateKind), State: control.Remains, Components: []control.Component{}, Nodes: []control.Node{}})
		}
	}
	return list
}

// Kubeconfig is the path of the kubeconfig of the lab's cluster. ErrNotRunning when the lab does not run.
func (l *Lab) Kubeconfig(ctx context.Context) (string, error) {
	k, err := l.mustKind("a kubeconfig")
	if err != nil {
		return "", err
	}
	defer k.Close()
	if _, err := k.Status(ctx); err != nil {
		return "", err
	}
	return k.Kubeconfig(), nil
}

// Objects are the lab's Kubernetes objects.
func (l *Lab) Objects() ([]runtime.Object, error) {
	k, err := l.mustKind("its manifests")
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return k.Objects()
}

// CollectLogs brings the logs in the lab's folder up to date; where a lab writes them there itself there is nothing to do.
func (l *Lab) CollectLogs(ctx context.Context) error {
	k, err := l.kind()
	if err != nil || k == nil {
		return err
	}
	defer k.Close()
	return k.CollectLogs(ctx)
}

// FollowLogs has the logs of these components and nodes grow in the lab's folder until ctx ends; where a lab writes them there itself there is nothing to do.
func (l *Lab) FollowLogs(ctx context.Context, names []string) error {
	k, err := l.kind()
	if err != nil || k == nil {
		return err
	}
	context.AfterFunc(ctx, func() { k.Close() })
	return k.FollowLogs(ctx, names)
}
