package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
)

// changeMembers has a node join or leave the running lab. Nothing else of the lab is started again for it.
func (l *Lab) changeMembers(ctx context.Context, a control.Action) (done string, err error) {
	if err := a.Check(); err != nil {
		return "", err
	}
	defined, err := a.Defined()
	if err != nil {
		return "", err
	}
	alone, err := l.changeAlone(ctx)
	if err != nil {
		return "", err
	}
	defer alone()
	if err := l.mustBeUp(); err != nil { // it may have been taken down meanwhile
		return "", err
	}
	ctx, end := fleet.Limited(ctx)
	defer end()
	if a.Kind == control.ActionAdd {
		done, err = l.join(ctx, defined)
	} else {
		done, err = l.leave(ctx, a.Node)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", a.Kind, a.Node, err)
	}
	return done, nil
}

// leave has verifier and registrar forget a node, and takes it out of the lab. Its TPM stays, for when it comes back. One that was broken off can be done again.
func (l *Lab) leave(ctx context.Context, name string) (string, error) {
	n, err := l.findNode(name)
	if err != nil {
		return "", err
	}
	kept, err := roster.ReadSpec(l.dir)
	if err != nil {
		return "", err
	}
	kept.Nodes = kept.Nodes.Without(name)
	if kept.Nodes.Len() == 0 {
		return "", errors.New("it is the lab's last node: `keylab down` ends the lab")
	}
	if err := kept.Validate(); err != nil {
		return "", err
	}
	next, err := l.planned.Leave(name)
	if err != nil {
		return "", err
	}
	if m := (machines{l}); m.outdated(n) != "" { // else another node has its UUID, by a copy of its TPM
		if err := m.Forget(ctx, n); err != nil {
			return "", err
		}
	}
	// From here on it is brought to its end, whoever asked for it is still there or not.
	ctx, end := fleet.Limited(context.WithoutCancel(ctx))
	defer end()
	if err := l.drain(ctx, n); err != nil {
		return "", err
	}
	if err := l.takeNodeOut(ctx, n, next); err != nil {
		return "", err
	}
	if err := roster.Write(l.dir, kept, next); err != nil {
		return "", err
	}
	return fmt.Sprintf("it left the lab: verifier and registrar have forgotten it, and nothing of it runs; `keylab node add %s` brings it back with the TPM that it had", name), nil
}

// takeNodeOut removes all of a node that runs, and takes its names away; next is the plan without it. It goes on after a failure, and what is gone already is no
// error. What is left of the node is its TPM's volume, and what the lab's folder has of it.
func (l *Lab) takeNodeOut(ctx context.Context, n plan.Node, next plan.Plan) error {
	l.closeLink(n.Name)
	l.closeLink(tpmPart(n.Name))
	errs := []error{l.removeMachine(ctx, n), l.deleteNode(ctx, n)}
	// What is applied, and looked after, is that of the other nodes from now on.
	l.planned = next
	errs = append(errs, l.withdrawAgents(ctx), l.setRecord(ctx, n, netip.Addr{}))
	errs = append(errs, l.learn(func(f *facts) {
		delete(f.Nodes, n.Name)
		delete(f.Addresses, n.Name)
	}))
	errs = append(errs, l.keepAddresses())
	for _, path := range []string{l.socketDir(n.Name), filepath.Join(l.dir.Path, "containers", tpmPart(n.Name)+".json")} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// removeMachine removes a node's container, with its disk, and its TPM's, whose power goes in order.
func (l *Lab) removeMachine(ctx context.Context, n plan.Node) error {
	remove := func(name string) error {
		err := l.docker.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !cerrdefs.IsNotFound(err) {
			return fmt.Errorf("remove container %s: %w", name, err)
		}
		return nil
	}
	tpm, limit := l.resource(tpmPart(n.Name)), tpmStopTimeout
	err := remove(n.KubernetesName)
	if stopped := l.docker.ContainerStop(ctx, tpm, container.StopOptions{Timeout: &limit}); stopped != nil && !cerrdefs.IsNotFound(stopped) {
		err = errors.Join(err, fmt.Errorf("stop the TPM of %s: %w", n.Name, stopped))
	}
	return errors.Join(err, remove(tpm))
}

// setRecord has the DNS servers know a node's host name by this address; the zero Addr: not at all.
func (l *Lab) setRecord(ctx context.Context, n plan.Node, a netip.Addr) error {
	var errs []error
	for _, server := range []string{plan.DNS, plan.ClusterDNS} {
		if err := l.dns(server).SetRecord(ctx, l.planned.HostName(n.Name), a); err != nil {
			errs = append(errs, fmt.Errorf("tell %s the address of %s: %w", server, n.Name, err))
		}
	}
	return errors.Join(errs...)
}
