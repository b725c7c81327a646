package sniproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// LabelNode is the label of nodes, and of the agents' pods on them, by which a Service selects the one pod on one node.
const LabelNode = "keylab.dev/node"

// controller works out routes from objects, and labels agents' pods.
type controller struct {
	client       kubernetes.Interface
	class        string
	address      string // of the load balancer, for the Ingress objects' status
	podSelector  string
	podNamespace string
	log          *slog.Logger

	factory   informers.SharedInformerFactory
	ingresses networkinglisters.IngressLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	nodes     corelisters.NodeLister
	pods      corelisters.PodLister
	changed   chan struct{}
	warned    map[string]string // what was said last of each name
}

func newController(client kubernetes.Interface, c Config) (*controller, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	k := &controller{
		client: client, class: c.Class, address: c.LoadBalancer, podNamespace: c.AgentNamespace, podSelector: c.AgentSelector, log: c.Log,
		factory:   f,
		ingresses: f.Networking().V1().Ingresses().Lister(), services: f.Core().V1().Services().Lister(),
		slices: f.Discovery().V1().EndpointSlices().Lister(), nodes: f.Core().V1().Nodes().Lister(), pods: f.Core().V1().Pods().Lister(),
		changed: make(chan struct{}, 1), warned: map[string]string{},
	}
	return k, k.watch(f.Networking().V1().Ingresses().Informer(), f.Core().V1().Services().Informer(), f.Discovery().V1().EndpointSlices().Informer(),
		f.Core().V1().Nodes().Informer(), f.Core().V1().Pods().Informer())
}

// newLabeller is a controller that does nothing but label pods.
func newLabeller(client kubernetes.Interface, c Config) (*controller, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	k := &controller{
		client: client, podNamespace: c.AgentNamespace, podSelector: c.AgentSelector, log: c.Log,
		factory: f, nodes: f.Core().V1().Nodes().Lister(), pods: f.Core().V1().Pods().Lister(), changed: make(chan struct{}, 1),
	}
	return k, k.watch(f.Core().V1().Nodes().Informer(), f.Core().V1().Pods().Informer())
}

// watch has another look asked for whenever something of these kinds changes.
func (k *controller) watch(kinds ...cache.SharedIndexInformer) error {
	for _, i := range kinds {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { k.poke() }, UpdateFunc: func(any, any) { k.poke() }, DeleteFunc: func(any) { k.poke() },
		}); err != nil {
			return fmt.Errorf("watch the cluster: %w", err)
		}
	}
	return nil
}

// poke asks for another look; many events make one.
func (k *controller) poke() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// start begins to watch, and returns when everything has been seen once.
func (k *controller) start(ctx context.Context) error {
	k.factory.Start(ctx.Done())
	for kind, ok := range k.factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("watch the cluster's %v: %w", kind, context.Cause(ctx))
		}
	}
	k.poke()
	return nil
}

// routes are what the Ingress objects of the class ask for: of two that want one name the older has it.
func (k *controller) routes() (map[string]string, error) {
	all, err := k.ingresses.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list the Ingress objects: %w", err)
	}
	slices.SortFunc(all, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	routes, owner := map[string]string{}, map[string]string{}
	for _, i := range all {
		if i.Spec.IngressClassName == nil || *i.Spec.IngressClassName != k.class {
			continue
		}
		for _, r := range i.Spec.Rules {
			if r.Host == "" || r.HTTP == nil || len(r.HTTP.Paths) == 0 || r.HTTP.Paths[0].Backend.Service == nil {
				continue
			}
			name := strings.ToLower(r.Host)
			if first, ok := owner[name]; ok {
				k.warn(name, "two Ingress objects want it: "+first+" has it, "+i.Namespace+"/"+i.Name+" does not get it")
				continue
			}
			owner[name] = i.Namespace + "/" + i.Name
			address, err := k.backend(i.Namespace, r.HTTP.Paths[0].Backend.Service)
			if err != nil {
				k.warn(name, err.Error())
				continue
			}
			if address != "" {
				routes[name] = address
			}
		}
	}
	return routes, nil
}

// warn says once what is wrong with a name.
func (k *controller) warn(name, what string) {
	if k.warned[name] != what {
		k.warned[name] = what
		k.log.Warn("no route", "name", name, "why", what)
	}
}

// backend is where a Service leads: the first of its ready endpoints by address; empty when it has none.
func (k *controller) backend(namespace string, b *networkingv1.IngressServiceBackend) (string, error) {
	service, err := k.services.Services(namespace).Get(b.Name)
	if err != nil {
		return "", fmt.Errorf("service %s/%s: %w", namespace, b.Name, err)
	}
	for _, p := range service.Spec.Ports {
		if p.Name == b.Port.Name && b.Port.Name != "" || p.Port == b.Port.Number && b.Port.Number != 0 {
			return k.endpoint(namespace, b.Name, p.Name)
		}
	}
	return "", fmt.Errorf("service %s/%s has no port %s%d", namespace, b.Name, b.Port.Name, b.Port.Number)
}

func (k *controller) endpoint(namespace, service, port string) (string, error) {
	list, err := k.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	if err != nil {
		return "", fmt.Errorf("endpoints of service %s/%s: %w", namespace, service, err)
	}
	var addresses []string
	for _, s := range list {
		for _, p := range s.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != port {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready && len(e.Addresses) > 0 {
					addresses = append(addresses, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(addresses) == 0 {
		return "", nil
	}
	return slices.Min(addresses), nil
}

// labelPods gives each agent's pod the label of its node, by which that node's Service selects it.
func (k *controller) labelPods(ctx context.Context) error {
	selector, err := labels.Parse(k.podSelector)
	if err != nil {
		return fmt.Errorf("selector of the agents' pods: %w", err)
	}
	pods, err := k.pods.Pods(k.podNamespace).List(selector)
	if err != nil {
		return fmt.Errorf("list the agents' pods: %w", err)
	}
	for _, p := range pods {
		want, ok := k.nodeName(p)
		if !ok || p.Labels[LabelNode] == want || p.DeletionTimestamp != nil {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{LabelNode: want}}})
		if err != nil {
			return err
		}
		if _, err := k.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label pod %s with its node: %w", p.Name, err)
		}
		k.log.Info("labelled", "pod", p.Name, "node", want)
	}
	return nil
}

// nodeName is what the lab calls the node that a pod is on.
func (k *controller) nodeName(p *corev1.Pod) (string, bool) {
	if p.Spec.NodeName == "" {
		return "", false
	}
	n, err := k.nodes.Get(p.Spec.NodeName)
	if err != nil {
		return "", false
	}
	if name := n.Labels[LabelNode]; name != "" {
		return name, true
	}
	return n.Name, true
}

// publish says in the Ingress objects where they are reached.
func (k *controller) publish(ctx context.Context) error {
	if k.address == "" {
		return nil
	}
	all, err := k.ingresses.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list the Ingress objects: %w", err)
	}
	for _, i := range all {
		if i.Spec.IngressClassName == nil || *i.Spec.IngressClassName != k.class {
			continue
		}
		if s := i.Status.LoadBalancer.Ingress; len(s) == 1 && s[0].IP == k.address {
			continue
		}
		i = i.DeepCopy()
		i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: k.address}}
		if _, err := k.client.NetworkingV1().Ingresses(i.Namespace).UpdateStatus(ctx, i, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("status of Ingress %s/%s: %w", i.Namespace, i.Name, err)
		}
	}
	return nil
}
