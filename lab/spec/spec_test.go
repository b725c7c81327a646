package spec_test

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"keylab.dev/keylab/lab/spec"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"2s": 2 * time.Second, "1h30m": 90 * time.Minute, "365d": 365 * 24 * time.Hour, "10y": 3650 * 24 * time.Hour, "1y30d12h": (365+30)*24*time.Hour + 12*time.Hour,
		"0s": 0, "100ms": 100 * time.Millisecond, "1.5s": 1500 * time.Millisecond, "292y": 292 * 365 * 24 * time.Hour,
	} {
		d, err := spec.ParseDuration(text)
		if err != nil || d.Std() != want {
			t.Errorf("%s is %v, %v; want %v", text, d.Std(), err, want)
		}
		if again, err := spec.ParseDuration(d.String()); err != nil || again != d {
			t.Errorf("%s is written as %s, which is %v, %v", text, d, again, err)
		}
	}
	for d, want := range map[time.Duration]string{24 * time.Hour: "1d", 2 * time.Minute: "2m", 3650 * 24 * time.Hour: "10y", 90 * time.Minute: "1h30m", 0: "0s", math.MaxInt64: "292y171d23h47m16.854775807s"} {
		if got := spec.Duration(d).String(); got != want {
			t.Errorf("%v is written as %s, want %s", d, got, want)
		}
	}
	for _, text := range []string{"", "10", "-2s", "ten", "1d1y", "2 s", "293y", "292y365d", "99999999999999999999y", "99999999999999999999s", "10Y", "y", "1.5d"} {
		if d, err := spec.ParseDuration(text); err == nil {
			t.Errorf("%q is accepted as %v", text, d)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	f.Add("1y30d12h4.5s")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := spec.ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := spec.ParseDuration(d.String()); d < 0 || err != nil || again != d {
			t.Fatalf("%q is %d, written as %s, which is %d, %v", text, d, d, again, err)
		}
	})
}

func TestTPMFactsForTheEKCertificate(t *testing.T) {
	for maker, want := range map[string]string{"IBM": "id:49424D00", "IBM ": "id:49424D20", "KLAB": "id:4B4C4142", "id:49424d00": "id:49424D00", "": "", "TOOLONG": ""} {
		if got := (spec.TPM{Manufacturer: maker}).ManufacturerID(); got != want {
			t.Errorf("manufacturer %q is %q, want %q", maker, got, want)
		}
	}
	for version, want := range map[string]string{"7.2": "id:00070002", "1.38": "id:00010026", "65535.0": "id:FFFF0000", "id:0002000a": "id:0002000A", "65536.0": "", "x": ""} {
		if got := (spec.TPM{FirmwareVersion: version}).FirmwareVersionID(); got != want {
			t.Errorf("firmware version %q is %q, want %q", version, got, want)
		}
	}
}

func TestDefaultsThatFollowFromOthers(t *testing.T) {
	s := spec.Spec{Name: "big", Nodes: spec.Nodes{Count: 243}}
	s.EKCA.Validity = spec.Duration(spec.Year)
	s.SetDefaults()
	if got := s.Networks.Cluster.CIDR.String(); got != "198.18.20.0/22" {
		t.Errorf("cluster network of 243 nodes: %s", got)
	}
	if s.Networks.Domain != "agents.big.test" {
		t.Errorf("domain: %s", s.Networks.Domain)
	}
	if s.EKCA.EKValidity != s.EKCA.Validity {
		t.Errorf("EK certificates are valid for %s under a CA of %s", s.EKCA.EKValidity, s.EKCA.Validity)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}

	small := spec.Spec{}
	small.Networks.Cluster.CIDR = netip.MustParsePrefix("198.18.30.64/26")
	small.SetDefaults()
	if got := small.Networks.Cluster.LoadBalancer.String(); got != "198.18.30.126" {
		t.Errorf("load balancer in a /26: %s", got)
	}
	if err := small.Validate(); err != nil {
		t.Error(err)
	}

	// No default is put over what is given, false and 0 included.
	no, none := false, 0
	given := spec.Spec{Keylime: spec.Keylime{RequireEKCert: &no}, EKCA: spec.EKCA{Intermediates: &none}}
	given.SetDefaults()
	if *given.Keylime.RequireEKCert || *given.EKCA.Intermediates != 0 {
		t.Error("SetDefaults overwrote false or 0")
	}
}

// The count is checked against one made by listing the addresses.
func TestCapacity(t *testing.T) {
	for _, c := range []struct{ cidr, lb string }{
		{"198.18.20.0/24", "198.18.20.200"}, {"198.18.20.0/24", "198.18.20.5"}, {"198.18.20.0/22", "198.18.20.200"}, {"198.18.30.64/26", "198.18.30.126"}, {"198.18.30.0/25", "198.18.30.53"},
	} {
		net := spec.ClusterNetwork{CIDR: netip.MustParsePrefix(c.cidr), LoadBalancer: netip.MustParseAddr(c.lb)}
		count, number := 0, 0
		for a := net.CIDR.Addr(); net.CIDR.Contains(a.Next()); a = a.Next() {
			if number >= 11 && number != 53 && a != net.LoadBalancer {
				count++
			}
			number++
		}
		if got := net.Capacity(); got != count {
			t.Errorf("%s with %s: room for %d, want %d", c.cidr, c.lb, got, count)
		}
	}
	if n := (spec.ClusterNetwork{}).Capacity(); n != 0 {
		t.Errorf("no network has room for %d", n)
	}
}

func TestEffectiveNodesInherit(t *testing.T) {
	s := spec.Spec{
		TPM:   spec.TPM{Seed: "s", Model: "m"},
		Agent: spec.Agent{Kind: spec.AgentBinary, Path: "agent"},
		Nodes: spec.Nodes{List: []spec.Node{{}, {Name: "own", TPM: spec.NodeTPM{Seed: "mine"}, Agent: spec.NodeAgent{Kind: spec.AgentGo}}}},
	}
	n := s.EffectiveNodes()
	if n[0].Name != "node-1" || n[0].TPM.Seed != "s/node-1" || n[0].TPM.Model != "m" || n[0].Agent.Path != "agent" || n[0].EK.Certificate != spec.CertificatePresent {
		t.Errorf("first node: %+v", n[0])
	}
	if n[1].TPM.Seed != "mine" || n[1].Agent.Kind != spec.AgentGo || n[1].Agent.Path != "" || n[1].Agent.Port != 9002 {
		t.Errorf("second node: %+v", n[1])
	}
	if s.Nodes.List[0].Name != "" {
		t.Error("EffectiveNodes changed the lab it was given")
	}
	if got := (spec.Spec{}).EffectiveNodes(); len(got) != spec.DefaultNodes || got[2].Name != "node-3" || got[2].TPM.Seed != "" {
		t.Errorf("nodes of the default lab: %+v", got)
	}
}

func TestValidateALabMadeInGo(t *testing.T) {
	if err := (spec.Spec{}).Validate(); err != nil {
		t.Errorf("an empty lab is the default one: %v", err)
	}
	bad := -1
	s := spec.Spec{Name: "A b", Nodes: spec.Nodes{List: []spec.Node{{Name: "x"}, {Name: "x"}}}, EKCA: spec.EKCA{Intermediates: &bad}}
	err := s.Validate()
	var invalid *spec.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("error: %v", err)
	}
	for _, want := range []string{"name: \"A b\" is not a DNS label", "nodes[1].name: \"x\" is the name of nodes[0] too", "ekCA.intermediates: -1 is too small; allowed is 0 to 4"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	if len(invalid.Problems) != 3 || invalid.Problems[0].Line != 0 {
		t.Errorf("problems: %+v", invalid.Problems)
	}
	for _, n := range []int{-1, spec.MaxNodes + 1} {
		if err := (spec.Spec{Nodes: spec.Nodes{Count: n}}).Validate(); err == nil {
			t.Errorf("%d nodes are accepted", n)
		}
	}
	if err := (spec.Spec{Nodes: spec.Nodes{List: []spec.Node{}}}).Validate(); err == nil {
		t.Error("an empty list of nodes is accepted")
	}
}

func TestMarshalKeepsTheShapeOfTheNodes(t *testing.T) {
	for body, want := range map[string]string{"nodes: 7": "\nnodes: 7\n", "nodes: [{name: a}]": "\nnodes:\n  - name: a\n"} {
		s, err := spec.Decode("lab.yaml", []byte(head+body))
		if err != nil {
			t.Fatal(err)
		}
		out, err := spec.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}

// A lab can be part of another document.
func TestSpecInAnotherDocument(t *testing.T) {
	var outer struct{ Lab spec.Spec }
	if err := yaml.Unmarshal([]byte("lab: {apiVersion: keylab/v1alpha1, kind: Lab, nodes: 2}"), &outer); err != nil {
		t.Fatal(err)
	}
	want := spec.Spec{Nodes: spec.Nodes{Count: 2}}
	want.SetDefaults()
	if d := cmp.Diff(want, outer.Lab, sameSpec); d != "" {
		t.Error(d)
	}
	err := yaml.Unmarshal([]byte("lab: {apiVersion: keylab/v1alpha1, kind: Lab,\n nodes: 0}"), &outer)
	var invalid *spec.InvalidError
	if !errors.As(err, &invalid) || invalid.Problems[0].Line != 2 {
		t.Errorf("error: %v", err)
	}
	var nodes spec.Nodes
	if err := yaml.Unmarshal([]byte("[{name: a, tpm: {seed: x}}]"), &nodes); err != nil || nodes.Len() != 1 || nodes.List[0].TPM.Seed != "x" {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
}
