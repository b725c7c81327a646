package netroles

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keylab.dev/keylab/netlab"
)

// RouterConfig is what the router must know.
type RouterConfig struct {
	Addresses  []netip.Prefix     `json:"addresses"` // its own, one in each network, with the network's length
	Rules      []netlab.Rule      `json:"rules"`
	Directions []netlab.Direction `json:"directions"`
}

// RunRouter is the main process of the router's container, which stands in all networks: it gives itself the planned addresses, lets the rules'
// flows through and nothing else, and has no way out.
func RunRouter(ctx context.Context, configPath string) error {
	var c RouterConfig
	if err := readConfig(configPath, &c); err != nil {
		return err
	}
	return runRouter(ctx, c, ControlSocket)
}

func runRouter(ctx context.Context, c RouterConfig, socket string) error {
	// Rules come first: from the moment that the router has its addresses it lets nothing else through.
	router, err := netlab.ApplyRules(netlab.Current(), c.Rules, c.Directions...)
	if err != nil {
		return err
	}
	for _, a := range c.Addresses {
		if err := takeAddress(a); err != nil {
			return err
		}
	}
	if err := dropDefaultRoutes(); err != nil {
		return err
	}
	if err := forward(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counters", Answer(func(*http.Request) (any, error) { return router.Counters() }))
	mux.HandleFunc("GET /rules", Answer(func(*http.Request) (any, error) {
		rules, open := router.Rules()
		return RouterRules{rules, open}, nil
	}))
	mux.HandleFunc("PUT /rules", Answer(func(r *http.Request) (any, error) {
		var rules []netlab.Rule
		if err := json.NewDecoder(r.Body).Decode(&rules); err != nil {
			return nil, fmt.Errorf("read the rules: %w", err)
		}
		return "done", router.SetRules(rules)
	}))
	mux.HandleFunc("POST /open", Answer(func(*http.Request) (any, error) { return "done", router.OpenAll() }))
	mux.HandleFunc("POST /restore", Answer(func(*http.Request) (any, error) { return "done", router.Restore() }))
	return ServeControl(ctx, socket, mux)
}

// takeAddress adds an address to the link that stands in its network. Docker keeps the address in its books as taken, so that nobody else
// gets it, and gave this container another one.
func takeAddress(p netip.Prefix) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list the router's links: %w", err)
	}
	for _, link := range links {
		addrs, err := netlink.AddrList(link, unix.AF_INET)
		if err != nil {
			return fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range addrs {
			if own, ok := netip.AddrFromSlice(a.IP.To4()); !ok || !p.Masked().Contains(own) {
				continue
			}
			mask := net.CIDRMask(p.Bits(), 32)
			if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: mask}}); err != nil {
				return fmt.Errorf("give the router the address %s: %w", p, err)
			}
			return nil
		}
	}
	return fmt.Errorf("the router stands in no network with %s", p.Masked())
}

// dropDefaultRoutes leaves the router without a way out of the lab: what is not in its networks is unreachable.
func dropDefaultRoutes() error {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list the router's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return fmt.Errorf("remove the router's default route: %w", err)
		}
	}
	return nil
}

const forwarding = "/proc/sys/net/ipv4/ip_forward"

// forward turns forwarding on, unless whoever made the container has done it.
func forward() error {
	if now, err := os.ReadFile(forwarding); err == nil && bytes.Equal(bytes.TrimSpace(now), []byte("1")) {
		return nil
	}
	if err := os.WriteFile(forwarding, []byte("1\n"), 0o644); err != nil {
		return fmt.Errorf("turn on IPv4 forwarding (net.ipv4.ip_forward): %w", err)
	}
	return nil
}

// RouterRules are the rules in force; Open says that they are suspended.
type RouterRules struct {
	Rules []netlab.Rule `json:"rules"`
	Open  bool          `json:"open"`
}

// RouterClient speaks with the router.
type RouterClient struct{ c Client }

// NewRouterClient is a client of the router whose control socket dial reaches.
func NewRouterClient(dial func(context.Context) (net.Conn, error)) *RouterClient {
	return &RouterClient{NewClient(dial)}
}

// Counters are the packets of each rule, and of what was dropped.
func (r *RouterClient) Counters(ctx context.Context) (list []netlab.Counter, err error) {
	err = r.c.Call(ctx, http.MethodGet, "/counters", nil, &list)
	return list, err
}

// Rules are the rules in force.
func (r *RouterClient) Rules(ctx context.Context) (rules RouterRules, err error) {
	err = r.c.Call(ctx, http.MethodGet, "/rules", nil, &rules)
	return rules, err
}

// SetRules puts other rules in force.
func (r *RouterClient) SetRules(ctx context.Context, rules []netlab.Rule) error {
	return r.c.Call(ctx, http.MethodPut, "/rules", rules, nil)
}

// OpenAll lets everything through, and Restore puts the rules in force again.
func (r *RouterClient) OpenAll(ctx context.Context) error {
	return r.c.Call(ctx, http.MethodPost, "/open", nil, nil)
}

// Restore puts the rules in force again after OpenAll.
func (r *RouterClient) Restore(ctx context.Context) error {
	return r.c.Call(ctx, http.MethodPost, "/restore", nil, nil)
}
