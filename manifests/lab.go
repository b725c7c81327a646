package manifests

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Lab is what the objects are made of.
type Lab struct {
	Name            string // the lab's
	AgentNamespace  string
	SystemNamespace string
	IngressClass    string // of the agents' Ingress objects
	LoadBalancer    netip.Addr
	KeylabImage     string // holds keylab at /keylab
	ProxyImage      string // has HAProxy
	Registrar       netip.AddrPort
	// Verifier is where agents of the push model send their evidence; invalid: the verifier asks them. Interval is the time between two attestations
	// where the verifier names none, in whole seconds.
	Verifier    netip.AddrPort
	Interval    time.Duration
	APIServer   string // URL, for what must reach it before the pods' network is there
	PodCIDR     netip.Prefix
	ServiceCIDR netip.Prefix
	InstallCNI  bool     // the node image brings no network for pods
	ClientCA    []byte   // PEM: who may ask the agents (Keylime's cv_ca)
	AgentAPI    []string // versions of the API that agents may speak; empty: all they know
	Nodes       []Node
}

// Node is one node's agent.
type Node struct {
	Name           string // the lab's
	KubernetesName string // of the node object
	UUIDOption     string // the agent's option uuid
	Hostname       string // contact address
	Port           uint16
	EKAlgorithm    string // rsa2048 or ecc-p256
	AKAlgorithm    string
	HashAlgorithm  string // sha384, ...; empty: sha256
	ServerCert     []byte // PEM
	ServerKey      []byte // PEM
	Agent          Agent
	Unpack         bool // the agent unpacks its payload
	Autorun        bool // the agent unpacks its payload and runs the script in it
	IMA            bool // the node has an IMA list, beside the TPM's sockets
	MeasuredBoot   bool // the node has a boot log there
}

// Agent is the program that is a node's agent.
type Agent struct {
	Kind    string // go, binary or image
	Image   string
	Command []string // empty: the image's own
}

// The names by which a lab finds its pods.
const (
	LabelNode = "keylab.dev/node" // on nodes and on agents' pods: the lab's name of the node
	// LabelAgents is on nodes, and on agents' pods: of which kind the node's agent is (Lab.AgentSet).
	LabelAgents = "keylab.dev/agents"
	// LabelNoAgent is on nodes whose agent the registrar will not have, so that Kubernetes does not start it again and again: its value says why.
	LabelNoAgent = "keylab.dev/no-agent"
	LabelName    = "app.kubernetes.io/name"
	// LabelControlPlane is on the node that is the control plane, and is the key of the taint that keeps pods off it.
	LabelControlPlane = "node-role.kubernetes.io/control-plane"
	AppAgent          = "keylime-agent"
	AppIngress        = "keylab-ingress"
	AppLabels         = "keylab-labels"
	AppDevicePlugin   = "keylab-tpm"
	AppPodNetwork     = "keylab-podnet"
	ContainerAgent    = "agent"
	ContainerIngress  = "controller"

	// ClassKeylab is the ingress class of keylab's own controller.
	ClassKeylab = "keylab"
	// ResourceTPM is what a container asks for to get its node's TPM.
	ResourceTPM = "keylab.dev/tpm"
	// AgentUser is who agents run as.
	AgentUser = 65532
	// AgentDataDir is each node's own folder for its agent's keys.
	AgentDataDir = "/var/lib/keylab/agent"
	// NodeTPMDir is where each node has its own TPM's sockets, and the logs of what it measures.
	NodeTPMDir = "/var/lib/keylab/tpm"
	// program is where KeylabImage has keylab.
	program = "/keylab"
)

// meta is an object's metadata.
func (l Lab) meta(app, namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: l.labels(app)}
}

func (l Lab) labels(app string) map[string]string {
	return map[string]string{LabelName: app, "app.kubernetes.io/part-of": "keylab", "keylab.lab": l.Name}
}

// selector is what tells an application's pods.
func selector(app string) map[string]string { return map[string]string{LabelName: app} }

// inContainer is the command line of one of keylab's own roles.
func inContainer(args ...string) []string { return append([]string{program, "in-container"}, args...) }

// restricted is the security context of a container under the Pod Security Standard "restricted".
func restricted() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(AgentUser)), RunAsGroup: ptr(int64(AgentUser)),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

func ptr[T any](v T) *T { return &v }

func hostPath(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func emptyDir(name string, medium corev1.StorageMedium, limit string) corev1.Volume {
	e := &corev1.EmptyDirVolumeSource{Medium: medium}
	if limit != "" {
		e.SizeLimit = ptr(resource.MustParse(limit))
	}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: e}}
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

// tcpProbe asks a port, often: a lab is waiting.
func tcpProbe(port intstr.IntOrString) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}}, PeriodSeconds: 1, FailureThreshold: 2}
}
