package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	kindlog "sigs.k8s.io/kind/pkg/log"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// envKindNetwork is kind's name for the Docker network that its nodes stand in.
const envKindNetwork = "KIND_EXPERIMENTAL_DOCKER_NETWORK"

// Kubeconfig is the lab's own kubeconfig: nothing is written to the user's.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.dir.Path, "kubeconfig") }

// clusterConfig is the cluster in kind's own terms.
func (l *Lab) clusterConfig() (*v1alpha4.Cluster, error) {
	k := l.planned.Kubernetes
	first, err := l.nodeMounts(false)
	if err != nil {
		return nil, err
	}
	shared, err := l.nodeMounts(true)
	if err != nil {
		return nil, err
	}
	c := &v1alpha4.Cluster{
		TypeMeta: v1alpha4.TypeMeta{APIVersion: "kind.x-k8s.io/v1alpha4", Kind: "Cluster"},
		Networking: v1alpha4.Networking{
			DisableDefaultCNI: !l.images().BuiltInCNI, PodSubnet: k.PodCIDR.String(), ServiceSubnet: k.ServiceCIDR.String(),
		},
		Nodes: []v1alpha4.Node{{Role: v1alpha4.ControlPlaneRole, ExtraMounts: first}},
		// Where the machine itself lacks CAP_SYS_RESOURCE, a container's oom_score_adj cannot be lowered.
		ContainerdConfigPatches: []string{"[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n"},
		KubeadmConfigPatches:    []string{briskControlPlane, briskKubelet},
	}
	for _, n := range l.planned.Nodes {
		own, err := l.workerMounts(n)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, v1alpha4.Node{Role: v1alpha4.WorkerRole, Labels: l.workerLabels(n), ExtraMounts: append(slices.Clone(shared), own...)})
	}
	return c, nil
}

// workerMounts is what one worker alone sees of this machine: the sockets of its TPM, and what its specification names.
func (l *Lab) workerMounts(n plan.Node) ([]v1alpha4.Mount, error) {
	if err := l.makeSocketDir(n.Name); err != nil {
		return nil, err
	}
	mounts := []v1alpha4.Mount{{HostPath: l.socketDir(n.Name), ContainerPath: nodeTPMDir}}
	for _, m := range n.Mounts {
		mounts = append(mounts, v1alpha4.Mount{HostPath: m.HostPath, ContainerPath: m.ContainerPath, Readonly: m.ReadOnly})
	}
	return mounts, nil
}

// workerLabels are those that a worker's kubelet gives its node.
func (l *Lab) workerLabels(n plan.Node) map[string]string {
	labels := map[string]string{
		manifests.LabelNode:   n.Name,
		manifests.LabelAgents: manifests.Lab{KeylabImage: l.known().Image}.AgentSet(l.agentOf(n)),
	}
	maps.Copy(labels, n.Labels)
	return labels
}

// What a lab waits for in a cluster that starts, with the defaults, while the machine idles.
const (
	// Controllers are started one after the other, and ask the API server so much that its client holds them up, at twenty questions a second; kubeadm join asks
	// for what one of them makes (the signature of cluster-info), and again only after five seconds. Controllers and scheduler ask for the lead before the API
	// server lets them, and then not again for two seconds; later they tell every two seconds that they have it, though there is nobody else. A claim to a
	// volume whose binding fails once, as it does when somebody else changes the volume at that moment, is looked at again only after fifteen seconds.
	briskControlPlane = `kind: ClusterConfiguration
controllerManager: {extraArgs: {kube-api-qps: "200", kube-api-burst: "400", pvclaimbinder-sync-period: 1s, leader-elect: "false"}}
scheduler: {extraArgs: {leader-elect: "false"}}
`
	// A node says that it has TPMs to give with its next status, for which it looks at itself every ten seconds: here every second, and what has not changed it tells
	// every ten, which is most of what a cluster does that idles. What a pod mounts is asked for when it is mounted: a kubelet that watches it gives a new
	// watch one second, and begins anew.
	briskKubelet = `kind: KubeletConfiguration
nodeStatusUpdateFrequency: 1s
nodeStatusReportFrequency: 10s
configMapAndSecretChangeDetectionStrategy: Get
`
)

// creation is kind at work.
type creation struct {
	provider *cluster.Provider
	done     chan struct{} // closed when kind has come to its end
	err      error         // how, once done is closed
}

// create has kind make the cluster, and does not wait for that. It cannot be told to stop: abandon ends it.
func (l *Lab) create(ctx context.Context) (*creation, error) {
	config, err := l.clusterConfig()
	if err != nil {
		return nil, err
	}
	log, err := l.logFile("kind")
	if err != nil {
		return nil, err
	}
	if err := os.Setenv(envKindNetwork, l.resource(plan.Cluster)); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	restore, err := l.kindInTurn(ctx)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	c := &creation{provider: cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(newKindLogger(log))), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer log.Close()
		defer func() { c.err = errors.Join(c.err, restore()) }()
		c.err = c.provider.Create(l.planned.Kubernetes.Cluster,
			cluster.CreateWithV1Alpha4Config(config), cluster.CreateWithNodeImage(l.images().Node),
			cluster.CreateWithKubeconfigPath(l.Kubeconfig()), cluster.CreateWithRetain(true),
			cluster.CreateWithDisplayUsage(false), cluster.CreateWithDisplaySalutation(false))
	}()
	return c, nil
}

// startCluster has kind begin the cluster, and gives the cluster what every node needs as soon as there is somebody to give it to: the workers, which
// join later, find it there.
func (u *up) startCluster(ctx context.Context) error {
	c, err := u.create(ctx)
	if err != nil {
		return err
	}
	u.creation = c
	answers := make(chan error, 1)
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() { answers <- u.awaitAPI(waiting, c.provider) }()
	select {
	case err = <-answers:
	case <-c.done:
		if err = u.creationError(ctx, c); err == nil {
			err = <-answers
		}
	}
	if ctx.Err() != nil {
		return u.abandoned(ctx, c)
	}
	if err != nil {
		return err
	}
	close(u.answers)
	if err := u.learnAddresses(ctx); err != nil {
		return err
	}
	if err := u.applySystem(ctx); err != nil {
		return err
	}
	return u.loadImages(ctx, c.provider)
}

// awaitCluster waits until all nodes have joined the cluster.
func (u *up) awaitCluster(ctx context.Context) error {
	c := u.creation
	select {
	case <-c.done:
	case <-ctx.Done():
		return u.abandoned(ctx, c)
	}
	if err := u.creationError(ctx, c); err != nil {
		return err
	}
	if err := os.Chmod(u.Kubeconfig(), 0o600); err != nil {
		return fmt.Errorf("kind wrote no kubeconfig: %w", err)
	}
	return nil
}

// creationError is how kind's work failed; nil where it did not.
func (l *Lab) creationError(ctx context.Context, c *creation) error {
	if c.err == nil {
		return nil
	}
	return fmt.Errorf("kind: %w\n%s", withOutput(c.err), l.whyNoCluster(context.WithoutCancel(ctx)))
}

// abandoned ends kind's work, for which the time is over, and says why.
func (l *Lab) abandoned(ctx context.Context, c *creation) error {
	why := ""
	if errors.As(context.Cause(ctx), new(*lateError)) { // else it is no fault of the nodes
		why = "\n" + l.whyNoCluster(context.WithoutCancel(ctx)) // while they are there
	}
	err := errors.Join(context.Cause(ctx), l.abandon(c))
	return fmt.Errorf("kind had not made the cluster: %w%s", err, why)
}

// abandon takes kind's nodes away under it until it gives up. Where it has come to its end nothing is done.
func (l *Lab) abandon(c *creation) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return nil
		default:
		}
		if err := l.removeNodes(ctx); err != nil {
			return err
		}
		select {
		case <-c.done:
			return l.removeNodes(ctx)
		case <-ctx.Done():
			return errors.New("kind went on making nodes")
		case <-tick.C:
		}
	}
}

// apiServer is where the control plane's API server listens on its own node.
const apiServer = "127.0.0.1:6443"

// awaitAPI waits until the control plane's API server answers its administrator, for whom it writes the lab's kubeconfig; kind does so only at its end.
func (l *Lab) awaitAPI(ctx context.Context, provider *cluster.Provider) error {
	node := l.planned.Kubernetes.ControlPlane
	err := fleet.Await(ctx, "the API server of "+node+" to listen", func(ctx context.Context) (string, error) {
		conn, err := l.dialFrom(node)(ctx, "tcp", apiServer)
		if err != nil {
			return "", err
		}
		return "", conn.Close()
	})
	if err != nil {
		return err
	}
	if err := provider.ExportKubeConfig(l.planned.Kubernetes.Cluster, l.Kubeconfig(), false); err != nil {
		return fmt.Errorf("write the lab's kubeconfig: %w", withOutput(err))
	}
	k, err := l.cluster()
	if err != nil {
		return err
	}
	return fleet.Await(ctx, "the API server of "+node+" to answer", func(ctx context.Context) (string, error) {
		_, err := k.typed.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}) // the kubelet of the control plane makes it
		return "", err
	})
}

func (l *Lab) workers() []string {
	var names []string
	for _, n := range l.planned.Nodes {
		names = append(names, n.KubernetesName)
	}
	return names
}

// learnAddresses reads back which address Docker gave each node, and tells the lab's DNS servers and router.
func (l *Lab) learnAddresses(ctx context.Context) error {
	got := map[string]netip.Addr{}
	for _, h := range l.planned.Hosts {
		if !h.Pooled {
			continue
		}
		c, err := l.docker.ContainerInspect(ctx, l.containerOf(h.Name))
		if err != nil {
			return fmt.Errorf("ask for the address of %s: %w", h.Name, err)
		}
		e := c.NetworkSettings.Networks[l.resource(plan.Cluster)]
		if e == nil {
			return fmt.Errorf("node %s does not stand in the lab's cluster network", h.Name)
		}
		if got[h.Name], err = netip.ParseAddr(e.IPAddress); err != nil {
			return fmt.Errorf("address of node %s: %w", h.Name, err)
		}
	}
	if err := l.learn(func(f *facts) { f.Addresses = got }); err != nil {
		return err
	}
	return l.tellAddresses(ctx)
}

// tellAddresses gives DNS and router the addresses that the plan could not know, and keeps them for the day when their containers are restarted.
func (l *Lab) tellAddresses(ctx context.Context) error {
	if err := l.keepAddresses(); err != nil {
		return err
	}
	p := l.plan()
	for _, server := range []string{plan.DNS, plan.ClusterDNS} {
		for name, address := range p.DNS.Records {
			if address == l.planned.DNS.Records[name] {
				continue
			}
			if err := l.dns(server).SetRecord(ctx, name, address); err != nil {
				return fmt.Errorf("tell %s the address of %s: %w", server, name, err)
			}
		}
	}
	for i, r := range p.Rules {
		if r != l.planned.Rules[i] {
			return l.router().SetRules(ctx, routerRules(p))
		}
	}
	return nil
}

// keepAddresses writes them into what these containers read when they start.
func (l *Lab) keepAddresses() error {
	p := l.plan()
	_, err := l.writeRoleConfig(plan.Router, routerConfig(p))
	for _, server := range []string{plan.DNS, plan.ClusterDNS} {
		if err == nil {
			_, err = l.writeRoleConfig(server, dnsConfig(p, server))
		}
	}
	return err
}

// removeNodes removes the cluster's nodes, with their volumes.
func (l *Lab) removeNodes(ctx context.Context) error {
	return removeContainers(ctx, l.docker, labelKindCluster+"="+l.planned.Kubernetes.Cluster)
}

// logFile opens a log in the lab's folder.
func (l *Lab) logFile(component string) (io.WriteCloser, error) {
	f, err := os.OpenFile(l.dir.Log(component), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", component, err)
	}
	return f, nil
}

// execOutput runs a command in a container and returns what it printed.
func (l *Lab) execOutput(ctx context.Context, name string, argv ...string) (string, error) {
	made, err := l.docker.ContainerExecCreate(ctx, name, container.ExecOptions{AttachStdout: true, AttachStderr: true, Cmd: argv})
	if err != nil {
		return "", fmt.Errorf("run %v in container %s: %w", argv, name, err)
	}
	attached, err := l.docker.ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		return "", fmt.Errorf("run %v in container %s: %w", argv, name, err)
	}
	defer attached.Close()
	stop := context.AfterFunc(ctx, attached.Close)
	defer stop()
	out, err := demultiplex(attached.Reader)
	if err != nil {
		return out, fmt.Errorf("run %v in container %s: %w", argv, name, err)
	}
	state, err := l.docker.ContainerExecInspect(ctx, made.ID)
	if err != nil {
		return out, fmt.Errorf("run %v in container %s: %w", argv, name, err)
	}
	if state.ExitCode != 0 {
		return out, fmt.Errorf("run %v in container %s: exit status %d\n%s", argv, name, state.ExitCode, indent(out))
	}
	return out, nil
}

// kindLogger writes kind's messages to a log.
type kindLogger struct {
	mu  *sync.Mutex
	out io.Writer
}

func newKindLogger(out io.Writer) kindlog.Logger { return kindLogger{&sync.Mutex{}, out} }

func (k kindLogger) line(level, text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Fprintf(k.out, "%s %s %s\n", time.Now().UTC().Format(time.RFC3339), level, text)
}

func (k kindLogger) Warn(m string)                      { k.line("WARN", m) }
func (k kindLogger) Warnf(f string, a ...any)           { k.line("WARN", fmt.Sprintf(f, a...)) }
func (k kindLogger) Error(m string)                     { k.line("ERROR", m) }
func (k kindLogger) Errorf(f string, a ...any)          { k.line("ERROR", fmt.Sprintf(f, a...)) }
func (k kindLogger) V(kindlog.Level) kindlog.InfoLogger { return kindInfo(k) }

// kindInfo is the part of a logger that tells of progress.
type kindInfo kindLogger

func (k kindInfo) Info(m string)            { kindLogger(k).line("INFO", m) }
func (k kindInfo) Infof(f string, a ...any) { kindLogger(k).line("INFO", fmt.Sprintf(f, a...)) }
func (k kindInfo) Enabled() bool            { return true }
