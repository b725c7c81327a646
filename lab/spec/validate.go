package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// KeylimeVersions are the Keylime versions that Validate accepts. A program that can install others sets it once, before
// it decodes anything.
var KeylimeVersions = []string{"7.14.3", "7.13.1", "7.12.2"}

// OptionComponents are the Keylime components that have a configuration file, by Keylime's names.
var OptionComponents = []string{"registrar", "verifier", "tenant", "ca", "logging"}

// benchmarkRange is the range that RFC 2544, appendix C.2.2, sets apart for tests between networks.
var benchmarkRange = netip.MustParsePrefix("198.18.0.0/15")

// otherRanges are the further ranges that no host on the internet owns: RFC 1918, RFC 6598 (shared address space) and
// RFC 5737 (documentation).
var otherRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
}

// finding is a Problem that does not know its place yet.
type finding struct {
	path, message, allowed string
	other                  string // the path of another place that the message ends with; "" for none
}

// Validate reports everything that is wrong with s, as an *InvalidError without places, or nil. Whatever s leaves out is
// taken to be the default.
func (s Spec) Validate() error {
	s = s.clone()
	s.SetDefaults()
	var problems []Problem
	for _, f := range s.findings() {
		message := f.message
		if f.other != "" {
			message += " (" + f.other + ")"
		}
		problems = append(problems, Problem{Path: f.path, Message: message, Allowed: f.allowed})
	}
	return invalid(problems)
}

// findings checks s, which has its defaults.
func (s Spec) findings() []finding {
	c := &checker{spec: s}
	c.tags(reflect.ValueOf(s), "", rules{})
	c.nodes()
	c.ekCA()
	c.networks()
	c.flows()
	c.keylime()
	c.agents()
	c.akFollowsEK()
	c.algorithms()
	c.measurements()
	c.payloads()
	c.revocation()
	c.substrate()
	c.push()
	if s.Networks.Domain == defaultDomain(s.Name) && slices.ContainsFunc(c.found, func(f finding) bool { return f.path == "name" }) {
		c.found = slices.DeleteFunc(c.found, func(f finding) bool { return f.path == "networks.domain" }) // an echo of the name
	}
	return c.found
}

type checker struct {
	spec  Spec
	found []finding
}

func (c *checker) add(path, message, allowed string) {
	c.found = append(c.found, finding{path: path, message: message, allowed: allowed})
}

// tags checks every value by its own tag.
func (c *checker) tags(v reflect.Value, path string, r rules) {
	var message, allowed string
	switch {
	case v.Type() == typeNodes:
		nodes := v.Interface().(Nodes)
		if nodes.List != nil {
			c.tags(reflect.ValueOf(nodes.List), path, rules{})
		}
		return
	case v.Kind() == reflect.Pointer:
		if !v.IsNil() {
			c.tags(v.Elem(), path, r)
		}
		return
	case v.Kind() == reflect.Struct && !isScalar(v.Type()):
		for _, f := range fieldsOf(v.Type()) {
			c.tags(v.Field(f.index), join(path, f.name), f.rules)
		}
		return
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			c.tags(v.Index(i), fmt.Sprintf("%s[%d]", path, i), rules{})
		}
		return
	case v.IsZero() && !r.required && !(v.Kind() == reflect.Int && r.min == "0"):
		return // left out
	case v.Type() == typeDuration:
		message, allowed = r.checkDuration(v.Interface().(Duration))
	case v.Kind() == reflect.Int:
		message, allowed = r.checkInt(int(v.Int()))
	case v.Kind() == reflect.String:
		message, allowed = r.checkString(v.String())
	}
	if message != "" {
		c.add(path, message, allowed)
	}
}

// reservedNames are the lab's own hosts, networks and switches.
var reservedNames = []string{
	HostRegistrar, HostVerifier, HostTenant, HostDNS, HostIngress, HostRouter, HostServices, HostCluster, "cluster-dns", "switch-services", "switch-cluster",
}

func (c *checker) nodes() {
	nodes := c.spec.Nodes
	if nodes.List == nil {
		if message, allowed := (rules{min: "1", max: fmt.Sprint(MaxNodes)}).checkInt(nodes.Count); message != "" {
			c.add("nodes", message, allowed)
		}
		return
	}
	if n := len(nodes.List); n == 0 || n > MaxNodes {
		c.add("nodes", fmt.Sprintf("has %d entries; allowed is 1 to %d", n, MaxNodes), fmt.Sprintf("1 to %d", MaxNodes))
	}
	names := map[string]int{}
	uuids := map[string]int{}
	for i, n := range nodes.List {
		path := fmt.Sprintf("nodes[%d]", i)
		if slices.Contains(reservedNames, n.Name) {
			c.add(path+".name", fmt.Sprintf("%q is the name of a part of the lab itself; choose another", n.Name), "any name but "+strings.Join(reservedNames, ", "))
		}
		if first, ok := names[n.Name]; ok {
			c.found = append(c.found, finding{path: path + ".name", message: fmt.Sprintf("%q is the name of nodes[%d] too", n.Name, first), other: fmt.Sprintf("nodes[%d].name", first)})
		} else {
			names[n.Name] = i
		}
		if u := n.Agent.UUID; u != "" && u != UUIDHashEK && u != UUIDGenerate {
			if first, ok := uuids[u]; ok {
				c.found = append(c.found, finding{path: path + ".agent.uuid", message: fmt.Sprintf("%q is the UUID of nodes[%d] too", u, first), other: fmt.Sprintf("nodes[%d].agent.uuid", first)})
			} else {
				uuids[u] = i
			}
		}
		c.ek(n, path+".ek")
		c.versions(TPM(n.TPM), path+".tpm")
	}
}

// ek checks that what is said of one EK certificate goes together.
func (c *checker) ek(n Node, path string) {
	ek := n.EK
	if ek.Certificate == CertificateAbsent {
		for _, f := range []struct {
			set  bool
			name string
		}{{ek.Issuer == IssuerStranger, "issuer"}, {ek.Expired, "expired"}, {!ek.NotAfter.IsZero(), "notAfter"}} {
			if f.set {
				c.add(path+"."+f.name, "says something of a certificate that is absent: remove this, or \"certificate: absent\"", "")
			}
		}
	}
	if ek.Expired && !ek.NotAfter.IsZero() {
		c.add(path+".expired", "stands beside notAfter, which says when the certificate expires: remove one of them", "")
	}
}

// versions checks the two halves of a firmware version, which the pattern cannot.
func (c *checker) versions(t TPM, path string) {
	if t.FirmwareVersion != "" && t.FirmwareVersionID() == "" && firmwareNumbers.MatchString(t.FirmwareVersion) {
		c.add(path+".firmwareVersion", fmt.Sprintf("%q has a part above 65535: each is kept in 16 bits", t.FirmwareVersion), "0.0 to 65535.65535")
	}
}

var firmwareNumbers = regexp.MustCompile(`^[0-9]{1,5}[.][0-9]{1,5}$`)

func (c *checker) ekCA() {
	c.versions(c.spec.TPM, "tpm")
	if ca := c.spec.EKCA; ca.EKValidity > ca.Validity {
		c.add("ekCA.ekValidity", fmt.Sprintf("is %s, longer than the CA itself is valid (ekCA.validity is %s)", ca.EKValidity, ca.Validity), "up to "+ca.Validity.String())
	}
}

func (c *checker) keylime() {
	k := c.spec.Keylime
	if !slices.Contains(KeylimeVersions, k.Version) {
		known := strings.Join(KeylimeVersions, ", ")
		c.add("keylime.version", fmt.Sprintf("%s is not a version that keylab can install: %s", quote(k.Version), known), known)
	}
	for _, component := range slices.Sorted(maps.Keys(k.Options)) {
		path := "keylime.options." + component
		if !slices.Contains(OptionComponents, component) {
			known := strings.Join(OptionComponents, ", ")
			c.add(path, fmt.Sprintf("%s is not one of %s%s", quote(component), known, DidYouMean(component, OptionComponents)), known)
			continue
		}
		for _, option := range slices.Sorted(maps.Keys(k.Options[component])) {
			if !optionName.MatchString(option) {
				c.add(path+"."+option, fmt.Sprintf("%s is not the name of an option: letters, digits, _ and -", quote(option)), "letters, digits, _ and -")
			} else if message, allowed := (rules{maxLength: 4096}).checkString(k.Options[component][option]); message != "" {
				c.add(path+"."+option, message, allowed)
			}
		}
	}
}

var optionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)

func (c *checker) agents() {
	lab := c.spec.Agent
	if lab.UUID != UUIDHashEK && lab.UUID != UUIDGenerate && c.spec.Nodes.Len() > 1 {
		c.add("agent.uuid", fmt.Sprintf("%s would be the UUID of all %d nodes: set it at one node, as nodes[].agent.uuid", quote(lab.UUID), c.spec.Nodes.Len()), "hash_ek, generate")
	}
	used := lab.Kind == AgentBinary
	if lab.Kind == AgentBinary && lab.Path == "" && (c.spec.Nodes.List == nil || slices.ContainsFunc(c.spec.Nodes.List, func(n Node) bool {
		return n.Agent.Kind == "" && n.Agent.Path == ""
	})) {
		c.add("agent.path", "is missing: the agent kind binary needs the path of its program", "")
	}
	for i, n := range c.spec.Nodes.List {
		path := fmt.Sprintf("nodes[%d].agent", i)
		kind := n.Agent.Kind
		if kind == "" {
			kind = lab.Kind
		}
		if kind == AgentBinary {
			used = true
			if n.Agent.Kind == AgentBinary && n.Agent.Path == "" && lab.Path == "" {
				c.add(path+".path", "is missing: the agent kind binary needs the path of its program", "")
			}
		} else if n.Agent.Path != "" {
			c.add(path+".path", fmt.Sprintf("is for the agent kind binary only; this node's kind is %s", kind), "")
		}
	}
	if lab.Path != "" && !used {
		c.add("agent.path", fmt.Sprintf("is for the agent kind binary only; the kind is %s", lab.Kind), "")
	}
}

// akFollowsEK finds nodes whose agent cannot make the AK that is asked for: the Rust agent makes an AK of the EK's kind of key
// (rust-keylime 0.2.9, keylime/src/agent_data.rs), so that RSASSA goes with an RSA EK and ECDSA with an ECC one.
func (c *checker) akFollowsEK() {
	for i, n := range c.spec.EffectiveNodes() {
		if n.Agent.Kind == AgentGo || (n.TPM.EKAlgorithm == EKECCP256) == (n.Agent.AKAlgorithm == AKECDSA) {
			continue
		}
		path, want := "agent.akAlgorithm", AKRSASSA
		if n.TPM.EKAlgorithm == EKECCP256 {
			want = AKECDSA
		}
		if c.spec.Nodes.List != nil {
			path = fmt.Sprintf("nodes[%d].%s", i, path)
		}
		message := fmt.Sprintf("%s does not go with the EK algorithm %s: the agent kind %s makes an AK of the EK's kind of key; use %s", quote(string(n.Agent.AKAlgorithm)), n.TPM.EKAlgorithm, n.Agent.Kind, want)
		if want == AKECDSA && c.spec.Keylime.Version == "7.12.2" {
			message += ", or, as Keylime 7.12.2 cannot check that either, an RSA EK"
		}
		c.add(path, message, string(want))
		if c.spec.Nodes.List == nil {
			return // the nodes are all alike
		}
	}
}
