package manifests_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keylab.dev/keylab/manifests"
)

// A pod can see its own node's files; only its own node's hostname leads to it.
func TestNodesAreApart(t *testing.T) {
	l := mixedLab()
	objects := manifests.Agents(l)
	for _, n := range l.Nodes {
		pod := setOf(t, l, objects, n).Spec.Template.Spec
		files := map[string]string{}
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == "config" {
				files[m.MountPath] = strings.ReplaceAll(m.SubPathExpr, "$(NODE_NAME)", n.KubernetesName)
			}
		}
		k := n.KubernetesName
		want := map[string]string{
			"/etc/keylime/agent.conf": k + ".conf", "/etc/keylime/server-cert.pem": k + ".crt", "/etc/keylime/server-key.pem": k + ".key", "/etc/keylime/cv_ca.crt": "cv_ca.crt",
		}
		if d := cmp.Diff(want, files); d != "" {
			t.Errorf("%s: the pod does not mount its own node's files of all that there are:\n%s", n.Name, d)
		}
		there := filesOf(pod, objects)
		for _, file := range files {
			if !there[file] {
				t.Errorf("%s: the pod mounts %s, which is in no ConfigMap and no Secret of its volume", n.Name, file)
			}
		}
		services, ingresses := 0, 0
		for _, s := range find[*corev1.Service](objects) {
			if s.Spec.Selector[manifests.LabelNode] == n.Name {
				services++
				for _, i := range find[*networkingv1.Ingress](objects) {
					if i.Spec.Rules[0].Host == n.Hostname && i.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Name == s.Name {
						ingresses++
					}
				}
			}
		}
		if services != 1 || ingresses != 1 {
			t.Errorf("%s: %d Services and %d Ingresses lead from its hostname to it; want one of each", n.Name, services, ingresses)
		}
	}
}

// filesOf are the names of all files in the volume of a pod's configuration.
func filesOf(pod corev1.PodSpec, objects []runtime.Object) map[string]bool {
	files := map[string]bool{}
	for _, s := range pod.Volumes[0].Projected.Sources {
		for _, o := range find[*corev1.ConfigMap](objects) {
			if s.ConfigMap != nil && o.Name == s.ConfigMap.Name {
				maps.Copy(files, names(o.Data))
			}
		}
		for _, o := range find[*corev1.Secret](objects) {
			if s.Secret != nil && o.Name == s.Secret.Name {
				maps.Copy(files, names(o.Data))
			}
		}
	}
	return files
}

func names[V any](data map[string]V) map[string]bool {
	all := map[string]bool{}
	for name := range data {
		all[name] = true
	}
	return all
}

// A node that joins a lab, or leaves it, changes nothing of what the pods of others are made of, even if it is the first of its kind.
func TestMembersAreApart(t *testing.T) {
	l := mixedLab()
	last := testNode("mixed", 6) // the same agent as another node's, which measures files
	last.Agent = l.Nodes[3].Agent
	l.Nodes = append(l.Nodes, last)
	before := map[string]*appsv1.DaemonSet{}
	for _, d := range find[*appsv1.DaemonSet](manifests.Agents(l)) {
		before[d.Name] = d
	}
	if len(before) != 5 {
		t.Fatalf("%d DaemonSets", len(before))
	}
	for i, n := range l.Nodes {
		without := l
		without.Nodes = slices.Delete(slices.Clone(l.Nodes), i, i+1)
		for _, d := range find[*appsv1.DaemonSet](manifests.Agents(without)) {
			if diff := cmp.Diff(before[d.Name], d); diff != "" {
				t.Errorf("without %s (%s) %s is another one:\n%s", n.Name, l.AgentSet(n), d.Name, diff)
			}
		}
	}
}
