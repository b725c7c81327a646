package kind

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/kind/tpmrole"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// tctiAt is how tpm2-tss reaches a TPM whose sockets are in a folder.
func tctiAt(dir string) string {
	return "cmd:" + keylabPath + " in-container tpm-connect " + filepath.Join(dir, tpmrole.SocketTPM)
}

// exec makes a command that runs argv in a container by the docker command, which is at home on terminals.
func (l *Lab) exec(ctx context.Context, name string, terminal bool, env []string, argv ...string) *exec.Cmd {
	args := []string{"exec", "-i"}
	if terminal {
		args = append(args, "-t")
	}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	return exec.CommandContext(ctx, "docker", append(append(args, name), argv...)...)
}

// Command makes a command that runs argv on one of the lab's hosts, with the node's TPM in TPM2TOOLS_TCTI and TCTI.
func (l *Lab) Command(ctx context.Context, host string, terminal bool, argv ...string) (*exec.Cmd, error) {
	if err := l.mustRun(ctx); err != nil {
		return nil, err
	}
	if host == plan.Ingress {
		return nil, fmt.Errorf("the ingress is a pod: keylab kubectl -- -n %s exec deploy/%s -c haproxy -- %s", l.planned.Kubernetes.SystemNamespace, manifests.AppIngress, strings.Join(argv, " "))
	}
	if _, ok := l.planned.Host(host); !ok {
		var names []string
		for _, h := range l.planned.Hosts {
			names = append(names, h.Name)
		}
		return nil, fmt.Errorf("the lab has no host %q; it has %s", host, strings.Join(names, ", "))
	}
	var env []string
	if _, ok := l.planned.Node(host); ok {
		env = []string{"TPM2TOOLS_TCTI=" + tctiAt(nodeTPMDir), "TCTI=" + tctiAt(nodeTPMDir)}
	}
	return l.exec(ctx, l.containerOf(host), terminal, env, argv...), nil
}

// TPMCommand makes a command that runs a TPM tool against a node's TPM, in the TPM's own container, which has tpm2-tools.
func (l *Lab) TPMCommand(ctx context.Context, node string, terminal bool, argv ...string) (*exec.Cmd, error) {
	if err := l.mustRun(ctx); err != nil {
		return nil, err
	}
	env := []string{"TPM2TOOLS_TCTI=" + tctiAt(tpmSocketDir), "TCTI=" + tctiAt(tpmSocketDir)}
	cmd := l.exec(ctx, l.resource(tpmPart(node)), terminal, env, argv...)
	cmd.Args = append(cmd.Args[:2:2], append([]string{"--workdir", "/tmp"}, cmd.Args[2:]...)...) // the rest of the container is read-only
	return cmd, nil
}

// TenantCommand makes a command that runs keylime_tenant with these arguments.
func (l *Lab) TenantCommand(ctx context.Context, terminal bool, args ...string) (*exec.Cmd, error) {
	c, err := l.Tenant(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.mustRun(ctx); err != nil {
		return nil, err
	}
	return l.exec(ctx, l.resource(plan.Tenant), terminal, c.Env, append(c.Argv, args...)...), nil
}

func (l *Lab) mustRun(ctx context.Context) error {
	containers, err := l.running(ctx)
	if err == nil && len(containers) == 0 {
		err = control.ErrNotRunning
	}
	return err
}

// Objects are all Kubernetes objects of the lab, in the order in which they are applied.
func (l *Lab) Objects() ([]runtime.Object, error) {
	if l.known().Image == "" {
		return nil, control.ErrNotRunning
	}
	m, err := l.objects()
	if err != nil {
		return nil, err
	}
	list := manifests.System(m)
	if l.planned.HasIngress() {
		list = append(list, manifests.LoadBalancer(m)...)
	}
	switch {
	case !l.planned.HasIngress():
	case m.IngressClass == manifests.ClassKeylab:
		list = append(list, manifests.Ingress(m)...)
	default:
		list = append(list, manifests.Labels(m)...)
	}
	return append(list, manifests.Agents(m)...), nil
}
