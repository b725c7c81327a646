package manifests_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"keylab.dev/keylab/manifests"
)

var update = flag.Bool("update", false, "write testdata anew")

const domain = "agents.keylab.test"

// testNode is a node whose TPM and hostname are made up from its number.
func testNode(lab string, i int) manifests.Node {
	name := fmt.Sprintf("keylab-%s-worker", lab)
	if i > 1 {
		name += fmt.Sprint(i)
	}
	half := fmt.Sprintf("%032x", i)
	return manifests.Node{
		Name: fmt.Sprintf("node-%d", i), KubernetesName: name, UUIDOption: "hash_ek", Hostname: half + "." + half + "." + domain, Port: 9002,
		EKAlgorithm: "rsa2048", AKAlgorithm: "rsassa",
		ServerCert: fmt.Appendf(nil, "certificate of node %d\n", i), ServerKey: fmt.Appendf(nil, "secret key of node %d\n", i),
		Agent: manifests.Agent{Kind: "go", Image: "keylab.test/keylab:test"},
	}
}

func testLab(name string, nodes int) manifests.Lab {
	l := manifests.Lab{
		Name: name, AgentNamespace: "keylab-agents", SystemNamespace: "keylab-system", IngressClass: manifests.ClassKeylab,
		LoadBalancer: netip.MustParseAddr("198.18.20.200"), KeylabImage: "keylab.test/keylab:test", ProxyImage: "keylab.test/haproxy:test",
		Registrar: netip.MustParseAddrPort("198.18.10.11:8890"), APIServer: "https://keylab-" + name + "-control-plane:6443",
		PodCIDR: netip.MustParsePrefix("198.19.0.0/16"), ServiceCIDR: netip.MustParsePrefix("198.18.96.0/20"), InstallCNI: true, ClientCA: []byte("certificate of the CA\n"),
	}
	for i := 1; i <= nodes; i++ {
		l.Nodes = append(l.Nodes, testNode(name, i))
	}
	return l
}

// mixedLab has agents of all kinds, and one on a port of its own.
func mixedLab() manifests.Lab {
	l := testLab("mixed", 5)
	l.AgentAPI = []string{"2.1", "2.2", "2.3"}
	l.Nodes[1].EKAlgorithm, l.Nodes[1].AKAlgorithm, l.Nodes[1].HashAlgorithm = "ecc-p256", "ecdsa", "sha384"
	l.Nodes[2].Agent = manifests.Agent{Kind: "image", Image: "quay.io/keylime/keylime_agent:latest"}
	l.Nodes[3].Agent = manifests.Agent{Kind: "binary", Image: "keylab.test/agent:test", Command: []string{"/keylime_agent"}}
	l.Nodes[3].IMA, l.Nodes[4].IMA = true, true
	l.Nodes[4].Port = 9102
	l.Nodes[4].UUIDOption = "5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10"
	return l
}

func all(l manifests.Lab) []runtime.Object {
	return slices.Concat(manifests.System(l), manifests.LoadBalancer(l), manifests.Ingress(l), manifests.Agents(l))
}

func encode(t *testing.T, objects []runtime.Object) string {
	t.Helper()
	var b bytes.Buffer
	if err := manifests.Encode(&b, objects); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// find are the objects of one type.
func find[T runtime.Object](objects []runtime.Object) []T {
	var found []T
	for _, o := range objects {
		if x, ok := o.(T); ok {
			found = append(found, x)
		}
	}
	return found
}

// What a lab of two nodes is made of, as people get to see it.
func TestGolden(t *testing.T) {
	for _, l := range []manifests.Lab{testLab("two", 2), mixedLab()} {
		got, path := encode(t, all(l)), filepath.Join("testdata", l.Name+".yaml")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (rewrite it with -update if this is meant):\n%s", path, d)
		}
		if again := encode(t, all(l)); again != got {
			t.Errorf("%s: the same lab encoded twice differs", l.Name)
		}
		for _, noise := range []string{"status:", "creationTimestamp:"} {
			if strings.Contains(got, noise) {
				t.Errorf("%s: the objects say %s, which is the API server's to say", l.Name, noise)
			}
		}
	}
}

// What is printed is what would be applied: a strict decoder knows every field, and gets the same objects.
func TestStrictDecoding(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, l := range []manifests.Lab{testLab("two", 2), mixedLab()} {
		objects := all(l)
		documents := strings.Split(strings.TrimPrefix(encode(t, objects), "---\n"), "\n---\n")
		if len(documents) != len(objects) {
			t.Fatalf("%d documents for %d objects", len(documents), len(objects))
		}
		for i, o := range objects {
			if _, ok := o.(*unstructured.Unstructured); ok {
				continue // MetalLB's own types, which client-go does not know
			}
			got, _, err := decoder.Decode([]byte(documents[i]), nil, nil)
			if err != nil {
				t.Errorf("%T: %v\n%s", o, err, documents[i])
			} else if !equality.Semantic.DeepEqual(got, o) {
				t.Errorf("%T came back otherwise:\n%s", o, cmp.Diff(o, got))
			}
		}
	}
}

// podSecurity is what the Pod Security Standard "restricted" has against a pod.
func podSecurity(t *testing.T, m *corev1.PodTemplateSpec) []string {
	t.Helper()
	e, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		t.Fatal(err)
	}
	r := policy.AggregateCheckResults(e.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &m.ObjectMeta, &m.Spec))
	return r.ForbiddenReasons
}

// All pods that ask for no privilege are admitted under "restricted"; the pods' network is the example of one that is not.
func TestPodSecurity(t *testing.T) {
	l := mixedLab()
	namespaces := map[string]string{}
	for _, n := range find[*corev1.Namespace](all(l)) {
		namespaces[n.Name] = n.Labels["pod-security.kubernetes.io/enforce"]
	}
	if want := map[string]string{"keylab-agents": "restricted", "keylab-system": "privileged"}; !cmp.Equal(namespaces, want) {
		t.Errorf("Pod Security levels %v; want %v", namespaces, want)
	}
	pods := map[string]corev1.PodTemplateSpec{}
	for _, d := range find[*appsv1.DaemonSet](manifests.Agents(l)) {
		pods[d.Name] = d.Spec.Template
	}
	for _, d := range find[*appsv1.Deployment](manifests.Ingress(l)) {
		pods[d.Name] = d.Spec.Template
	}
	example := examplePod(t)
	pods["the example"] = corev1.PodTemplateSpec{ObjectMeta: example.ObjectMeta, Spec: example.Spec}
	if len(pods) != 6 {
		t.Fatalf("%d pods; want those of four DaemonSets, the ingress and the example", len(pods))
	}
	for name, p := range pods {
		if why := podSecurity(t, &p); len(why) != 0 {
			t.Errorf("%s is not admitted: %v", name, why)
		}
	}
	for _, d := range find[*appsv1.DaemonSet](manifests.System(l)) {
		if why := podSecurity(t, &d.Spec.Template); len(why) == 0 {
			t.Errorf("%s would be admitted under restricted, which this test cannot tell, then", d.Name)
		}
	}
}

func examplePod(t *testing.T) *corev1.Pod {
	t.Helper()
	data, err := os.ReadFile("../examples/kind/tpm2-tools-pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := o.(*corev1.Pod)
	if !ok {
		t.Fatalf("the example is a %T", o)
	}
	if q := p.Spec.Containers[0].Resources.Limits[manifests.ResourceTPM]; q.Value() != 1 {
		t.Errorf("the example asks for %s of %s; want 1", q.String(), manifests.ResourceTPM)
	}
	return p
}

// With its Secrets redacted a lab gives no key away, and the objects themselves are left as they are.
func TestRedact(t *testing.T) {
	objects := manifests.Agents(mixedLab())
	before := encode(t, objects)
	var secrets [][]byte
	for _, s := range find[*corev1.Secret](objects) {
		for _, v := range s.Data {
			secrets = append(secrets, slices.Clone(v))
		}
	}
	if len(secrets) < 11 { // certificate and key of five nodes, and the CA
		t.Fatalf("only %d secrets", len(secrets))
	}
	redacted := manifests.Redact(objects)
	for _, s := range find[*corev1.Secret](redacted) {
		for key, v := range s.Data {
			if slices.ContainsFunc(secrets, func(x []byte) bool { return bytes.Contains(v, x) }) {
				t.Errorf("%s of Secret %s is still there", key, s.Name)
			}
		}
	}
	for _, s := range secrets { // nor anywhere else
		if strings.Contains(encode(t, redacted), strings.TrimSpace(string(s))) {
			t.Errorf("%q is still there", s)
		}
	}
	if encode(t, objects) != before {
		t.Error("the objects themselves were changed")
	}
}

// An agent's probe, its Service and its configuration mean the same port, on every node.
func TestPorts(t *testing.T) {
	l := mixedLab()
	objects := manifests.Agents(l)
	for _, n := range l.Nodes {
		set := setOf(t, l, objects, n)
		c := set.Spec.Template.Spec.Containers[0]
		if got := c.Ports[0].ContainerPort; got != int32(n.Port) {
			t.Errorf("%s: the pod's port %q is %d; its agent listens on %d", n.Name, c.Ports[0].Name, got, n.Port)
		}
		if got := c.ReadinessProbe.TCPSocket.Port.StrVal; got != c.Ports[0].Name {
			t.Errorf("%s: the probe asks port %q; want %q", n.Name, got, c.Ports[0].Name)
		}
		config := find[*corev1.ConfigMap](objects)[0].Data[n.KubernetesName+".conf"]
		for _, line := range []string{fmt.Sprintf("port = %d", n.Port), fmt.Sprintf("contact_ip = %q", n.Hostname), fmt.Sprintf("uuid = %q", n.UUIDOption)} {
			if !strings.Contains("\n"+config, "\n"+line+"\n") {
				t.Errorf("%s: its configuration does not say %s:\n%s", n.Name, line, config)
			}
		}
	}
}

// setOf is the one DaemonSet that runs on a node.
func setOf(t *testing.T, l manifests.Lab, objects []runtime.Object, n manifests.Node) *appsv1.DaemonSet {
	t.Helper()
	var found []*appsv1.DaemonSet
	for _, d := range find[*appsv1.DaemonSet](objects) {
		e := d.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0]
		if e.Key == manifests.LabelAgents && e.Operator == corev1.NodeSelectorOpIn && slices.Contains(e.Values, l.AgentSet(n)) {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d DaemonSets run on %s; want one", len(found), n.Name)
	}
	return found[0]
}

// Each DaemonSet selects its own pods and no other's.
func TestSelectorsAreDisjoint(t *testing.T) {
	sets := find[*appsv1.DaemonSet](manifests.Agents(mixedLab()))
	if len(sets) != 4 {
		t.Fatalf("%d DaemonSets; want one for each kind, and one for the other port", len(sets))
	}
	for _, a := range sets {
		for _, b := range sets {
			if got, want := labels.SelectorFromSet(a.Spec.Selector.MatchLabels).Matches(labels.Set(b.Spec.Template.Labels)), a == b; got != want {
				t.Errorf("%s selects the pods of %s: %v; want %v", a.Name, b.Name, got, want)
			}
		}
	}
}

// The TPM goes to one container of each agent's pod: the agent, or the one that offers it to an agent that wants TCP.
func TestTPM(t *testing.T) {
	l := mixedLab()
	for _, n := range l.Nodes {
		pod := setOf(t, l, manifests.Agents(l), n).Spec.Template.Spec
		var with []string
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			if q := c.Resources.Limits[manifests.ResourceTPM]; q.Value() == 1 {
				with = append(with, c.Name)
			}
		}
		want := []string{manifests.ContainerAgent}
		if n.Agent.Kind != "go" {
			want = []string{"tpm"}
		}
		if !slices.Equal(with, want) {
			t.Errorf("%s (%s): the TPM goes to %v; want %v", n.Name, n.Agent.Kind, with, want)
		}
	}
}

// What a node measures is seen by its agent: with the TPM, or else in a volume that it may not write to. Who has no use for it does not get it.
func TestMeasured(t *testing.T) {
	l := mixedLab()
	for _, n := range l.Nodes {
		pod := setOf(t, l, manifests.Agents(l), n).Spec.Template.Spec
		path := ""
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == "measured" {
				path = m.MountPath
				if !m.ReadOnly {
					t.Errorf("%s may write to its node's logs", n.Name)
				}
			}
		}
		want := ""
		if n.Agent.Kind == "binary" {
			want = "/run/keylab-tpm"
		}
		if path != want {
			t.Errorf("%s (%s, IMA %t): the logs are mounted at %q; want %q", n.Name, n.Agent.Kind, n.IMA, path, want)
		}
	}
	paths := map[string]bool{}
	for _, v := range find[*corev1.PersistentVolume](manifests.Agents(l)) {
		paths[v.Spec.HostPath.Path] = true
	}
	if want := map[string]bool{manifests.AgentDataDir: true, manifests.NodeTPMDir: true}; !cmp.Equal(paths, want) {
		t.Errorf("volumes of the nodes' folders %v, want %v", paths, want)
	}
	if got := len(find[*corev1.PersistentVolume](manifests.Agents(testLab("two", 2)))); got != 1 {
		t.Errorf("%d volumes in a lab that measures nothing; want one", got)
	}
}

// Names are what Kubernetes takes, for the longest lab name and hostnames as long as UUIDs make them.
func TestNames(t *testing.T) {
	for _, o := range all(testLab(strings.Repeat("x", 42), 9)) {
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		if why := validation.IsDNS1123Subdomain(m.GetName()); len(why) != 0 {
			t.Errorf("%T %q: %v", o, m.GetName(), why)
		}
		for key, value := range m.GetLabels() {
			if why := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(why) != 0 {
				t.Errorf("%T %q: label %s=%q: %v", o, m.GetName(), key, value, why)
			}
		}
		switch o := o.(type) {
		case *corev1.Service: // stricter: RFC 1035
			if why := validation.IsDNS1035Label(o.Name); len(why) != 0 {
				t.Errorf("Service %q: %v", o.Name, why)
			}
		case *networkingv1.Ingress:
			if why := validation.IsDNS1123Subdomain(o.Spec.Rules[0].Host); len(why) != 0 {
				t.Errorf("Ingress %q: host: %v", o.Name, why)
			}
		}
	}
}

// Where the node image brings the pods' network, none is put beside it.
func TestBuiltInCNI(t *testing.T) {
	l := testLab("two", 2)
	l.InstallCNI = false
	if got := encode(t, manifests.System(l)); strings.Contains(got, manifests.AppPodNetwork) {
		t.Errorf("the pods' network is among the objects:\n%s", got)
	}
}

// In the push model nobody connects to an agent: it has no Service, no Ingress, no port and no probe, and knows where the verifier is.
func TestPush(t *testing.T) {
	l := mixedLab()
	l.Verifier, l.Interval = netip.MustParseAddrPort("198.18.10.12:8881"), 2*time.Second
	objects := manifests.Agents(l)
	if s, i := find[*corev1.Service](objects), find[*networkingv1.Ingress](objects); len(s)+len(i) > 0 {
		t.Errorf("%d Services and %d Ingresses", len(s), len(i))
	}
	for _, d := range find[*appsv1.DaemonSet](objects) {
		for _, c := range d.Spec.Template.Spec.Containers {
			if len(c.Ports) > 0 || c.ReadinessProbe != nil {
				t.Errorf("%s: container %s is to be reached: %v, %v", d.Name, c.Name, c.Ports, c.ReadinessProbe)
			}
		}
	}
	for name, text := range find[*corev1.ConfigMap](objects)[0].Data {
		for _, want := range []string{`verifier_url = "https://198.18.10.12:8881"`, `verifier_tls_ca_cert = "/etc/keylime/cv_ca.crt"`, "attestation_interval_seconds = 2"} {
			if !strings.Contains(text, want+"\n") {
				t.Errorf("%s lacks %s:\n%s", name, want, text)
			}
		}
	}
}

// The example of another ingress controller is what Kubernetes takes, and serves the class that its lab names.
func TestExampleIngress(t *testing.T) {
	data, err := os.ReadFile("../examples/kind/traefik.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := os.ReadFile("../examples/traefik.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var class string
	for _, document := range bytes.Split(data, []byte("\n---\n")) {
		o, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Errorf("%v in\n%s", err, document)
		}
		if c, ok := o.(*networkingv1.IngressClass); ok {
			class = c.Name
		}
	}
	if class == "" || !bytes.Contains(lab, []byte("\n  class: "+class+"\n")) {
		t.Errorf("the example serves the ingress class %q, which its lab does not name:\n%s", class, lab)
	}
}
