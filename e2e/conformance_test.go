package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/kind/hostlink"
	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/netlab/dnstest"
	"keylab.dev/keylab/netlab/routertest"
)

// patience is how long one operation in a container may take.
const patience = 30 * time.Second

// stdio is a running command's standard input and output.
type stdio struct {
	io.Reader
	io.WriteCloser
}

// linkTo reaches into a container for as long as the test runs.
func linkTo(t testing.TB, container string) *hostlink.Client {
	t.Helper()
	cmd := exec.Command("docker", "exec", "-i", container, "/usr/local/bin/keylab", "in-container", "link")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := hostlink.NewClient(stdio{out, in})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		_ = cmd.Wait() // its standard input is closed, which ends it, whatever the status
		if t.Failed() && said.Len() > 0 {
			t.Logf("docker exec %s: %s", container, said.String())
		}
	})
	return c
}

// controlOf leads to the control socket of one of keylab's own containers.
func controlOf(c *hostlink.Client) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return c.Dial(ctx, "unix", netroles.ControlSocket) }
}

// running is the plan of a lab that runs, with the addresses that its hosts have.
func (l *testLab) running() plan.Plan {
	l.t.Helper()
	p := l.plan()
	got := map[string]netip.Addr{}
	for _, h := range p.Hosts {
		container := h.Name
		if n, ok := p.Node(h.Name); ok {
			container = n.KubernetesName
		}
		if h.Pooled {
			got[h.Name] = netip.MustParseAddr(docker(l.t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container))
		}
	}
	return p.WithAddresses(got)
}

// dnsConforms puts the running lab's DNS servers, asked from where they are for, to the tests that those of netns pass.
func dnsConforms(l *testLab) {
	p := l.running()
	zone := netlab.Zone{Domain: p.DNS.Domain, Wildcard: p.DNS.Wildcard, Records: p.DNS.Records, Origin: p.Lab + ".test"}
	for server, from := range map[string]string{plan.DNS: "keylab-" + l.name + "-tenant", plan.ClusterDNS: p.Nodes[0].KubernetesName} {
		l.t.Run(server, func(t *testing.T) {
			dnstest.Run(t, func(t testing.TB) dnstest.Target {
				host, _ := p.Host(server)
				client, records := linkTo(t, from), netroles.NewDNSClient(controlOf(linkTo(t, "keylab-"+l.name+"-"+server)))
				return dnstest.Target{
					Zone: zone,
					Dial: func(network string) (net.Conn, error) {
						ctx, cancel := context.WithTimeout(context.Background(), patience)
						defer cancel()
						return client.Dial(ctx, network, netip.AddrPortFrom(host.Address(), 53).String())
					},
					SetRecord: func(name string, a netip.Addr) error {
						ctx, cancel := context.WithTimeout(context.Background(), patience)
						defer cancel()
						return records.SetRecord(ctx, name, a)
					},
				}
			})
		})
	}
}

// linkedHost is a host of the router's tests that is a container.
type linkedHost struct{ *hostlink.Client }

func (h linkedHost) Listen(network, address string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.Client.Listen(ctx, network, address)
}

func (h linkedHost) ListenPacket(network, address string) (net.PacketConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.Client.ListenPacket(ctx, network, address)
}

func (h linkedHost) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.Dial(ctx, network, address)
}

func (h linkedHost) Probe(ctx context.Context, protocol string, to netip.AddrPort, timeout time.Duration) netlab.ProbeResult {
	return h.Client.Probe(ctx, protocol, to, []byte("x"), timeout)
}

// routerConforms puts the running lab's router to the tests that that of netns passes, among hosts which join the lab's networks for it. So long nobody else
// sends anything across: the verifier, which asks all the time, is halted.
func routerConforms(l *testLab) {
	t, p := l.t, l.running()
	name := func(part string) string { return "keylab-" + l.name + "-" + part }
	docker(t, "pause", name(plan.Verifier))
	halted := true
	goOn := func() {
		if halted {
			halted = false
			docker(t, "unpause", name(plan.Verifier))
		}
	}
	t.Cleanup(goOn)
	place := routertest.PlaceAt(p.Network(plan.Services).Prefix, p.Network(plan.Cluster).Prefix, 240)
	tools := docker(t, "inspect", "--format", "{{.Config.Image}}", name(plan.Router))
	hosts := map[string]routertest.Host{}
	for host, a := range place.Addresses() {
		network := plan.Services
		if place.Cluster.Contains(a) {
			network = plan.Cluster
		}
		docker(t, "run", "--detach", "--name", name("test-"+host), "--label", "keylab.lab="+l.name, "--network", name(network), "--ip", a.String(),
			"--volume", program+":/usr/local/bin/keylab:ro", "--init", "--entrypoint", "sleep", tools, "infinity")
		t.Cleanup(func() { docker(t, "rm", "--force", name("test-"+host)) })
		hosts[host] = linkedHost{linkTo(t, name("test-"+host))}
	}
	var c *netroles.RouterClient
	reach := func() {
		link := linkTo(t, name(plan.Router))
		hosts[routertest.Router], c = linkedHost{link}, netroles.NewRouterClient(controlOf(link))
	}
	reach()
	do := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return f(ctx)
	}
	set := func(rules []netlab.Rule) error {
		return do(func(ctx context.Context) error { return c.SetRules(ctx, rules) })
	}
	var before []netlab.Rule
	if err := do(func(ctx context.Context) error {
		r, err := c.Rules(ctx)
		before = r.Rules
		return err
	}); err != nil {
		t.Fatal(err)
	}
	routertest.Run(t, func(t testing.TB) routertest.Target {
		if err := set(place.Rules()); err != nil {
			t.Fatal(err)
		}
		return routertest.Target{
			Place: place,
			Host:  func(name string) routertest.Host { return hosts[name] },
			Counters: func() (list []netlab.Counter, err error) {
				err = do(func(ctx context.Context) error { list, err = c.Counters(ctx); return err })
				return list, err
			},
			Rules: func() (rules []netlab.Rule, open bool, err error) {
				err = do(func(ctx context.Context) error {
					r, err := c.Rules(ctx)
					rules, open = r.Rules, r.Open
					return err
				})
				return rules, open, err
			},
			SetRules: set,
			OpenAll:  func() error { return do(func(ctx context.Context) error { return c.OpenAll(ctx) }) },
			Restore:  func() error { return do(func(ctx context.Context) error { return c.Restore(ctx) }) },
			Stop: func() error {
				docker(l.t, "stop", name(plan.Router))
				return nil
			},
			Start: func() error {
				docker(l.t, "start", name(plan.Router))
				await(l.t, "the router to run", func() string {
					if _, err := l.try("net", l.name); err != nil {
						return err.Error()
					}
					return ""
				})
				reach()
				return set(place.Rules())
			},
		}
	})
	if err := set(before); err != nil {
		t.Fatal(err)
	}
	goOn()
	for _, n := range p.Nodes {
		if s := l.node(n.Name).State; strings.HasPrefix(s, "failed") { // no answer for longer than the verifier's retries
			l.run("node", "reactivate", "--lab", l.name, n.Name)
		}
	}
	l.passes()
}
