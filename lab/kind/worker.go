package kind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/constants"
	"sigs.k8s.io/kind/pkg/cluster/nodes"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// kind makes the nodes of a cluster all at once. One that joins later is made here, as a twin of the control plane: what kind chose for this machine and its
// Docker is what that container has.
const (
	labelKindRole = "io.x-k8s.kind.role"
	// kubeadmConfig is what kind has kubeadm read on each node, containerdConfig what it has changed for the cluster, discoveryConfig is keylab's own.
	kubeadmConfig    = "/kind/kubeadm.conf"
	containerdConfig = "/etc/containerd/config.toml"
	discoveryConfig  = "/kind/discovery.conf"
	// envOfControlPlane is what kind sets there alone.
	envOfControlPlane = "KUBECONFIG="
)

// makeWorker makes the container of one more worker, with what it needs to join the cluster, and returns when it runs what a node runs.
func (l *Lab) makeWorker(ctx context.Context, n plan.Node, t token) error {
	own, err := l.workerMounts(n)
	if err != nil {
		return err
	}
	controlPlane := l.planned.Kubernetes.ControlPlane
	model, err := l.docker.ContainerInspect(ctx, controlPlane)
	if err != nil {
		return fmt.Errorf("look at node %s: %w", controlPlane, err)
	}
	files, err := l.workerFiles(ctx, n, t)
	if err != nil {
		return err
	}
	config, host := twin(model.Config, model.HostConfig, n.KubernetesName, own)
	place := map[string]*network.EndpointSettings{l.resource(plan.Cluster): attachment{address: l.known().Addresses[n.Name]}.settings()}
	id, err := l.makeContainer(ctx, n.KubernetesName, config, host, &network.NetworkingConfig{EndpointsConfig: place}, files...)
	if err != nil {
		return err
	}
	if err := l.startContainer(ctx, id); err != nil {
		return fmt.Errorf("start container %s: %w", n.KubernetesName, explained(err))
	}
	return l.awaitBooted(ctx, n)
}

// twin makes of the container of the control plane that of a worker: with another name, and its own mounts beside those that all nodes have.
func twin(model *container.Config, on *container.HostConfig, name string, own []v1alpha4.Mount) (*container.Config, *container.HostConfig) {
	config, host := *model, *on
	config.Hostname, config.ExposedPorts, host.PortBindings = name, nil, nil
	config.MacAddress = "" //lint:ignore SA1019 Docker before 25 says there what the control plane has
	config.Labels = maps.Clone(config.Labels)
	config.Labels[labelKindRole] = constants.WorkerNodeRoleValue
	config.Env = slices.DeleteFunc(slices.Clone(config.Env), func(e string) bool { return strings.HasPrefix(e, envOfControlPlane) })
	host.Binds = slices.Clone(host.Binds)
	for _, m := range own {
		bind := m.HostPath + ":" + m.ContainerPath
		if m.Readonly {
			bind += ":ro"
		}
		host.Binds = append(host.Binds, bind)
	}
	return &config, &host
}

// workerFiles are what a worker finds when it starts: containerd's configuration as kind has changed it for all nodes, and what kubeadm needs.
func (l *Lab) workerFiles(ctx context.Context, n plan.Node, t token) ([]file, error) {
	controlPlane := l.planned.Kubernetes.ControlPlane
	containerd, err := l.execOutput(ctx, controlPlane, "cat", containerdConfig)
	if err != nil {
		return nil, err
	}
	kubeadm, err := l.execOutput(ctx, controlPlane, "cat", kubeadmConfig)
	if err != nil {
		return nil, err
	}
	join, err := joinConfig([]byte(kubeadm), worker{
		name: n.KubernetesName, cluster: l.planned.Kubernetes.Cluster, address: l.known().Addresses[n.Name], labels: l.workerLabels(n), token: t.String(),
	})
	if err != nil {
		return nil, fmt.Errorf("%s of node %s: %w", kubeadmConfig, controlPlane, err)
	}
	k, err := l.cluster()
	if err != nil {
		return nil, err
	}
	discovery, err := k.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	return []file{
		{path: containerdConfig, data: []byte(containerd), mode: 0o644},
		{path: kubeadmConfig, data: join, mode: 0o600},
		{path: discoveryConfig, data: discovery, mode: 0o600},
	}, nil
}

// cgroupsReady is the line from which on commands may be run on a node: before, they would be in the way of how it sets up its control groups
// (kind, pkg/cluster/internal/providers/common/cgroups.go).
var cgroupsReady = regexp.MustCompile(`Reached target .*Multi-User System.*|detected cgroup v1`)

// awaitBooted waits until a node that was started runs containerd.
func (l *Lab) awaitBooted(ctx context.Context, n plan.Node) error {
	r, err := l.docker.ContainerLogs(ctx, n.KubernetesName, container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		return fmt.Errorf("read the log of container %s: %w", n.KubernetesName, err)
	}
	defer r.Close()
	if err := awaitLine(r, cgroupsReady); err != nil {
		return fmt.Errorf("node %s did not start: %w; the end of its log:\n%s", n.KubernetesName, errors.Join(err, context.Cause(ctx)), l.containerTail(context.WithoutCancel(ctx), n.KubernetesName))
	}
	return fleet.Await(ctx, "containerd to run on "+n.KubernetesName, func(ctx context.Context) (string, error) {
		c, err := l.docker.ContainerInspect(ctx, n.KubernetesName)
		if err != nil {
			return "", err
		}
		if !c.State.Running {
			return "", fleet.Hopeless(fmt.Errorf("node %s has ended; the end of its log:\n%s", n.KubernetesName, l.containerTail(ctx, n.KubernetesName)))
		}
		_, err = l.execOutput(ctx, n.KubernetesName, "systemctl", "is-active", "containerd")
		return "", err
	})
}

// awaitLine reads until a line is there.
func awaitLine(r io.Reader, want *regexp.Regexp) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if want.Match(lines.Bytes()) {
			return nil
		}
	}
	return errors.Join(lines.Err(), errors.New("its log ended before it was ready"))
}

// joinCluster has a worker that runs join the cluster, and returns when it is ready there.
func (l *Lab) joinCluster(ctx context.Context, n plan.Node) error {
	log, err := l.logFile("kind")
	if err != nil {
		return err
	}
	defer log.Close()
	out, err := l.execOutput(ctx, n.KubernetesName, "kubeadm", "join", "--config", kubeadmConfig, "--v=6")
	newKindLogger(log).V(0).Infof("kubeadm join on %s:\n%s", n.KubernetesName, out)
	if err != nil {
		return fmt.Errorf("%s does not join the cluster: kubeadm join: %s\nkind's log is %s", n.KubernetesName, lastLines(out, troubleLines), l.dir.Log("kind"))
	}
	return l.awaitReady(ctx, n.KubernetesName)
}

// loadIntoWorker loads the images into a worker that its store lacks, once it has loaded keylab's own by itself.
func (l *Lab) loadIntoWorker(ctx context.Context, n plan.Node) error {
	all, err := cluster.NewProvider(cluster.ProviderWithDocker()).ListInternalNodes(l.planned.Kubernetes.Cluster)
	if err != nil {
		return fmt.Errorf("list the cluster's nodes: %w", err)
	}
	if _, err := l.execOutput(ctx, n.KubernetesName, "systemctl", "start", unitImages+".service"); err != nil {
		return fmt.Errorf("have node %s load keylab's own image: %w", n.KubernetesName, err)
	}
	return l.loadInto(ctx, slices.DeleteFunc(all, func(other nodes.Node) bool { return other.String() != n.KubernetesName }), n)
}

// takenAddresses are those in the cluster network that hosts of the lab have, whether they run or not, and those of other containers there.
func (l *Lab) takenAddresses(ctx context.Context) ([]netip.Addr, error) {
	var taken []netip.Addr
	for _, h := range l.plan().Hosts {
		for _, i := range h.Interfaces {
			taken = append(taken, i.Address)
		}
	}
	name := l.resource(plan.Cluster)
	net, err := l.docker.NetworkInspect(ctx, name, network.InspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("look at the Docker network %s: %w", name, err)
	}
	for _, c := range net.Containers {
		if p, err := netip.ParsePrefix(c.IPv4Address); err == nil {
			taken = append(taken, p.Addr())
		}
	}
	return taken, nil
}
