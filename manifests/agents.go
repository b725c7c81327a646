package manifests

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Where an agent's container has its files.
const (
	configDir = "/etc/keylime"
	dataDir   = "/var/lib/keylime"
	// measuredDir is where a container that has asked for the TPM finds it, and the logs of what the node measured. An agent that has not, since a container
	// beside it has the TPM, gets it as a volume.
	measuredDir = "/run/keylab-tpm"
)

// Agents is the agents' namespace, their configuration and certificates, the DaemonSet, and for each node a Service and an Ingress.
func Agents(l Lab) []runtime.Object {
	ns := l.AgentNamespace
	config := &corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: l.meta(AppAgent, ns, AppAgent), Data: map[string]string{}}
	secret := &corev1.Secret{TypeMeta: kind("v1", "Secret"), ObjectMeta: l.meta(AppAgent, ns, AppAgent), Type: corev1.SecretTypeOpaque, Data: map[string][]byte{}}
	ca := &corev1.Secret{TypeMeta: kind("v1", "Secret"), ObjectMeta: l.meta(AppAgent, ns, AppAgent+"-ca"), Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"cv_ca.crt": l.ClientCA}}
	for _, n := range l.Nodes {
		config.Data[n.KubernetesName+".conf"] = l.agentConfig(n)
		secret.Data[n.KubernetesName+".crt"], secret.Data[n.KubernetesName+".key"] = n.ServerCert, n.ServerKey
	}
	objects := append(AgentVolume(l),
		&corev1.ServiceAccount{TypeMeta: kind("v1", "ServiceAccount"), ObjectMeta: l.meta(AppAgent, ns, AppAgent), AutomountServiceAccountToken: ptr(false)},
		config, ca, secret,
	)
	for _, d := range l.agentSets() {
		objects = append(objects, d)
	}
	for _, n := range l.Nodes {
		if !l.push() { // else nobody connects to it
			objects = append(objects, l.nodeService(n), l.nodeIngress(n))
		}
	}
	return objects
}

// AgentVolume is the agents' namespace, and the volumes in which they keep their keys and find what their nodes measure.
func AgentVolume(l Lab) []runtime.Object {
	objects := append([]runtime.Object{l.namespace(l.AgentNamespace, "restricted")}, l.nodeVolume("data", AgentDataDir, corev1.ReadWriteMany)...)
	if slices.ContainsFunc(l.Nodes, Node.seesMeasured) {
		objects = append(objects, l.nodeVolume("measured", NodeTPMDir, corev1.ReadOnlyMany)...)
	}
	return objects
}

// seesMeasured tells whether a node's agent reads what the node measures and has not asked for the TPM.
func (n Node) seesMeasured() bool { return n.Agent.Kind != "go" && (n.IMA || n.MeasuredBoot) }

// agentConfig is the agent's configuration in the Rust agent's format (keylime-agent.conf): what differs from its defaults.
func (l Lab) agentConfig(n Node) string {
	quoted := func(s string) string { return strconv.Quote(s) }
	lines := []string{
		"[agent]",
		"uuid = " + quoted(n.UUIDOption),
		`ip = "0.0.0.0"`,
		fmt.Sprintf("port = %d", n.Port),
		"contact_ip = " + quoted(n.Hostname),
		"contact_port = 443",
		"registrar_ip = " + quoted(l.Registrar.Addr().String()),
		fmt.Sprintf("registrar_port = %d", l.Registrar.Port()),
		"trusted_client_ca = " + quoted(configDir+"/cv_ca.crt"),
		"server_cert = " + quoted(configDir+"/server-cert.pem"),
		"server_key = " + quoted(configDir+"/server-key.pem"),
		"keylime_dir = " + quoted(dataDir),
		"tpm_encryption_alg = " + quoted(encryptionAlgorithm(n.EKAlgorithm)),
		"tpm_signing_alg = " + quoted(n.AKAlgorithm),
		"extract_payload_zip = " + strconv.FormatBool(n.Unpack || n.Autorun),
		"payload_script = " + quoted(n.payloadScript()),
		`run_as = ""`,
		"enable_revocation_notifications = false",
		"enable_iak_idevid = false",
	}
	if l.push() {
		lines = append(lines,
			"verifier_url = "+quoted("https://"+l.Verifier.String()),
			"verifier_tls_ca_cert = "+quoted(configDir+"/cv_ca.crt"),
			fmt.Sprintf("attestation_interval_seconds = %d", int(l.Interval.Seconds())),
		)
	}
	if n.IMA {
		lines = append(lines, "ima_ml_path = "+quoted(measuredDir+"/ascii_runtime_measurements"))
	}
	if n.MeasuredBoot {
		lines = append(lines, "measuredboot_ml_path = "+quoted(measuredDir+"/binary_bios_measurements"))
	}
	if n.HashAlgorithm != "" {
		lines = append(lines, "tpm_hash_alg = "+quoted(n.HashAlgorithm))
	}
	if len(l.AgentAPI) > 0 {
		lines = append(lines, "api_versions = "+quoted(strings.Join(l.AgentAPI, ", ")))
	}
	return strings.Join(lines, "\n") + "\n"
}

// push tells whether agents send their evidence unasked.
func (l Lab) push() bool { return l.Verifier.IsValid() }

// payloadScript is what the agent runs of its payload; "" for nothing.
func (n Node) payloadScript() string {
	if n.Autorun {
		return "autorun.sh"
	}
	return ""
}

// encryptionAlgorithm is the Rust agent's word for the EK's algorithm.
func encryptionAlgorithm(ek string) string {
	if ek == "ecc-p256" {
		return "ecc256"
	}
	return "rsa2048"
}

// nodeVolume is a folder that each node has of its own, and all at the same path: one volume. So agents keep their AK over restarts, and their pods need no
// hostPath of their own, which "restricted" forbids.
func (l Lab) nodeVolume(name, path string, mode corev1.PersistentVolumeAccessMode) []runtime.Object {
	name = AppAgent + "-" + name
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")}
	modes := []corev1.PersistentVolumeAccessMode{mode}
	return []runtime.Object{
		&corev1.PersistentVolume{
			TypeMeta: kind("v1", "PersistentVolume"), ObjectMeta: l.meta(AppAgent, "", name),
			Spec: corev1.PersistentVolumeSpec{
				Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				ClaimRef:               &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: l.AgentNamespace, Name: name},
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: ptr(corev1.HostPathDirectory)}},
			},
		},
		&corev1.PersistentVolumeClaim{
			TypeMeta: kind("v1", "PersistentVolumeClaim"), ObjectMeta: l.meta(AppAgent, l.AgentNamespace, name),
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: modes, StorageClassName: ptr(""), VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size},
			},
		},
	}
}

// agentSets are the DaemonSets: one, unless nodes have agents of different kinds, or on different ports, which a pod names. None of them says which nodes there
// are: a node that joins or leaves is no reason to start the agents of others again.
func (l Lab) agentSets() []*appsv1.DaemonSet {
	var sets []*appsv1.DaemonSet
	for _, n := range l.Nodes {
		if set := l.AgentSet(n); !slices.ContainsFunc(sets, func(d *appsv1.DaemonSet) bool { return d.Spec.Selector.MatchLabels[LabelAgents] == set }) {
			sets = append(sets, l.agentSet(n))
		}
	}
	return sets
}

// defaultPort is where agents listen unless their specification says otherwise.
const defaultPort = 9002

// AgentSet names the DaemonSet that a node's agent is of: it is the value of LabelAgents on the node, and on the agent's pod. It depends on that agent alone, and
// is short for keylab's own as it is by default.
func (l Lab) AgentSet(n Node) string {
	if n.Agent.Kind == "go" && n.Agent.Image == l.KeylabImage && n.Port == defaultPort {
		return n.Agent.Kind
	}
	sum := sha256.Sum256(fmt.Append(nil, n.Agent.Image, n.Agent.Command, n.Port, n.seesMeasured()))
	return n.Agent.Kind + "-" + hex.EncodeToString(sum[:4])
}

// agentSet runs agents such as one node's on all nodes that are to have them.
func (l Lab) agentSet(n Node) *appsv1.DaemonSet {
	a, set := n.Agent, l.AgentSet(n)
	agent := corev1.Container{
		Name: ContainerAgent, Image: a.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: a.Command,
		Env:            []corev1.EnvVar{field("NODE_NAME", "spec.nodeName"), {Name: "KEYLIME_AGENT_CONFIG", Value: configDir + "/agent.conf"}},
		Ports:          []corev1.ContainerPort{{Name: "agent", ContainerPort: int32(n.Port)}},
		ReadinessProbe: tcpProbe(intstr.FromString("agent")), SecurityContext: restricted(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError, // its last words are in the pod's status
		VolumeMounts: append(ownFiles(),
			corev1.VolumeMount{Name: "data", MountPath: dataDir},
			corev1.VolumeMount{Name: "secure", MountPath: dataDir + "/secure"},
		),
	}
	tpm := corev1.ResourceRequirements{Limits: corev1.ResourceList{ResourceTPM: resource.MustParse("1")}}
	pod := corev1.PodSpec{
		ServiceAccountName: AppAgent, AutomountServiceAccountToken: ptr(false), EnableServiceLinks: ptr(false), Affinity: whereAgentsMay(set),
		SecurityContext: &corev1.PodSecurityContext{FSGroup: ptr(int64(AgentUser))},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{Projected: allFiles()}},
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: AppAgent + "-data"}}},
			emptyDir("secure", corev1.StorageMediumMemory, "1Mi"),
		},
	}
	if a.Kind == "go" {
		agent.Command, agent.Resources = inContainer("agent"), tpm
	} else {
		// It speaks swtpm's own protocol over TCP: a container beside it has the TPM and offers that on the pod's loopback.
		log := "info"
		if l.push() {
			log += ",keylime_push_model_agent::attestation=debug" // which challenges it answers
		}
		agent.Env = append(agent.Env, corev1.EnvVar{Name: "TCTI", Value: "swtpm:host=127.0.0.1,port=2321"}, corev1.EnvVar{Name: "RUST_LOG", Value: log})
		pod.InitContainers = []corev1.Container{{
			Name: "tpm", Image: l.KeylabImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: inContainer("tpm-tcp", "/run/keylab-tpm"),
			RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways), Resources: tpm, SecurityContext: restricted(),
		}}
		if n.seesMeasured() {
			claim := &corev1.PersistentVolumeClaimVolumeSource{ClaimName: AppAgent + "-measured", ReadOnly: true}
			pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "measured", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: claim}})
			agent.VolumeMounts = append(agent.VolumeMounts, corev1.VolumeMount{Name: "measured", MountPath: measuredDir, ReadOnly: true})
		}
	}
	if l.push() { // it listens to nobody
		agent.Ports, agent.ReadinessProbe = nil, nil
	}
	pod.Containers = []corev1.Container{agent}
	d := l.daemonSet(AppAgent, l.AgentNamespace, pod)
	if set != a.Kind {
		d.Name = AppAgent + "-" + set
	}
	d.Spec.Selector.MatchLabels[LabelAgents], d.Spec.Template.Labels[LabelAgents] = set, set
	return d
}

// whereAgentsMay keeps agents of a set on the nodes that are to have such, and off those that are to have none.
func whereAgentsMay(set string) *corev1.Affinity {
	return onNodes(
		corev1.NodeSelectorRequirement{Key: LabelAgents, Operator: corev1.NodeSelectorOpIn, Values: []string{set}},
		corev1.NodeSelectorRequirement{Key: LabelNoAgent, Operator: corev1.NodeSelectorOpDoesNotExist},
	)
}

// allFiles are the files of all nodes' agents, named after their nodes, of which a pod mounts its own.
func allFiles() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o440)), Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: AppAgent}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: AppAgent}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: AppAgent + "-ca"}}},
	}}
}

// ownFiles mounts the files of the node's own agent.
func ownFiles() []corev1.VolumeMount {
	own := func(file, path string) corev1.VolumeMount {
		return corev1.VolumeMount{Name: "config", MountPath: configDir + "/" + file, SubPathExpr: path, ReadOnly: true}
	}
	return []corev1.VolumeMount{
		own("agent.conf", "$(NODE_NAME).conf"), own("server-cert.pem", "$(NODE_NAME).crt"), own("server-key.pem", "$(NODE_NAME).key"), own("cv_ca.crt", "cv_ca.crt"),
	}
}

// nodeService leads to the one agent pod on a node: the ingress' controller labels that with the node's name.
func (l Lab) nodeService(n Node) *corev1.Service {
	pods := selector(AppAgent)
	pods[LabelNode] = n.Name
	return &corev1.Service{
		TypeMeta: kind("v1", "Service"), ObjectMeta: l.meta(AppAgent, l.AgentNamespace, ServiceName(n.KubernetesName)),
		Spec: corev1.ServiceSpec{Selector: pods, Ports: []corev1.ServicePort{{Name: "agent", Port: int32(n.Port), TargetPort: intstr.FromString("agent"), Protocol: corev1.ProtocolTCP}}},
	}
}

// ServiceName names the Service and the Ingress of a node's agent: a DNS label that begins with a letter, whatever the node's name begins with.
func ServiceName(kubernetesName string) string { return "agent-" + kubernetesName }

// nodeIngress gives a node's agent its contact address. The annotations tell other controllers to pass TLS through, too.
func (l Lab) nodeIngress(n Node) *networkingv1.Ingress {
	i := &networkingv1.Ingress{
		TypeMeta: kind("networking.k8s.io/v1", "Ingress"), ObjectMeta: l.meta(AppAgent, l.AgentNamespace, ServiceName(n.KubernetesName)),
		Spec: networkingv1.IngressSpec{
			IngressClassName: ptr(l.IngressClass),
			Rules: []networkingv1.IngressRule{{Host: n.Hostname, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: ptr(networkingv1.PathTypePrefix), Backend: networkingv1.IngressBackend{
					Service: &networkingv1.IngressServiceBackend{Name: ServiceName(n.KubernetesName), Port: networkingv1.ServiceBackendPort{Name: "agent"}}}}},
			}}}},
		},
	}
	i.Annotations = map[string]string{
		"nginx.ingress.kubernetes.io/ssl-passthrough":  "true",
		"haproxy-ingress.github.io/ssl-passthrough":    "true",
		"haproxy.org/ssl-passthrough":                  "true",
		"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
	}
	return i
}
