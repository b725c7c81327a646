package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Config says which node this is.
type Config struct {
	Node        string       // name of its Kubernetes object
	PodCIDR     netip.Prefix // the whole cluster's
	ServiceCIDR netip.Prefix // where the addresses of services are
	APIServer   string       // URL; empty: the service's address, which needs kube-proxy
	CNIDir      string       // default /etc/cni/net.d
	Log         *slog.Logger
}

// Run keeps the node's part of the pods' network until ctx ends. Routes and rules then stay, so that a restart cuts nothing.
func Run(ctx context.Context, c Config) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	if c.APIServer != "" {
		config.Host = c.APIServer
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	return run(ctx, c, client)
}

// resync is how often everything is put right again without an event.
const resync = 30 * time.Second

func run(ctx context.Context, c Config, client kubernetes.Interface) error {
	if c.CNIDir == "" {
		c.CNIDir = "/etc/cni/net.d"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := setRules(c.PodCIDR, c.ServiceCIDR); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, resync)
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() }, UpdateFunc: func(any, any) { poke() }, DeleteFunc: func(any) { poke() },
	})
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	// As long as some nodes are not known yet, their routes, left by an earlier run, would be taken for those of nodes that are gone.
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return nil // ctx has ended
	}
	s := &state{config: c}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		var list []*corev1.Node
		for _, o := range nodes.Informer().GetStore().List() {
			if n, ok := o.(*corev1.Node); ok {
				list = append(list, n)
			}
		}
		if err := s.sync(list); err != nil {
			c.Log.Warn("not in order yet", "error", err)
		}
	}
}

// state is what was done last, so that only changes are told.
type state struct {
	config Config
	mu     sync.Mutex
	said   string
}

// sync makes configuration and routes what the nodes ask for.
func (s *state) sync(nodes []*corev1.Node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	routes := map[netip.Prefix]netip.Addr{}
	var own netip.Prefix
	var errs []error
	for _, n := range nodes {
		if n.Spec.PodCIDR == "" {
			continue // the controller manager has not come to it yet
		}
		pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil {
			errs = append(errs, fmt.Errorf("pod range of node %s: %w", n.Name, err))
			continue
		}
		if n.Name == s.config.Node {
			own = pods
			continue
		}
		address, err := internalAddress(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		routes[pods] = address
	}
	if own.IsValid() {
		if err := writeCNI(s.config.CNIDir, own); err != nil {
			errs = append(errs, err)
		}
	} else {
		errs = append(errs, fmt.Errorf("node %s has no pod range yet", s.config.Node))
	}
	errs = append(errs, setRoutes(s.config.PodCIDR, routes))
	if now := fmt.Sprint(own, routes); now != s.said {
		s.said = now
		s.config.Log.Info("the pods' network", "own", own, "peers", routes)
	}
	return errors.Join(errs...)
}

func internalAddress(n *corev1.Node) (netip.Addr, error) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("node %s has no IPv4 address yet", n.Name)
}
