package manifests

import (
	"net/netip"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Ports of the ingress' pod: it needs no privilege for them.
const (
	proxyPort  = 8443
	statusPort = 9090
)

// Ingress is keylab's own ingress: HAProxy, which passes TLS through by SNI, and the controller that drives it from Ingress objects; behind a Service with the
// load balancer's address.
func Ingress(l Lab) []runtime.Object {
	return []runtime.Object{
		&networkingv1.IngressClass{TypeMeta: kind("networking.k8s.io/v1", "IngressClass"), ObjectMeta: l.meta(AppIngress, "", ClassKeylab),
			Spec: networkingv1.IngressClassSpec{Controller: "keylab.dev/ingress"}},
		l.account(AppIngress), l.role(AppIngress, ingressRules()), l.binding(AppIngress),
		l.ingressDeployment(), l.ingressService(),
	}
}

// Labels is what an ingress that is not keylab's needs beside it: the controller that labels each agent's pod with its node, by which the node's Service selects
// it.
func Labels(l Lab) []runtime.Object {
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch", "patch"}},
	}
	return []runtime.Object{l.account(AppLabels), l.role(AppLabels, rules), l.binding(AppLabels), &appsv1.Deployment{
		TypeMeta: kind("apps/v1", "Deployment"), ObjectMeta: l.meta(AppLabels, l.SystemNamespace, AppLabels),
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: selector(AppLabels)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l.labels(AppLabels)}, Spec: corev1.PodSpec{
				ServiceAccountName: AppLabels, TerminationGracePeriodSeconds: ptr(int64(5)),
				NodeSelector: map[string]string{LabelControlPlane: ""}, Tolerations: onControlPlane(),
				Containers: []corev1.Container{{
					Name: ContainerIngress, Image: l.KeylabImage, ImagePullPolicy: corev1.PullIfNotPresent,
					Command: inContainer("ingress", "--labels-only", "--agent-namespace", l.AgentNamespace), SecurityContext: restricted(),
				}},
			}},
		},
	}}
}

// onControlPlane lets a pod stand on the control plane.
func onControlPlane() []corev1.Toleration {
	return []corev1.Toleration{{Key: LabelControlPlane, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
}

// ingressRules are what the controller may do.
func ingressRules() []rbacv1.PolicyRule {
	read := []string{"get", "list", "watch"}
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses", "ingressclasses"}, Verbs: read},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses/status"}, Verbs: []string{"update", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"services", "nodes"}, Verbs: read},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: append([]string{"patch"}, read...)},
	}
}

func (l Lab) ingressDeployment() *appsv1.Deployment {
	shared := corev1.VolumeMount{Name: "haproxy", MountPath: "/run/haproxy"}
	listen := "0.0.0.0:" + strconv.Itoa(proxyPort)
	controller := corev1.Container{
		Name: ContainerIngress, Image: l.KeylabImage, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: inContainer("ingress", "--class", ClassKeylab, "--load-balancer", l.LoadBalancer.String(), "--agent-namespace", l.AgentNamespace,
			"--dir", shared.MountPath, "--listen", listen, "--status", "0.0.0.0:"+strconv.Itoa(statusPort)),
		SecurityContext: restricted(), VolumeMounts: []corev1.VolumeMount{shared},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(statusPort)}}},
	}
	return &appsv1.Deployment{
		TypeMeta: kind("apps/v1", "Deployment"), ObjectMeta: l.meta(AppIngress, l.SystemNamespace, AppIngress),
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: selector(AppIngress)},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l.labels(AppIngress)}, Spec: corev1.PodSpec{
				ServiceAccountName: AppIngress, TerminationGracePeriodSeconds: ptr(int64(5)),
				// On the control plane, so that no node's end takes the way to the other nodes with it.
				NodeSelector:    map[string]string{LabelControlPlane: ""},
				Tolerations:     onControlPlane(),
				SecurityContext: &corev1.PodSecurityContext{FSGroup: ptr(int64(AgentUser))},
				InitContainers: []corev1.Container{{
					Name: "config", Image: l.KeylabImage, ImagePullPolicy: corev1.PullIfNotPresent,
					Command:         inContainer("ingress-init", "--dir", shared.MountPath, "--listen", listen),
					SecurityContext: restricted(), VolumeMounts: []corev1.VolumeMount{shared},
				}},
				Containers: []corev1.Container{
					{
						Name: "haproxy", Image: l.ProxyImage, ImagePullPolicy: corev1.PullIfNotPresent,
						Command:         []string{"haproxy", "-W", "-db", "-f", "/run/haproxy/haproxy.cfg"},
						SecurityContext: restricted(), VolumeMounts: []corev1.VolumeMount{shared},
						Ports:          []corev1.ContainerPort{{Name: "tls", ContainerPort: proxyPort}},
						ReadinessProbe: tcpProbe(intstr.FromInt32(proxyPort)),
					},
					controller,
				},
				Volumes: []corev1.Volume{emptyDir("haproxy", corev1.StorageMediumMemory, "16Mi")},
			}},
		},
	}
}

// annotationAddress is MetalLB's, for a Service that wants a certain address.
const annotationAddress = "metallb.io/loadBalancerIPs"

func (l Lab) ingressService() *corev1.Service {
	s := &corev1.Service{
		TypeMeta: kind("v1", "Service"), ObjectMeta: l.meta(AppIngress, l.SystemNamespace, AppIngress),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: selector(AppIngress),
			AllocateLoadBalancerNodePorts: ptr(false),
			Ports:                         []corev1.ServicePort{{Name: "tls", Port: 443, TargetPort: intstr.FromInt32(proxyPort), Protocol: corev1.ProtocolTCP}},
		},
	}
	s.Annotations = map[string]string{annotationAddress: l.LoadBalancer.String()}
	return s
}

// LoadBalancer gives MetalLB its one address, announced on the cluster network (L2), and others that it may give too.
func LoadBalancer(l Lab, others ...netip.Addr) []runtime.Object {
	addresses := []any{l.LoadBalancer.String() + "/32"}
	for _, a := range others {
		if a != l.LoadBalancer {
			addresses = append(addresses, a.String()+"/32")
		}
	}
	object := func(kind string, spec map[string]any) runtime.Object {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "metallb.io/v1beta1", "kind": kind, "spec": spec,
			"metadata": map[string]any{"name": "keylab", "namespace": "metallb-system", "labels": map[string]any{"app.kubernetes.io/part-of": "keylab", "keylab.lab": l.Name}},
		}}
	}
	return []runtime.Object{
		object("IPAddressPool", map[string]any{"addresses": addresses}),
		object("L2Advertisement", map[string]any{"ipAddressPools": []any{"keylab"}}),
	}
}
