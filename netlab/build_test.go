package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// patience is how long a test waits for what must happen, and silence how long
// for what must not.
const (
	patience = 20 * time.Second
	silence  = 300 * time.Millisecond
)

// testContext ends with the test's patience.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// serveOn answers every connection to addr in the namespace with the peer's address.
func serveOn(t testing.TB, ns *Namespace, addr string) {
	t.Helper()
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
}

// ask connects and returns what the server says.
func ask(t testing.TB, ns *Namespace, addr string) string {
	t.Helper()
	c, err := ns.DialContext(testContext(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHostsReachEachOtherWithTheirOwnAddresses(t *testing.T) {
	l := buildLab(t, testTopology(3))
	serveOn(t, l.Host("registrar"), "198.18.10.11:8890")
	serveOn(t, l.Host("node1"), "198.18.20.11:9002")
	for _, c := range []struct{ from, to, source string }{
		{"node3", "198.18.20.11:9002", "198.18.20.13"},     // the same network
		{"node2", "198.18.10.11:8890", "198.18.20.12"},     // by the router
		{"registrar", "198.18.20.11:9002", "198.18.10.11"}, // and the other way
		{"registrar", "198.18.10.11:8890", "198.18.10.11"}, // itself, by the loopback link
	} {
		if got := ask(t, l.Host(c.from), c.to); got != c.source {
			t.Errorf("%s to %s: the server saw %s, want %s", c.from, c.to, got, c.source)
		}
	}
}

func TestInspectShowsWhatWasPlanned(t *testing.T) {
	l := buildLab(t, testTopology(1))
	in, err := l.Inspect()
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Networks) != 2 || len(in.Networks[0].Ports) != 3 || len(in.Networks[1].Ports) != 3 {
		t.Errorf("want 2 networks of 3 ports each, got %+v", in.Networks)
	}
	i := slices.IndexFunc(in.Hosts, func(h HostState) bool { return h.Name == "node1" })
	if i < 0 || len(in.Hosts[i].Links) != 1 {
		t.Fatalf("want node1 with one link, got %+v", in.Hosts)
	}
	link := in.Hosts[i].Links[0]
	if link.Name != "eth0" || link.Network != "cluster" || !link.Up || link.MTU != 1400 || link.MAC != "02:4b:c6:12:14:0b" ||
		!slices.Equal(link.Addresses, []netip.Prefix{netip.MustParsePrefix("198.18.20.11/24")}) {
		t.Errorf("node1 has link %+v", link)
	}
	want := RouteState{To: services.Prefix, Via: routerAtClu, Link: "eth0"}
	if !slices.Contains(in.Hosts[i].Routes, want) {
		t.Errorf("node1 has routes %+v, want %+v among them", in.Hosts[i].Routes, want)
	}
}

func TestHostsComeAndGo(t *testing.T) {
	l := buildLab(t, testTopology(1))
	late := clusterHost("late", nodeAddr(9))
	if err := l.AddHost(testContext(t), late); err != nil {
		t.Fatal(err)
	}
	serveOn(t, l.Host("late"), "198.18.20.19:80")
	if got := ask(t, l.Host("registrar"), "198.18.20.19:80"); got != "198.18.10.11" {
		t.Errorf("the late host saw %s", got)
	}
	clash := clusterHost("clash", nodeAddr(9))
	if err := l.AddHost(testContext(t), clash); err == nil || !strings.Contains(err.Error(), `already host "late"'s`) {
		t.Errorf("a host with another's address: error %v", err)
	}
	path := l.Host("late").Path()
	if err := l.RemoveHost("late"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", path, err)
	}
	if slices.Contains(l.Hosts(), "late") || l.Host("late") != nil {
		t.Error("the removed host is still listed")
	}
	// Its name, address and MAC are free again.
	if err := l.AddHost(testContext(t), late); err != nil {
		t.Error("add the removed host again:", err)
	}
}

func TestBuildLeavesNothingBehindWhenItFails(t *testing.T) {
	dir := runDir(t)
	// node2's place is taken, which is only found out in the middle of the building.
	if err := os.WriteFile(filepath.Join(dir, "node2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Build(context.Background(), dir, testTopology(3))
	if err == nil || !strings.Contains(err.Error(), "host node2") {
		t.Fatalf("want an error that names node2, got %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != "node2" {
		t.Errorf("left behind: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("mounts are left behind in %s", dir)
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	topo := testTopology(1)
	topo.Networks = append(topo.Networks, Network{Name: "third", Prefix: netip.MustParsePrefix("198.18.0.0/16")})
	topo.Hosts = append(topo.Hosts,
		clusterHost("node1", nodeAddr(2)),
		clusterHost("twin", nodeAddr(1)),
		Host{Name: "stray", Interfaces: []Interface{{Network: "cluster", Addresses: []netip.Addr{registrarAddr}}, {Network: "none"}}},
		Host{Name: "lost", Routes: []Route{DefaultRoute(routerAtClu)}},
		Host{Name: "switch-x", Interfaces: []Interface{{Network: "cluster", Name: "a-name-of-16-byte", Addresses: []netip.Addr{nodeAddr(7)}}}},
	)
	err := topo.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		`overlaps 198.18.10.0/24 of network "services"`,
		`host "node1": named twice`,
		`address 198.18.20.11 is already host "node1"'s`,
		`address 198.18.10.11 is not in 198.18.20.0/24`,
		`no network "none"`,
		`host "lost": route to 0.0.0.0/0 by 198.18.20.2`,
		`belong to the networks' switches`,
		`want 1 to 15 characters`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestProcessesStartInTheNamespace(t *testing.T) {
	l := buildLab(t, testTopology(1))
	want, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	cmd.Stdout = &out
	if err := l.Host("node1").Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got == want || !strings.HasPrefix(got, "net:") {
		t.Errorf("the process ran in %s, the test in %s", got, want)
	}
	// And no thread of ours was left in there.
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if got, err := os.Readlink(task); err == nil && got != want {
			t.Errorf("%s is in %s, want %s", task, got, want)
		}
	}
}

func TestOpenedNamespaceOutlivesItsHandle(t *testing.T) {
	l := buildLab(t, testTopology(1))
	ns, err := Open(l.Host("node1").Path())
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ns, "198.18.20.11:80")
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return nil }); err == nil || !strings.Contains(err.Error(), ErrClosed.Error()) {
		t.Errorf("a closed namespace was entered: %v", err)
	}
	if got := ask(t, l.Host("node1"), "198.18.20.11:80"); got != "198.18.20.11" {
		t.Errorf("the server saw %s", got)
	}
	if _, err := Open("/proc/self/status"); err == nil {
		t.Error("a file that is no namespace was opened as one")
	}
}

func TestDialRefusesNames(t *testing.T) {
	l := buildLab(t, testTopology(0))
	if _, err := l.Host("registrar").DialContext(testContext(t), "tcp", "localhost:80"); err == nil {
		t.Error("a name was dialled")
	}
	if _, err := l.Host("registrar").Listen("tcp", "localhost:80"); err == nil {
		t.Error("a name was listened on")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	l := buildLab(t, testTopology(0))
	r := applyRules(t, l) // drops everything, so that the dial hangs
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := l.Host("verifier").DialContext(ctx, "tcp", "198.18.20.200:443")
		done <- err
	}()
	eventually(t, "the dial to be under way", func() bool { return packets(t, r, CounterDropped) > 0 })
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	case <-time.After(patience):
		t.Fatal("the dial did not end with its context")
	}
}

func TestHubsKnowTheirNeighbours(t *testing.T) {
	topo := testTopology(2)
	for i := range topo.Hosts {
		topo.Hosts[i].Hub = topo.Hosts[i].Name == "ingress"
	}
	l := buildLab(t, topo)
	permanent := func(host string) []string {
		t.Helper()
		entries, err := l.hosts[host].h.NeighList(0, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		var known []string
		for _, e := range entries {
			if e.State == netlink.NUD_PERMANENT {
				known = append(known, e.IP.String())
			}
		}
		slices.Sort(known)
		return known
	}
	for host, want := range map[string]string{
		"node1":     "198.18.20.2 198.18.20.200",
		"ingress":   "198.18.20.11 198.18.20.12 198.18.20.2",
		"registrar": "198.18.10.2",
	} {
		if got := strings.Join(permanent(host), " "); got != want {
			t.Errorf("%s knows %s, want %s", host, got, want)
		}
	}
	// A machine with another hardware address takes the first one's place.
	if err := l.RemoveHost("node1"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(permanent("ingress"), " "); got != "198.18.20.12 198.18.20.2" {
		t.Errorf("without node1, ingress knows %s", got)
	}
	next := clusterHost("next", nodeAddr(1))
	next.Interfaces[0].MAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if err := l.AddHost(testContext(t), next); err != nil {
		t.Fatal(err)
	}
	serveOn(t, l.Host("next"), ":9002")
	for _, from := range []string{"ingress", "node2", "verifier"} {
		ask(t, l.Host(from), "198.18.20.11:9002")
	}
}

// BenchmarkManyHostsTalkToOne has all of 400 hosts connect to one at once, which
// is more than the kernel's neighbour table would hold.
func BenchmarkManyHostsTalkToOne(b *testing.B) {
	topo := Topology{
		Networks: []Network{{Name: "wide", Prefix: netip.MustParsePrefix("198.18.0.0/16")}},
		Hosts:    []Host{{Name: "hub", Hub: true, Interfaces: []Interface{{Network: "wide", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.1")}}}}},
	}
	for i := range 400 {
		topo.Hosts = append(topo.Hosts, Host{Name: fmt.Sprintf("host%d", i),
			Interfaces: []Interface{{Network: "wide", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(1 + i/200), byte(1 + i%200)})}}}})
	}
	l := buildLab(b, topo)
	serveOn(b, l.Host("hub"), ":80")
	for b.Loop() {
		var hosts errgroup.Group
		for _, name := range l.Hosts() {
			hosts.Go(func() error {
				c, err := l.Host(name).DialContext(testContext(b), "tcp", "198.18.0.1:80")
				if err != nil {
					return err
				}
				return c.Close()
			})
		}
		if err := hosts.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBuild measures how long labs of several sizes take to build; to take
// them away is reported apart.
func BenchmarkBuild(b *testing.B) {
	for _, hosts := range []int{10, 50, 100} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			var closing time.Duration
			for b.Loop() {
				l, err := Build(context.Background(), runDir(b), testTopology(hosts))
				if err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
				closing += time.Since(start)
			}
			b.ReportMetric(float64(closing.Milliseconds())/float64(b.N), "ms-close/op")
		})
	}
}

func TestMoveAddress(t *testing.T) {
	topo := testTopology(1)
	for i := range topo.Hosts {
		topo.Hosts[i].Hub = topo.Hosts[i].Name == "ingress" // others hold fixed neighbour entries for it
	}
	l := buildLab(t, topo)
	to := netip.MustParseAddr("198.18.20.201")
	serveOn(t, l.Host("ingress"), "0.0.0.0:443")
	for _, move := range [][2]netip.Addr{{ingressAddr, to}, {to, ingressAddr}} {
		if err := l.MoveAddress("ingress", move[0], move[1]); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"node1", "registrar"} { // from its own network, and through the router, to which it must know the way
			ask(t, l.Host(from), netip.AddrPortFrom(move[1], 443).String())
			if r := ProbeTCP(testContext(t), l.Host(from), netip.AddrPortFrom(move[0], 443), silence); r.Outcome == OutcomeOpen {
				t.Errorf("%s is answered at the old address %v", from, move[0])
			}
		}
	}
	for what, err := range map[string]error{
		"no such host":                        l.MoveAddress("nobody", ingressAddr, to),
		"the host does not have that address": l.MoveAddress("ingress", to, ingressAddr),
		"network cluster is 198.18.20.0/24":   l.MoveAddress("ingress", ingressAddr, registrarAddr),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
}
