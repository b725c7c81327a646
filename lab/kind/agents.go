package kind

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/manifests"
)

// Selectors of pods, by the names that the manifests give.
const (
	ingressSelector = manifests.LabelName + "=" + manifests.AppIngress
	agentSelector   = manifests.LabelName + "=" + manifests.AppAgent
)

// objects is what the lab's Kubernetes objects are made of, as far as it is known.
func (l *Lab) objects() (manifests.Lab, error) {
	k := l.planned.Kubernetes
	m := manifests.Lab{
		Name: l.planned.Lab, AgentNamespace: k.AgentNamespace, SystemNamespace: k.SystemNamespace, IngressClass: k.IngressClass,
		LoadBalancer: l.plan().Keylime.Ingress.Addr(), KeylabImage: l.known().Image, ProxyImage: cmp.Or(l.images().Proxy, l.images().Tools),
		Registrar: l.planned.Keylime.Registrar, APIServer: "https://" + net.JoinHostPort(k.ControlPlane, "6443"),
		AgentAPI: keylime.AgentAPIVersions(l.planned.Keylime.Version), PodCIDR: k.PodCIDR, ServiceCIDR: k.ServiceCIDR, InstallCNI: !l.images().BuiltInCNI,
	}
	if push := l.planned.Keylime; push.Push() {
		m.Verifier, m.Interval = push.Verifier, time.Duration(push.QuoteInterval)
	}
	configured, err := l.keylime()
	if err != nil {
		return m, err
	}
	if m.ClientCA, err = os.ReadFile(configured.PKI.CACertFile()); err != nil {
		return m, fmt.Errorf("read the certificate of Keylime's CA: %w", err)
	}
	for _, n := range l.planned.Nodes {
		known := l.node(n.Name)
		if known.Hostname == "" {
			continue // its TPM is not made yet
		}
		node := l.agentOf(n)
		node.Hostname, node.UUIDOption = known.Hostname, fleet.UUIDOption(n, known.UUID)
		_, cert, key, err := fleet.ServerCertificate(l.dir.Agent(n.Name), known.Hostname)
		if err != nil {
			return m, err
		}
		if node.ServerCert, err = os.ReadFile(cert); err != nil {
			return m, fmt.Errorf("read the agent's server certificate: %w", err)
		}
		if node.ServerKey, err = os.ReadFile(key); err != nil {
			return m, fmt.Errorf("read the agent's key: %w", err)
		}
		m.Nodes = append(m.Nodes, node)
	}
	return m, nil
}

// agentOf is what a node's agent is made of, as far as the plan says it.
func (l *Lab) agentOf(n plan.Node) manifests.Node {
	return manifests.Node{
		Name: n.Name, KubernetesName: n.KubernetesName, Port: n.Agent.Port,
		EKAlgorithm: n.TPM.EKAlgorithm, AKAlgorithm: n.Agent.AKAlgorithm, HashAlgorithm: n.Agent.HashAlgorithm,
		Agent:   l.agentImage(n),
		Autorun: n.Payload != nil && n.Payload.Autorun, Unpack: l.planned.PayloadPackaged(),
		IMA: n.IMA != nil, MeasuredBoot: n.MeasuredBoot != nil,
	}
}

// agentImage is the container image of a node's agent, as the cluster's nodes know it.
func (l *Lab) agentImage(n plan.Node) manifests.Agent {
	a := n.Agent
	switch {
	case a.Kind == string(spec.AgentImage):
		return manifests.Agent{Kind: a.Kind, Image: a.Image}
	case a.Kind == string(spec.AgentBinary):
		return manifests.Agent{Kind: a.Kind, Image: l.known().BinaryImages[a.Path], Command: []string{binaryAgentPath}}
	case l.runsScripts(n):
		return manifests.Agent{Kind: a.Kind, Image: l.scriptImage()}
	}
	return manifests.Agent{Kind: a.Kind, Image: l.known().Image}
}

// applyAgents applies the agents' objects, for the nodes whose TPMs are made.
func (l *Lab) applyAgents(ctx context.Context) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	m, err := l.objects()
	if err != nil {
		return err
	}
	return k.apply(ctx, manifests.Agents(m))
}

// awaitAgent waits until a node's agent is registered under the node's UUID, and reachable.
func (l *Lab) awaitAgent(n plan.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		k, err := l.cluster()
		if err != nil {
			return err
		}
		registrar, err := l.registrar()
		if err != nil {
			return err
		}
		defer registrar.Close()
		uuid := l.node(n.Name).UUID
		err = fleet.Await(ctx, "the agent of "+n.Name+" to register and to be ready", func(ctx context.Context) (string, error) {
			pod, err := l.agentPod(ctx, n)
			if err != nil {
				return "", err
			}
			if said := refusedRegistration(*pod); said != "" {
				return "", fleet.Hopeless(fmt.Errorf("%w: %s", fleet.ErrNotRegistered, said))
			}
			if err := k.crashed(ctx, *pod); err != nil {
				return "", err
			}
			if !podReady(*pod) {
				return "pod " + pod.Name + " is " + strings.ToLower(string(pod.Status.Phase)) + " and not ready", nil
			}
			if err := l.activated(ctx, *pod, uuid); err != nil {
				return "", err
			}
			_, err = registrar.Agent(ctx, uuid)
			return "", err
		})
		if err != nil {
			return err
		}
		return l.learnNode(n.Name, func(f *nodeFacts) { f.Registered, f.Unregistered, f.Forgotten = true, "", false })
	}
}

// agentPod is the agent's pod on a node.
func (l *Lab) agentPod(ctx context.Context, n plan.Node) (*corev1.Pod, error) {
	pods, err := l.agentPods(ctx)
	if err != nil {
		return nil, err
	}
	if p, ok := pods[n.KubernetesName]; ok {
		return &p, nil
	}
	return nil, errNoPod(n)
}

func errNoPod(n plan.Node) error { return fmt.Errorf("node %s has no agent pod", n.Name) }

// agentPods are the agents' pods, by Kubernetes' names of their nodes.
func (l *Lab) agentPods(ctx context.Context) (map[string]corev1.Pod, error) {
	k, err := l.cluster()
	if err != nil {
		return nil, err
	}
	list, err := k.pods(ctx, l.planned.Kubernetes.AgentNamespace, agentSelector)
	if err != nil {
		return nil, err
	}
	pods := map[string]corev1.Pod{}
	for _, p := range list {
		if p.DeletionTimestamp != nil {
			continue
		}
		if _, ok := pods[p.Spec.NodeName]; ok && p.Status.Phase == corev1.PodFailed {
			continue // its successor is there already
		}
		pods[p.Spec.NodeName] = p
	}
	return pods, nil
}

// agentCertificate is the one that the lab gave a node's agent.
func (l *Lab) agentCertificate(node string) (*x509.Certificate, error) {
	pair, _, _, err := fleet.ServerCertificate(l.dir.Agent(node), l.node(node).Hostname)
	return pair.Leaf, err
}

// served counts the quotes that a node's agent gave for a nonce, by its own log.
func (l *Lab) served(ctx context.Context, n plan.Node, nonce string) (int, error) {
	k, err := l.cluster()
	if err != nil {
		return 0, err
	}
	pod, err := l.agentPod(ctx, n)
	if err != nil {
		return 0, err
	}
	asking, cancel := context.WithTimeout(ctx, kubeletPatience)
	defer cancel()
	text, err := k.typed.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: manifests.ContainerAgent}).DoRaw(asking)
	if err != nil {
		onNode, nodeErr := l.logOnNode(ctx, n, pod)
		if nodeErr != nil {
			return 0, fmt.Errorf("read the log of pod %s: %w", pod.Name, errors.Join(err, nodeErr))
		}
		text = []byte(onNode)
	}
	return fleet.Served(bytes.NewReader(text), l.planned.Keylime.Push(), nonce)
}

// kubeletPatience is how long a node's kubelet may take to give a log: a third of what there is for all.
const kubeletPatience = probeTimeout / 3

// logOnNode is the log of an agent's pod as it lies on its node, for when the node's kubelet, which Kubernetes asks for logs, does not run or cannot be reached.
// Every line begins with time, stream and a tag, which are left out (CRI logging, kubernetes/design-proposals-archive, node/kubelet-cri-logging.md).
func (l *Lab) logOnNode(ctx context.Context, n plan.Node, pod *corev1.Pod) (string, error) {
	dir := fmt.Sprintf("/var/log/pods/%s_%s_%s/%s", pod.Namespace, pod.Name, pod.UID, manifests.ContainerAgent)
	return l.execOutput(ctx, n.KubernetesName, "sh", "-c", `cut -d " " -f 4- "$0"/*.log`, dir)
}

// applyIngress installs the ingress, if it is keylab's own, and waits until it answers on the load balancer's address. Another one is the user's to bring,
// who is told so.
func (u *up) applyIngress(ctx context.Context) error {
	k, err := u.cluster()
	if err != nil {
		return err
	}
	m, err := u.objects()
	if err != nil {
		return err
	}
	if m.IngressClass != spec.IngressKeylab {
		u.note(plan.StepIngress, fmt.Sprintf("the controller of ingress class %s is yours to bring: until it answers at %s the lab waits; `keylab kubectl --lab %s -- apply -f FILE` installs it",
			m.IngressClass, u.planned.Keylime.Ingress, u.planned.Lab))
		if err := k.apply(ctx, manifests.Labels(m)); err != nil {
			return err
		}
		return u.awaitIngress(ctx)
	}
	if err := k.apply(ctx, manifests.Ingress(m)); err != nil {
		return err
	}
	if err := u.awaitPods(ctx, "the ingress", m.SystemNamespace, ingressSelector, 1); err != nil {
		return err
	}
	return u.awaitIngress(ctx)
}

// awaitServed waits until the load balancer's address shows a node's certificate to whoever asks for a node's name: that the agent is reached the whole way, and
// all that can be asked of an ingress that is not keylab's.
func (l *Lab) awaitServed(ctx context.Context, name, target plan.Node) error {
	configured, err := l.keylime()
	if err != nil {
		return err
	}
	want, err := l.agentCertificate(target.Name)
	if err != nil {
		return err
	}
	config := configured.PKI.ClientTLS()
	config.ServerName, config.InsecureSkipVerify = l.node(name.Name).Hostname, true // whose it is, is the question
	return fleet.Await(ctx, "the ingress to lead "+config.ServerName+" to "+target.Name, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, readyAttempt)
		defer cancel()
		raw, err := l.dialFrom(plan.DNS)(ctx, "tcp", l.plan().Keylime.Ingress.String())
		if err != nil {
			return "", err
		}
		defer raw.Close()
		c := tls.Client(raw, config)
		if err := c.HandshakeContext(ctx); err != nil {
			return "", err
		}
		if !c.ConnectionState().PeerCertificates[0].Equal(want) {
			return "it leads to somebody else", nil
		}
		return "", nil
	})
}

// awaitIngress waits until the load balancer's address answers from the services network. An attempt from before the address is announced learns late of that, or never: so
// another one is made beside it, until one succeeds.
func (l *Lab) awaitIngress(ctx context.Context) error {
	to := l.plan().Keylime.Ingress.String()
	const patience, most = 10 * time.Second, 8 // on a slow machine an answer takes its time
	trying, stop := context.WithCancel(ctx)
	defer stop()
	said := make(chan error, most)
	going, last := 0, errors.New("no answer yet")
	return fleet.Await(ctx, to+" to answer from the services network", func(context.Context) (string, error) {
		if going < most {
			going++
			go func() {
				ctx, cancel := context.WithTimeout(trying, patience)
				defer cancel()
				c, err := l.dialFrom(plan.DNS)(ctx, "tcp", to)
				if err == nil {
					err = c.Close()
				}
				said <- err
			}()
		}
		for {
			select {
			case err := <-said:
				if err == nil {
					return "", nil
				}
				going, last = going-1, err
			default:
				return "", last
			}
		}
	})
}

// awaitPods waits until so many pods are ready.
func (l *Lab) awaitPods(ctx context.Context, what, namespace, selector string, count int) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	return fleet.Await(ctx, what+" to be ready", func(ctx context.Context) (string, error) {
		pods, err := k.pods(ctx, namespace, selector)
		if err != nil {
			return "", err
		}
		ready, missing := 0, ""
		for _, p := range pods {
			if err := k.crashed(ctx, p); err != nil {
				return "", err
			}
			if podReady(p) {
				ready++
			} else {
				missing = p.Name + " is " + strings.ToLower(string(p.Status.Phase))
			}
		}
		if ready >= count {
			return "", nil
		}
		return fmt.Sprintf("%d of %d pods are ready; %s", ready, count, missing), nil
	})
}
