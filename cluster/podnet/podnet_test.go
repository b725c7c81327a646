package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// The tests' cluster: this node, and its peers on the same network.
var (
	allPods  = netip.MustParsePrefix("198.19.0.0/16")
	services = netip.MustParsePrefix("198.18.96.0/20")
	ownPod   = netip.MustParseAddr("198.19.0.5")
	ownNode  = netip.MustParseAddr("198.18.20.10")
	peerNode = netip.MustParseAddr("198.18.20.11")
	peerPod  = netip.MustParseAddr("198.19.1.5")
	outside  = netip.MustParseAddr("198.18.10.11") // no pod, and beyond the peer
)

const (
	ownName = "keylab-test-worker"
	testMTU = 1400
)

// peer is the i-th node besides this one: 198.18.20.(10+i), pods 198.19.i.0/24.
func peer(i int) *corev1.Node {
	return node(fmt.Sprintf("keylab-test-worker%d", i+1), fmt.Sprintf("198.19.%d.0/24", i), fmt.Sprintf("198.18.20.%d", 10+i))
}

func node(name, pods, address string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: pods},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address}}},
	}
}

// cable makes this node's eth0, with a peer's namespace at its other end, and takes both away at the end of the test.
func cable(t *testing.T) netns.NsHandle {
	t.Helper()
	var far netns.NsHandle
	inThread(t, func() (err error) {
		far, err = netns.New()
		return err
	})
	t.Cleanup(func() { far.Close() })
	eth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: testMTU}, PeerName: "eth0", PeerNamespace: netlink.NsFd(far), PeerMTU: testMTU}
	must(t, netlink.LinkAdd(eth))
	t.Cleanup(func() {
		if link, err := netlink.LinkByName("eth0"); err == nil {
			netlink.LinkDel(link)
		}
	})
	must(t, configureHere([]string{ownNode.String() + "/24"}, []string{ownPod.String() + "/32"}, netip.MustParsePrefix("0.0.0.0/0"), peerNode))
	t.Cleanup(func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ownPod, 32))})
		}
		if err != nil {
			t.Error("take the pod's address away:", err)
		}
	})
	inThread(t, func() error {
		if err := netns.Set(far); err != nil {
			return err
		}
		// The peer's way back to this node's pods; the peer's own pods and the host beyond are on its loopback.
		return configureHere([]string{peerNode.String() + "/24"}, []string{peerPod.String() + "/32", outside.String() + "/32"}, netip.MustParsePrefix("198.19.0.0/24"), ownNode)
	})
	return far
}

func configureHere(eth, lo []string, to netip.Prefix, via netip.Addr) error {
	for name, addresses := range map[string][]string{"lo": lo, "eth0": eth} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})
}

// inThread runs f on a thread of its own, which ends with it: f may change namespaces.
func inThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	must(t, <-done)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs the package for this node; stop ends it and waits for that.
func start(t *testing.T, client *fake.Clientset) (dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, Config{Node: ownName, PodCIDR: allPods, ServiceCIDR: services, CNIDir: dir}, client)
	}()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return dir, stop
}

// await waits until a condition holds, and names it if it never does.
func await(t *testing.T, what string, holds func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// routed tells by way of which address a range is reached; the zero Addr: there is no such route.
func routed(t *testing.T, to string) netip.Addr {
	t.Helper()
	list, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: ipNet(netip.MustParsePrefix(to))}, netlink.RT_FILTER_DST)
	must(t, err)
	for _, r := range list {
		via, _ := netip.AddrFromSlice(r.Gw)
		return via.Unmap()
	}
	return netip.Addr{}
}

func wantRoute(t *testing.T, to string, via netip.Addr) {
	t.Helper()
	await(t, fmt.Sprintf("the route to %s", to), func() error {
		if got := routed(t, to); got != via {
			return fmt.Errorf("it goes by way of %v; want %v", got, via)
		}
		return nil
	})
}

// A peer's pods are reached by way of the peer, wherever it is, until it goes; nobody else's routes are touched.
func TestRoutesFollowNodes(t *testing.T) {
	cable(t)
	other := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("198.19.77.0/24")), Gw: peerNode.AsSlice()}
	must(t, netlink.RouteAdd(other))
	late := peer(3)
	late.Spec.PodCIDR = "" // the controller manager has not come to it yet
	client := fake.NewClientset(node(ownName, "198.19.0.0/24", ownNode.String()), peer(1), peer(2), late)
	start(t, client)

	wantRoute(t, "198.19.1.0/24", netip.MustParseAddr("198.18.20.11"))
	wantRoute(t, "198.19.2.0/24", netip.MustParseAddr("198.18.20.12"))
	if got := routed(t, "198.19.0.0/24"); got.IsValid() {
		t.Errorf("this node's own pods have a route by way of %v; want none: ptp makes one for each pod", got)
	}

	nodes, ctx := client.CoreV1().Nodes(), context.Background()
	_, err := nodes.Update(ctx, peer(3), metav1.UpdateOptions{})
	must(t, err)
	wantRoute(t, "198.19.3.0/24", netip.MustParseAddr("198.18.20.13"))
	moved := peer(2)
	moved.Status.Addresses[1].Address = "198.18.20.99" // as when Docker gives a restarted node another address
	_, err = nodes.UpdateStatus(ctx, moved, metav1.UpdateOptions{})
	must(t, err)
	wantRoute(t, "198.19.2.0/24", netip.MustParseAddr("198.18.20.99"))
	must(t, nodes.Delete(ctx, peer(1).Name, metav1.DeleteOptions{}))
	wantRoute(t, "198.19.1.0/24", netip.Addr{})

	wantRoute(t, "198.19.77.0/24", peerNode)
}

// Routes and rules outlast the daemon, and its next start takes none away that is still right, not even for a moment.
func TestRestartCutsNothing(t *testing.T) {
	cable(t)
	client := fake.NewClientset(node(ownName, "198.19.0.0/24", ownNode.String()))
	const peers = 60
	for i := 1; i <= peers; i++ {
		must(t, client.Tracker().Add(peer(i)))
	}
	_, stop := start(t, client)
	all := func() {
		t.Helper()
		for i := 1; i <= peers; i++ {
			wantRoute(t, fmt.Sprintf("198.19.%d.0/24", i), netip.MustParseAddr(fmt.Sprintf("198.18.20.%d", 10+i)))
		}
	}
	all()
	stop()
	all()
	if n := rules(t); n != 1 {
		t.Errorf("%d masquerading rules after the end; want 1", n)
	}

	// A node that went while nobody looked loses its route; its removal also tells that the next start has done its work.
	must(t, client.CoreV1().Nodes().Delete(context.Background(), peer(peers).Name, metav1.DeleteOptions{}))
	updates, done := make(chan netlink.RouteUpdate, 10*peers), make(chan struct{})
	defer close(done)
	must(t, netlink.RouteSubscribe(updates, done))
	_, stop = start(t, client)
	wantRoute(t, fmt.Sprintf("198.19.%d.0/24", peers), netip.Addr{})
	// Further nodes are looked at after the first: what comes of this one follows whatever the start did.
	_, err := client.CoreV1().Nodes().Create(context.Background(), peer(peers+1), metav1.CreateOptions{})
	must(t, err)
	wantRoute(t, fmt.Sprintf("198.19.%d.0/24", peers+1), netip.MustParseAddr(fmt.Sprintf("198.18.20.%d", 11+peers)))
	stop()
	gone := ipNet(netip.MustParsePrefix(fmt.Sprintf("198.19.%d.0/24", peers))).String()
	last := ipNet(netip.MustParsePrefix(fmt.Sprintf("198.19.%d.0/24", peers+1))).String()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case u := <-updates:
			if u.Type == unix.RTM_DELROUTE && u.Protocol == routeProtocol && u.Dst.String() != gone {
				t.Fatalf("the restart removed the route to %s, whose node is there", u.Dst)
			}
			if u.Type == unix.RTM_NEWROUTE && u.Dst != nil && u.Dst.String() == last {
				if n := rules(t); n != 1 {
					t.Errorf("%d masquerading rules after a restart; want 1", n)
				}
				return
			}
		case <-timeout:
			t.Fatal("waited for the kernel to tell of the last route")
		}
	}
}

// rules counts the rules in this package's table.
func rules(t *testing.T) int {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	table := &nftables.Table{Name: "keylab-podnet", Family: nftables.TableFamilyIPv4}
	list, err := c.GetRules(table, &nftables.Chain{Name: "postrouting", Table: table})
	must(t, err)
	return len(list)
}

// Pods see one another's own addresses; the world outside of the cluster sees the node's.
func TestMasquerade(t *testing.T) {
	far := cable(t)
	client := fake.NewClientset(node(ownName, "198.19.0.0/24", ownNode.String()), peer(1))
	start(t, client)
	wantRoute(t, "198.19.1.0/24", peerNode)

	for _, c := range []struct {
		what               string
		from, to, seenFrom netip.Addr
	}{
		{"pod to pod of another node", ownPod, peerPod, ownPod},
		{"pod to a host outside", ownPod, outside, ownNode},
		{"pod to another node", ownPod, peerNode, ownNode},
		{"node to a pod of another node", ownNode, peerPod, ownNode},
	} {
		got, err := seen(t, far, c.from, c.to)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		} else if got != c.seenFrom {
			t.Errorf("%s: seen as %s; want %s", c.what, got, c.seenFrom)
		}
	}
}

// What asks a service is refused at once while kube-proxy has no rules yet, so that it asks again, and is let through as soon as it has.
func TestServicesBeforeKubeProxy(t *testing.T) {
	far := cable(t)
	client := fake.NewClientset(node(ownName, "198.19.0.0/24", ownNode.String()), peer(1))
	start(t, client)
	wantRoute(t, "198.19.1.0/24", peerNode)
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	service := netip.MustParseAddrPort("198.18.96.1:443")
	dial := func() error {
		c, err := net.DialTimeout("tcp4", service.String(), 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("from this node: %v; want it refused", err)
	}
	var forwarded error
	inThread(t, func() error {
		if err := netns.Set(far); err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(services), Gw: ownNode.AsSlice()}); err != nil {
			return err
		}
		forwarded = dial()
		return nil
	})
	if !errors.Is(forwarded, unix.ECONNREFUSED) {
		t.Errorf("by way of this node: %v; want it refused", forwarded)
	}

	inThread(t, func() error {
		if err := netns.Set(far); err != nil {
			return err
		}
		l, err := net.Listen("tcp4", netip.AddrPortFrom(outside, service.Port()).String())
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	c, err := nftables.New()
	must(t, err)
	table := c.AddTable(&nftables.Table{Name: "as-kube-proxy", Family: nftables.TableFamilyIPv4})
	t.Cleanup(func() {
		c.DelTable(table)
		must(t, c.Flush())
	})
	chain := c.AddChain(&nftables.Chain{Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	rule := append(address(16, netip.PrefixFrom(service.Addr(), 32), expr.CmpOpEq), &expr.Immediate{Register: 1, Data: outside.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	must(t, c.Flush())
	if err := dial(); err != nil {
		t.Errorf("with kube-proxy's rules: %v", err)
	}
}

// seen is the address that a host in another namespace sees a connection come from.
func seen(t *testing.T, far netns.NsHandle, from, to netip.Addr) (netip.Addr, error) {
	t.Helper()
	var l net.Listener
	inThread(t, func() (err error) {
		if err = netns.Set(far); err == nil {
			l, err = net.Listen("tcp4", netip.AddrPortFrom(to, 0).String())
		}
		return err
	})
	defer l.Close()
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	out, err := d.Dial("tcp4", l.Addr().String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		return netip.Addr{}, err
	}
	defer in.Close()
	a, ok := in.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, errors.New("no TCP address")
	}
	return a.AddrPort().Addr().Unmap(), nil
}

// The CNI configuration has the node's own range and its link's MTU, and comes only once the range is known: with it the node becomes ready.
func TestCNIConfiguration(t *testing.T) {
	cable(t)
	client := fake.NewClientset(node(ownName, "", ownNode.String()), peer(1))
	dir, _ := start(t, client)
	wantRoute(t, "198.19.1.0/24", peerNode) // a sync has been
	path := filepath.Join(dir, cniFile)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before the node has a range: %v; want no configuration", err)
	}
	_, err := client.CoreV1().Nodes().Update(context.Background(), node(ownName, "198.19.0.0/24", ownNode.String()), metav1.UpdateOptions{})
	must(t, err)
	var data []byte
	await(t, path, func() (err error) { data, err = os.ReadFile(path); return err })
	var config struct {
		Plugins []struct {
			Type string
			MTU  int
			IPAM struct {
				Type   string
				Ranges [][]struct{ Subnet string }
			}
		}
	}
	must(t, json.Unmarshal(data, &config))
	if len(config.Plugins) != 2 || config.Plugins[0].Type != "ptp" || config.Plugins[1].Type != "portmap" {
		t.Fatalf("plugins %+v; want ptp and portmap", config.Plugins)
	}
	p := config.Plugins[0]
	if p.MTU != testMTU || p.IPAM.Type != "host-local" || len(p.IPAM.Ranges) != 1 || p.IPAM.Ranges[0][0].Subnet != "198.19.0.0/24" {
		t.Errorf("ptp is %+v; want MTU %d and addresses by host-local out of 198.19.0.0/24", p, testMTU)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if len(entries) != 1 || info.Mode().Perm() != 0o644 {
		t.Errorf("%d files, mode %v; want one, readable by the container runtime", len(entries), info.Mode())
	}
}

// What is wrong with one node is told, and the others get their routes all the same.
func TestOneBadNode(t *testing.T) {
	cable(t)
	bad, blind := peer(2), peer(3)
	bad.Spec.PodCIDR = "nonsense"
	blind.Status.Addresses = nil
	s := &state{config: Config{Node: ownName, PodCIDR: allPods, CNIDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	err := s.sync([]*corev1.Node{node(ownName, "198.19.0.0/24", ownNode.String()), bad, blind, peer(1)})
	for _, name := range []string{bad.Name, blind.Name} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the error %v does not name %s", err, name)
		}
	}
	wantRoute(t, "198.19.1.0/24", peerNode)
}
