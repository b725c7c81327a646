package plan_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/steps"
)

var update = flag.Bool("update", false, "write the golden files anew")

// examples are the specifications that users start from.
const examples = "../../examples"

func TestGolden(t *testing.T) {
	t.Run("default", func(t *testing.T) { golden(t, "default", mustMake(t, spec.Default())) })
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, mustMake(t, decode(t, string(data))))
		})
	}
}

// golden compares a plan with the one on file: any change to what a specification gives is seen in a diff.
func golden(t *testing.T, name string, p plan.Plan) {
	t.Helper()
	got, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test ./lab/plan -update writes it)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("the plan differs from %s (-file +now; -update writes it anew):\n%s", file, d)
	}
}

// A plan is handed to the supervisor as JSON: nothing may be lost on the way.
func TestJSONRoundTrip(t *testing.T) {
	p := mustMake(t, decode(t, head+`
nodes:
  - {name: a, ek: {notAfter: 2020-12-31}}
  - {name: b, tpm: {seed: s}, ek: {issuer: stranger}}
keylime: {options: {verifier: {max_retries: "3"}}}
`))
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back plan.Plan
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, back, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("-made +read back:\n%s", d)
	}
}

func TestDeterministic(t *testing.T) {
	s := spec.Default()
	s.TPM.Seed = "x"
	if d := cmp.Diff(fmt.Sprint(mustMake(t, s)), fmt.Sprint(mustMake(t, s))); d != "" {
		t.Errorf("two plans of one specification:\n%s", d)
	}
}

// Every lab, however large or small, has one address for each host, all in their networks, and one MAC for each link.
func TestAddresses(t *testing.T) {
	tests := map[string]struct {
		spec        string
		last        string // address of the last node
		ingress     string
		clusterCIDR string
	}{
		"one node":        {"nodes: 1", "198.18.20.11", "198.18.20.200", "198.18.20.0/24"},
		"up to dns":       {"nodes: 42", "198.18.20.52", "198.18.20.200", "198.18.20.0/24"},
		"over dns":        {"nodes: 43", "198.18.20.54", "198.18.20.200", "198.18.20.0/24"},
		"up to ingress":   {"nodes: 188", "198.18.20.199", "198.18.20.200", "198.18.20.0/24"},
		"over ingress":    {"nodes: 189", "198.18.20.201", "198.18.20.200", "198.18.20.0/24"},
		"full /24":        {"nodes: 242", "198.18.20.254", "198.18.20.200", "198.18.20.0/24"},
		"larger network":  {"nodes: 243", "198.18.20.255", "198.18.20.200", "198.18.20.0/22"},
		"most":            {"nodes: 500", "198.18.22.0", "198.18.20.200", "198.18.20.0/22"},
		"smallest":        {"nodes: 50\nnetworks: {services: {cidr: 198.18.0.0/26}, cluster: {cidr: 198.18.0.64/26}}", "198.18.0.125", "198.18.0.126", "198.18.0.64/26"},
		"ingress in path": {"nodes: 3\nnetworks: {cluster: {loadBalancer: 198.18.20.12}}", "198.18.20.14", "198.18.20.12", "198.18.20.0/24"},
		"host bits":       {"nodes: 1\nnetworks: {cluster: {cidr: 198.19.4.0/23}}", "198.19.4.11", "198.19.4.200", "198.19.4.0/23"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustMake(t, decode(t, head+test.spec+"\n"))
			if got := p.Nodes[len(p.Nodes)-1].Address.String(); got != test.last {
				t.Errorf("the last node has %s, want %s", got, test.last)
			}
			if got := p.Keylime.Ingress.Addr().String(); got != test.ingress {
				t.Errorf("the ingress has %s, want %s", got, test.ingress)
			}
			if got := p.Network(plan.Cluster).Prefix.String(); got != test.clusterCIDR {
				t.Errorf("the cluster network is %s, want %s", got, test.clusterCIDR)
			}
			checkAddresses(t, p)
		})
	}
}

func checkAddresses(t *testing.T, p plan.Plan) {
	t.Helper()
	names, addresses, macs := map[string]bool{}, map[netip.Addr]string{}, map[string]string{}
	for _, h := range p.Hosts {
		if names[h.Name] {
			t.Errorf("two hosts are named %s", h.Name)
		}
		names[h.Name] = true
		for _, i := range h.Interfaces {
			prefix := p.Network(i.Network).Prefix
			// The first address is the network's own, and the last one, after which none is in it, is for broadcasts.
			if !prefix.Contains(i.Address) || i.Address == prefix.Addr() || !prefix.Contains(i.Address.Next()) {
				t.Errorf("%s has %s, which is no host address of %s", h.Name, i.Address, prefix)
			}
			if other, taken := addresses[i.Address]; taken {
				t.Errorf("%s and %s both have %s", other, h.Name, i.Address)
			}
			addresses[i.Address] = h.Name
			mac, err := net.ParseMAC(i.MAC)
			if err != nil || mac[0]&3 != 2 {
				t.Errorf("MAC %s of %s is not a locally administered unicast one (%v)", i.MAC, h.Name, err)
			}
			if other, taken := macs[i.MAC]; taken {
				t.Errorf("%s and %s both have MAC %s", other, h.Name, i.MAC)
			}
			macs[i.MAC] = h.Name
		}
		for _, r := range h.Routes {
			if addresses[r.Via] != plan.Router {
				t.Errorf("%s routes to %s by way of %s, which is not the router", h.Name, r.To, r.Via)
			}
		}
		if h.Forward != (h.Name == plan.Router) || (len(h.Interfaces) == 2) != (h.Name == plan.Router) {
			t.Errorf("%s: forwards %v, %d links; only the router does and has two", h.Name, h.Forward, len(h.Interfaces))
		}
	}
	if want := len(p.Nodes) + 7; len(p.Hosts) != want {
		t.Errorf("%d hosts, want %d", len(p.Hosts), want)
	}
}

func TestNoAddressLeft(t *testing.T) {
	s := decode(t, head+"nodes: 50\nnetworks: {services: {cidr: 198.18.0.0/26}, cluster: {cidr: 198.18.0.64/26}}\n")
	s.Nodes.Count = 51 // Validate would have said no
	_, err := plan.Make(s)
	if err == nil || !strings.Contains(err.Error(), `networks.cluster.cidr: 198.18.0.64/26 has no address left for node "node-51"`) {
		t.Errorf("51 nodes in 50 addresses: %v", err)
	}
}

// The router lets through what the design names, and what the user adds, and nothing else.
func TestRules(t *testing.T) {
	p := mustMake(t, decode(t, head+`
nodes: 2
networks:
  allow:
    - {name: ssh, from: tenant, to: node-1, port: 22}
    - {from: services, to: cluster, protocol: icmp}
`))
	at := func(host string) netip.Addr {
		h, ok := p.Host(host)
		if !ok {
			t.Fatalf("no host %s", host)
		}
		return h.Address()
	}
	tests := []struct {
		from, to, protocol string
		port               uint16
		rule               string // empty: none
	}{
		{"node-1", "registrar", "tcp", 8890, "cluster-to-registrar"},
		{"ingress", "registrar", "tcp", 8890, "cluster-to-registrar"},
		{"node-2", "registrar", "tcp", 8891, "cluster-to-registrar-tls"},
		{"node-1", "registrar", "udp", 8890, ""},
		{"node-1", "verifier", "tcp", 8881, ""},
		{"node-1", "tenant", "tcp", 8890, ""},
		{"verifier", "ingress", "tcp", 443, "services-to-ingress"},
		{"tenant", "ingress", "tcp", 443, "services-to-ingress"},
		{"verifier", "ingress", "tcp", 80, ""},
		{"verifier", "node-1", "tcp", 9002, ""},
		{"verifier", "node-1", "tcp", 443, ""},
		{"tenant", "node-1", "tcp", 22, "ssh"},
		{"tenant", "node-2", "tcp", 22, ""},
		{"verifier", "node-1", "tcp", 22, ""},
		{"verifier", "node-2", "icmp", 0, "allow-2"},
		{"node-2", "verifier", "icmp", 0, ""},
	}
	for _, test := range tests {
		rule, ok := p.RuleFor(at(test.from), netip.AddrPortFrom(at(test.to), test.port), test.protocol)
		if rule.Name != test.rule || ok != (test.rule != "") {
			t.Errorf("%s → %s:%d/%s: rule %q, want %q", test.from, test.to, test.port, test.protocol, rule.Name, test.rule)
		}
	}
}

func TestRuleForUnknownHost(t *testing.T) {
	s := spec.Default()
	s.Networks.Allow = []spec.Flow{{From: "services", To: "nobody", Protocol: "tcp", Port: 1}}
	if _, err := plan.Make(s); err == nil || !strings.Contains(err.Error(), `networks.allow[0].to: the lab has no host "nobody"`) {
		t.Errorf("a flow to a host that is not there: %v", err)
	}
}

// Every step can begin once those before it in the list are done, and every node has all of its own.
func TestSteps(t *testing.T) {
	p := mustMake(t, decode(t, head+"nodes: 3\n"))
	var list []steps.Step
	seen := map[string]bool{}
	for _, s := range p.Steps {
		for _, a := range s.After {
			if !seen[a] {
				t.Errorf("%s comes after %s, which is not before it in the list", s.Name, a)
			}
		}
		if s.About == "" {
			t.Errorf("%s says nothing about itself", s.Name)
		}
		seen[s.Name] = true
		list = append(list, steps.Step{Name: s.Name, After: s.After, Do: func(context.Context) error { return nil }})
	}
	if err := steps.Check(list); err != nil {
		t.Error(err)
	}
	for _, n := range p.Nodes {
		for _, s := range []string{plan.StepTPM, plan.StepAgent, plan.StepEnrol, plan.StepAttest} {
			if !seen[plan.NodeStep(s, n.Name)] {
				t.Errorf("%s has no step %s", n.Name, s)
			}
		}
	}
}

func TestSeeds(t *testing.T) {
	seeds := func(text string) []string {
		var all []string
		for _, n := range mustMake(t, decode(t, head+text)).Nodes {
			all = append(all, n.TPM.Seed)
		}
		return all
	}
	none, first := seeds("nodes: 2\n"), seeds("nodes: 2\ntpm: {seed: s}\n")
	if none[0] != "" || none[1] != "" {
		t.Errorf("seeds out of nothing: %q", none)
	}
	if first[0] == first[1] || len(first[0]) != 64 {
		t.Errorf("two nodes with one seed, or not 32 bytes: %q", first)
	}
	if more := seeds("nodes: 3\ntpm: {seed: s}\n"); !slices.Equal(more[:2], first) {
		t.Errorf("one more node changed the others' seeds")
	}
	if other := seeds("nodes: 2\ntpm: {seed: t}\n"); other[0] == first[0] {
		t.Errorf("another seed, the same TPM")
	}
	// The same name with the same seed is the same TPM in another lab too.
	if renamed := seeds("name: other\nnodes: 2\ntpm: {seed: s}\n"); !slices.Equal(renamed, first) {
		t.Errorf("another lab's name changed the seeds")
	}
}

func TestContactHostname(t *testing.T) {
	tests := map[string]string{
		strings.Repeat("ab", 32):               strings.Repeat("ab", 16) + "." + strings.Repeat("ab", 16) + ".agents.x.test",
		"5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10": "5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10.agents.x.test",
	}
	for uuid, want := range tests {
		if got := plan.ContactHostname(uuid, "agents.x.test"); got != want {
			t.Errorf("%s: %s, want %s", uuid, got, want)
		}
	}
}

// Computed by `openssl pkey -pubin -pubout | sha256sum` of an RFC 8410 example key.
func TestHashEK(t *testing.T) {
	spki := []byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00\x19\xbf\x44\x09\x69\x84\xcd\xfe\x85\x41\xba\xc1\x67\xdc\x3b\x96\xc8\x50\x86\xaa\x30\xb6\xb6\xcb\x0c\x5c\x38\xad\x70\x31\x66\xe1")
	if got, want := plan.HashEK(spki), "f7a7c27ec5c95e97c8f2c4bc8483dad6b086101d7ce86272e09521ca25b32ead"; got != want {
		t.Errorf("hash_ek %s, want %s", got, want)
	}
}

const head = "apiVersion: keylab/v1alpha1\nkind: Lab\n"

func decode(t *testing.T, text string) spec.Spec {
	t.Helper()
	s, err := spec.Decode("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustMake(t *testing.T, s spec.Spec) plan.Plan {
	t.Helper()
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
