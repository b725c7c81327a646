package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// moveIngress gives the load balancer another address, or the plan's again, as who renumbers one does: first the address, then the router's rules, then the
// names.
func (l *Lab) moveIngress(ctx context.Context, f fault) error {
	home, now := l.planned.Keylime.Ingress.Addr(), l.plan().Keylime.Ingress.Addr()
	to := home
	if !f.Clear {
		if now != home {
			return fmt.Errorf("the load balancer was moved already, to %s", now)
		}
		cluster := l.planned.Network(plan.Cluster)
		to = l.plan().SpareIngress(nth(cluster.Prefix, hostOffset))
		if !to.IsValid() || cluster.Pool.Contains(to) {
			return fmt.Errorf("network %s has no address left to move to", cluster.Prefix)
		}
	}
	if err := l.moveService(ctx, now, to); err != nil {
		return err
	}
	err := l.learn(func(f *facts) {
		f.Ingress = to
		if to == home {
			f.Ingress = netip.Addr{}
		}
	})
	if err != nil {
		return err
	}
	if err := l.keepAddresses(); err != nil {
		return err
	}
	p := l.plan()
	if err := l.router().SetRules(ctx, routerRules(p)); err != nil {
		return err
	}
	if err := l.awaitIngress(ctx); err != nil {
		return err
	}
	host := plan.Ingress + "." + p.Lab + ".test"
	for _, server := range []string{plan.DNS, plan.ClusterDNS} {
		if err := errors.Join(l.dns(server).SetWildcard(ctx, p.DNS.Wildcard), l.dns(server).SetRecord(ctx, host, p.DNS.Records[host])); err != nil {
			return fmt.Errorf("tell %s the load balancer's address: %w", server, err)
		}
	}
	return nil
}

// moveService has MetalLB give the ingress' Service another address. Meanwhile MetalLB has both to give: it takes no address away that a Service has.
func (l *Lab) moveService(ctx context.Context, from, to netip.Addr) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	m, err := l.objects()
	if err != nil {
		return err
	}
	m.LoadBalancer = to
	if err := k.apply(ctx, manifests.LoadBalancer(m, from)); err != nil {
		return err
	}
	for _, o := range manifests.Ingress(m) {
		if s, ok := o.(*corev1.Service); ok {
			if err := k.apply(ctx, []runtime.Object{s}); err != nil {
				return err
			}
		}
	}
	err = fleet.Await(ctx, "MetalLB to give the ingress "+to.String(), func(ctx context.Context) (string, error) {
		s, err := k.typed.CoreV1().Services(m.SystemNamespace).Get(ctx, manifests.AppIngress, metav1.GetOptions{})
		if err != nil {
			return "", fmt.Errorf("look at the ingress' service: %w", err)
		}
		if has := addressesOf(s); len(has) != 1 || has[0] != to.String() {
			return fmt.Sprintf("it has %v", has), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	return k.apply(ctx, manifests.LoadBalancer(m))
}

// addressesOf are those that a load balancer gave a Service.
func addressesOf(s *corev1.Service) (list []string) {
	for _, i := range s.Status.LoadBalancer.Ingress {
		list = append(list, i.IP)
	}
	return list
}
