package sniproxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func ptr[T any](v T) *T { return &v }

func ingress(name, class, host, service string, age time.Duration) *networkingv1.Ingress {
	return &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: "agents", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000000, 0).Add(-age))},
		Spec: networkingv1.IngressSpec{IngressClassName: &class, Rules: []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Name: "agent"}}}}},
		}}}}},
	}
}

func service(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "agents", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "agent", Port: 9002}}}}
}

func endpoints(service, address string, ready bool) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "agents", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr("agent"), Port: ptr(int32(9002))}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
}

// Routes follow the objects: of two Ingress objects that want one name the older has it; other classes, and services without a ready endpoint, have none; and a
// pod that comes back with another address is followed.
func TestRoutesFromObjects(t *testing.T) {
	client := fake.NewClientset(
		ingress("a", "keylab", "A.agents.test", "a", time.Hour), service("a"), endpoints("a", "198.19.1.2", true),
		ingress("thief", "keylab", "a.agents.test", "b", time.Minute), service("b"), endpoints("b", "198.19.1.3", true),
		ingress("down", "keylab", "down.agents.test", "down", 0), service("down"), endpoints("down", "198.19.1.4", false),
		ingress("foreign", "nginx", "foreign.agents.test", "b", 0),
		ingress("lost", "keylab", "lost.agents.test", "nowhere", 0),
	)
	var log bytes.Buffer
	k, err := newController(client, Config{Class: "keylab", AgentNamespace: "agents", AgentSelector: "app=agent", LoadBalancer: "198.18.20.200", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	routes := func() map[string]string {
		t.Helper()
		r, err := k.routes()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if got := routes(); !maps.Equal(got, map[string]string{"a.agents.test": "198.19.1.2:9002"}) {
		t.Errorf("routes %v", got)
	}
	routes()
	for _, want := range []string{"agents/a has it, agents/thief does not", "service agents/nowhere"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%q was said %d times:\n%s", want, n, log.String())
		}
	}
	moved := endpoints("a", "198.19.1.9", true)
	if _, err := client.DiscoveryV1().EndpointSlices("agents").Update(t.Context(), moved, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the route to follow", func() error {
		if got := routes()["a.agents.test"]; got != "198.19.1.9:9002" {
			return fmt.Errorf("it leads to %s", got)
		}
		return nil
	})
	if err := k.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	i, err := client.NetworkingV1().Ingresses("agents").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || len(i.Status.LoadBalancer.Ingress) != 1 || i.Status.LoadBalancer.Ingress[0].IP != "198.18.20.200" {
		t.Errorf("status %+v, %v", i.Status, err)
	}
}

// An agent's pod is labelled with what the lab calls its node; others are left alone.
func TestPodsAreLabelled(t *testing.T) {
	pod := func(name, node, app string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "agents", Name: name, Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{NodeName: node}}
	}
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "k-worker", Labels: map[string]string{LabelNode: "node-1"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "k-worker2"}},
		pod("one", "k-worker", "agent"), pod("two", "k-worker2", "agent"), pod("waiting", "", "agent"), pod("other", "k-worker", "else"),
	)
	// As beside an ingress that is not keylab's.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, Config{LabelsOnly: true, AgentNamespace: "agents", AgentSelector: "app=agent"}, client)
	}()
	await(t, "the pods to be labelled", func() error {
		for _, name := range []string{"one", "two"} {
			p, err := client.CoreV1().Pods("agents").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || p.Labels[LabelNode] == "" {
				return fmt.Errorf("pod %s has no label, %v", name, err)
			}
		}
		return nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"one": "node-1", "two": "k-worker2", "waiting": "", "other": ""} {
		p, err := client.CoreV1().Pods("agents").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || p.Labels[LabelNode] != want {
			t.Errorf("pod %s is labelled %q, %v; want %q", name, p.Labels[LabelNode], err, want)
		}
	}
}

func TestParseArgs(t *testing.T) {
	if c, err := ParseArgs([]string{"--listen", "0.0.0.0:8443", "--class", "x"}); err != nil || c.Class != "x" || c.Listen.Port() != 8443 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range [][]string{{"--listen", "here"}, {"--nonsense"}} {
		if _, err := ParseArgs(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
