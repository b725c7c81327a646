package manifests

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// System is what every node needs before anything else: the pods' network, where the node image brings none, and the TPM device plugin.
func System(l Lab) []runtime.Object {
	objects := []runtime.Object{l.namespace(l.SystemNamespace, "privileged")}
	if l.InstallCNI {
		objects = append(objects, l.account(AppPodNetwork), l.role(AppPodNetwork, []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}}}),
			l.binding(AppPodNetwork), l.podNetwork())
	}
	return append(objects, l.devicePlugin())
}

// namespace makes a namespace with a Pod Security level that is enforced.
func (l Lab) namespace(name, level string) *corev1.Namespace {
	n := &corev1.Namespace{TypeMeta: kind("v1", "Namespace"), ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"app.kubernetes.io/part-of": "keylab", "keylab.lab": l.Name, "pod-security.kubernetes.io/enforce": level,
	}}}
	return n
}

func kind(version, name string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: name}
}

func (l Lab) account(app string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{TypeMeta: kind("v1", "ServiceAccount"), ObjectMeta: l.meta(app, l.SystemNamespace, app)}
}

func (l Lab) role(app string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{TypeMeta: kind("rbac.authorization.k8s.io/v1", "ClusterRole"), ObjectMeta: l.meta(app, "", app), Rules: rules}
}

func (l Lab) binding(app string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta: kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"), ObjectMeta: l.meta(app, "", app),
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: app},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: app, Namespace: l.SystemNamespace}},
	}
}

// daemonSet runs one pod on every node that the pod tolerates; all are replaced at once when it changes.
func (l Lab) daemonSet(app, namespace string, pod corev1.PodSpec) *appsv1.DaemonSet {
	pod.TerminationGracePeriodSeconds = ptr(int64(5))
	return &appsv1.DaemonSet{
		TypeMeta: kind("apps/v1", "DaemonSet"), ObjectMeta: l.meta(app, namespace, app),
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector(app)},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr(intstr.FromString("100%"))}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l.labels(app)}, Spec: pod},
		},
	}
}

// podNetwork is the CNI: on every node, before anything else runs there.
func (l Lab) podNetwork() *appsv1.DaemonSet {
	return l.daemonSet(AppPodNetwork, l.SystemNamespace, corev1.PodSpec{
		ServiceAccountName: AppPodNetwork, HostNetwork: true, PriorityClassName: "system-node-critical",
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{
			Name: "podnet", Image: l.KeylabImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Command: inContainer("podnet", "--node", "$(NODE_NAME)", "--pod-cidr", l.PodCIDR.String(), "--service-cidr", l.ServiceCIDR.String(), "--api-server", l.APIServer),
			Env:     []corev1.EnvVar{field("NODE_NAME", "spec.nodeName")},
			SecurityContext: &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN", "DAC_OVERRIDE"}}},
			VolumeMounts: []corev1.VolumeMount{{Name: "cni", MountPath: "/etc/cni/net.d"}},
		}},
		Volumes: []corev1.Volume{hostPath("cni", "/etc/cni/net.d", corev1.HostPathDirectoryOrCreate)},
	})
}

// devicePlugin gives the workers' pods the TPM of their node.
func (l Lab) devicePlugin() *appsv1.DaemonSet {
	return l.daemonSet(AppDevicePlugin, l.SystemNamespace, corev1.PodSpec{
		AutomountServiceAccountToken: ptr(false), PriorityClassName: "system-node-critical",
		// It uses no network, and with the node's own it need not wait for the pods'.
		HostNetwork: true, Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}},
		Affinity: onLabNodes(),
		Containers: []corev1.Container{{
			Name: "plugin", Image: l.KeylabImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: inContainer("device-plugin"),
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"DAC_OVERRIDE"}}},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "plugins", MountPath: "/var/lib/kubelet/device-plugins"},
				{Name: "tpm", MountPath: "/var/lib/keylab/tpm", ReadOnly: true},
			},
		}},
		Volumes: []corev1.Volume{
			hostPath("plugins", "/var/lib/kubelet/device-plugins", corev1.HostPathDirectory),
			hostPath("tpm", "/var/lib/keylab/tpm", corev1.HostPathDirectory),
		},
	})
}

// onLabNodes keeps pods on the nodes that the lab knows: its workers.
func onLabNodes() *corev1.Affinity {
	return onNodes(corev1.NodeSelectorRequirement{Key: LabelNode, Operator: corev1.NodeSelectorOpExists})
}

// onNodes keeps pods on nodes of which all that holds.
func onNodes(all ...corev1.NodeSelectorRequirement) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: all}},
	}}}
}
