package spec_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab/spec"
)

const head = "apiVersion: keylab/v1alpha1\nkind: Lab\n"

// Every case has one or more problems, given in full as a user sees them. The bodies stand behind the two lines of the head.
func TestDecodeReportsEveryProblemWithItsPlace(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"unknown field, typing mistake", "nodez: 3", `lab.yaml:3:1: nodez: unknown field "nodez": did you mean "nodes"?`},
		{"unknown field, swapped letters", "keylime: {mdoe: pull}", `lab.yaml:3:11: keylime.mdoe: unknown field "mdoe": did you mean "mode"?`},
		{"field in the wrong place", "quoteInterval: 2s", `lab.yaml:3:1: quoteInterval: unknown field "quoteInterval": it belongs at keylime.quoteInterval`},
		{"field that is nowhere known", "timeouts: {wallclock: 1s}", `lab.yaml:3:12: timeouts.wallclock: unknown field "wallclock"; timeouts can hold ready`},
		{"unknown value", "nodes:\n- {}\n- name: b\n  tpm:\n    ekAlgorithm: rsa4096", `lab.yaml:7:18: nodes[1].tpm.ekAlgorithm: "rsa4096" is not one of rsa2048, ecc-p256`},
		{"unknown value, near one", "tpm: {backend: swtmp}", `lab.yaml:3:16: tpm.backend: "swtmp" is not one of auto, swtpm, simulator: did you mean "swtpm"?`},
		{"several at once, sorted", "tpm: {backend: x}\nname: UP\nnodes: 0", `lab.yaml:3:16: tpm.backend: "x" is not one of auto, swtpm, simulator
lab.yaml:4:7: name: "UP" is not a DNS label: lower-case letters, digits and inner hyphens
lab.yaml:5:8: nodes: 0 is too small; allowed is 1 to 500`},
		{"number of nodes", "nodes: 501", `lab.yaml:3:8: nodes: 501 is too large; allowed is 1 to 500`},
		{"number beyond int", "nodes: 99999999999999999999", `lab.yaml:3:8: nodes: "99999999999999999999" is out of range; allowed is 1 to 500`},
		{"nodes of the wrong type", "nodes: {a: 1}", `lab.yaml:3:8: nodes: needs a number of nodes, or a list of them, not a mapping`},
		{"nodes as a text", "nodes: three", `lab.yaml:3:8: nodes: needs a whole number from 1 to 500, not the text "three"`},
		{"empty list of nodes", "nodes: []", `lab.yaml:3:8: nodes: is an empty list; a lab needs a node`},
		{"same name twice", "nodes:\n- name: a\n- name: b\n- name: a", `lab.yaml:6:9: nodes[2].name: "a" is the name of nodes[0] too (line 4)`},
		{"name given that another has by default", "nodes:\n- name: node-2\n- tpm: {seed: x}", `lab.yaml:5:3: nodes[1].name: "node-2" is the name of nodes[0] too (line 4)`},
		{"name of the lab's own", "nodes: [{name: ingress}]", `lab.yaml:3:16: nodes[0].name: "ingress" is the name of a part of the lab itself; choose another`},
		{"number for a text", "tpm: {firmwareVersion: 7.10}", `lab.yaml:3:24: tpm.firmwareVersion: needs text, not the number 7.10: put it in quotes, as in "7.10"`},
		{"firmware version too large", "tpm: {firmwareVersion: \"65536.0\"}", `lab.yaml:3:24: tpm.firmwareVersion: "65536.0" has a part above 65535: each is kept in 16 bits`},
		{"text for a truth value", "keylime: {requireEKCert: yes}", `lab.yaml:3:26: keylime.requireEKCert: needs true or false, not the text "yes"`},
		{"mapping for a value", "name: {a: b}", `lab.yaml:3:7: name: needs text, not a mapping`},
		{"value for a mapping", "tpm: swtpm", `lab.yaml:3:6: tpm: needs fields of its own, as in "field: value", not the text "swtpm"`},
		{"value for a list", "networks: {allow: all}", `lab.yaml:3:19: networks.allow: needs a list, not the text "all"`},
		{"no value", "tpm:\n  seed:\nname: a", `lab.yaml:4:8: tpm.seed: has no value: give it one, or remove it`},
		{"empty value", "name: \"\"", `lab.yaml:3:7: name: is empty: give it a value, or remove it`},
		{"zero is not left out", "agent: {port: 0}", `lab.yaml:3:15: agent.port: 0 is too small; allowed is 1 to 65535`},
		{"duration without unit", "keylime: {quoteInterval: 2}", `lab.yaml:3:26: keylime.quoteInterval: needs a unit: 2 of what? Write a duration like 2s, 1h30m, 90d or 10y`},
		{"duration of nothing", "keylime: {quoteInterval: 0s}", `lab.yaml:3:26: keylime.quoteInterval: 0s is too short; allowed is 100ms to 1d`},
		{"duration too long", "keylime: {quoteInterval: 400d}", `lab.yaml:3:26: keylime.quoteInterval: 1y35d is too long; allowed is 100ms to 1d`},
		{"EK outlives the CA", "ekCA: {validity: 1y, ekValidity: 2y}", `lab.yaml:3:34: ekCA.ekValidity: is 2y, longer than the CA itself is valid (ekCA.validity is 1y)`},
		{"field given twice", "name: a\nname: b", `lab.yaml:4:1: name: is set twice; the first time in line 3`},
		{"what is said of an absent certificate", "nodes: [{ek: {certificate: absent, expired: true}}]", `lab.yaml:3:45: nodes[0].ek.expired: says something of a certificate that is absent: remove this, or "certificate: absent"`},
		{"expired twice", "nodes: [{ek: {expired: true, notAfter: 2020-01-01}}]", `lab.yaml:3:24: nodes[0].ek.expired: stands beside notAfter, which says when the certificate expires: remove one of them`},
		{"push without RSASSA", "keylime: {mode: push}\nagent: {akAlgorithm: ecdsa}", `lab.yaml:4:22: agent.akAlgorithm: "ecdsa": in the push model Keylime accepts no other proof of possession than one by RSASSA`},
		{"push without SHA-256", "keylime: {mode: push}\nagent: {hashAlgorithm: sha384}", `lab.yaml:4:24: agent.hashAlgorithm: "sha384": in the push model Keylime refuses the agent's proof of possession: "ak_attest must specify sha256 as the hash algorithm"`},
		{"push with an older Keylime", "keylime: {mode: push, version: 7.13.1}", `lab.yaml:3:17: keylime.mode: "push" came with Keylime 7.14; keylime.version is 7.13.1`},
		{"RSAPSS", "agent: {akAlgorithm: rsapss}", `lab.yaml:3:22: agent.akAlgorithm: "rsapss": Keylime, as of 7.14.3, cannot check it: "Unsupported quote signature algorithm '0x16' for RSA keys"`},
		{"RSAPSS of one node", "nodes: [{}, {agent: {akAlgorithm: rsapss}}]", `lab.yaml:3:35: nodes[1].agent.akAlgorithm: "rsapss": Keylime, as of 7.14.3, cannot check it: "Unsupported quote signature algorithm '0x16' for RSA keys"`},
		{"ECDSA in 7.12", "keylime: {version: 7.12.2}\nagent: {akAlgorithm: ecdsa}", `lab.yaml:4:22: agent.akAlgorithm: "ecdsa": Keylime 7.12.2 cannot check it: "Error verifying quote"; it takes one half of the signature for all of it. 7.13.1 can`},
		{"ECDSA of one node in 7.12", "keylime: {version: 7.12.2}\nnodes: [{agent: {akAlgorithm: ecdsa}}]", `lab.yaml:4:31: nodes[0].agent.akAlgorithm: "ecdsa": Keylime 7.12.2 cannot check it: "Error verifying quote"; it takes one half of the signature for all of it. 7.13.1 can`},
		{"ECC EK of a program in 7.12", "keylime: {version: 7.12.2}\nagent: {kind: binary, path: x}\ntpm: {ekAlgorithm: ecc-p256}", `lab.yaml:4:1: agent.akAlgorithm: "rsassa" does not go with the EK algorithm ecc-p256: the agent kind binary makes an AK of the EK's kind of key; use ecdsa, or, as Keylime 7.12.2 cannot check that either, an RSA EK`},
		{"hash", "agent: {hashAlgorithm: sha}", `lab.yaml:3:24: agent.hashAlgorithm: "sha" is not one of sha256, sha384, sha512, sha1: did you mean "sha1"?`},
		{"push in fractions of a second", "keylime: {mode: push, quoteInterval: 500ms}", `lab.yaml:3:38: keylime.quoteInterval: 500ms: the push model needs whole seconds`},
		{"mode", "keylime: {mode: poll}", `lab.yaml:3:17: keylime.mode: "poll" is not one of pull, push: did you mean "pull"?`},
		{"Keylime version", "keylime: {version: \"1.0\"}", `lab.yaml:3:20: keylime.version: "1.0" is not a version that keylab can install: 7.14.3, 7.13.1, 7.12.2`},
		{"option component", "keylime:\n  options:\n    verifer: {retry_interval: 2}", `lab.yaml:5:5: keylime.options.verifer: "verifer" is not one of registrar, verifier, tenant, ca, logging: did you mean "verifier"?`},
		{"option that would break out of its line", "keylime: {options: {verifier: {port: \"1\\n[x]\"}}}", `lab.yaml:3:38: keylime.options.verifier.port: "1\n[x]" holds a control character`},
		{"binary without path", "agent: {kind: binary}", `lab.yaml:3:1: agent.path: is missing: the agent kind binary needs the path of its program`},
		{"one problem, not its echo too", "agent: {kind: binary, path: [x]}", `lab.yaml:3:29: agent.path: needs text, not a list`},
		{"option with no name for one", "keylime: {options: {verifier: {\"a = b\": c}}}", `lab.yaml:3:41: keylime.options.verifier.a = b: "a = b" is not the name of an option: letters, digits, _ and -`},
		{"path without binary", "nodes: [{agent: {path: x}}]", `lab.yaml:3:24: nodes[0].agent.path: is for the agent kind binary only; this node's kind is go`},
		{"one UUID for all", "agent: {uuid: 5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10}", `lab.yaml:3:15: agent.uuid: "5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10" would be the UUID of all 3 nodes: set it at one node, as nodes[].agent.uuid`},
		{"same UUID twice", "nodes:\n- agent: &a {uuid: 5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10}\n- agent: *a", `lab.yaml:4:20: nodes[1].agent.uuid: "5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10" is the UUID of nodes[0] too (line 4)`},
		{"network outside of the range", "networks: {cluster: {cidr: 10.1.0.0/24}}", `lab.yaml:3:28: networks.cluster.cidr: 10.1.0.0/24 is outside of 198.18.0.0/15, the range set apart for labs; use a part of that, or set networks.allowOtherRanges: true`},
		{"public network", "networks: {allowOtherRanges: true, cluster: {cidr: 8.8.8.0/24}}", `lab.yaml:3:52: networks.cluster.cidr: 8.8.8.0/24 holds public addresses, which belong to somebody; use a part of 198.18.0.0/15`},
		{"address for a network", "networks: {cluster: {cidr: 198.18.30.7/24}}", `lab.yaml:3:28: networks.cluster.cidr: 198.18.30.7/24 is an address inside of a network; the network is 198.18.30.0/24`},
		{"IPv6", "networks: {cluster: {cidr: \"2001:db8::/64\"}}", `lab.yaml:3:28: networks.cluster.cidr: 2001:db8::/64 is not an IPv4 network`},
		{"overlap", "networks: {cluster: {cidr: 198.18.0.0/16}}", `lab.yaml:3:28: networks.cluster.cidr: 198.18.0.0/16 overlaps the services network, 198.18.10.0/24`},
		{"network too small for the nodes", "nodes: 60\nnetworks: {cluster: {cidr: 198.18.30.0/26}}", `lab.yaml:4:28: networks.cluster.cidr: 198.18.30.0/26 has room for 50 nodes, and the lab has 60: use a larger network, such as a /22`},
		{"network too small for DNS", "networks: {services: {cidr: 198.18.30.0/27}}", `lab.yaml:3:29: networks.services.cidr: 198.18.30.0/27 is not of a size that fits a lab: /16 to /26`},
		{"load balancer elsewhere", "networks: {cluster: {loadBalancer: 198.18.30.1}}", `lab.yaml:3:36: networks.cluster.loadBalancer: 198.18.30.1 is not in the cluster network, 198.18.20.0/24`},
		{"load balancer on the router", "networks: {cluster: {loadBalancer: 198.18.20.2}}", `lab.yaml:3:36: networks.cluster.loadBalancer: 198.18.20.2 is the router's address; choose another`},
		{"label too long", "networks: {domain: " + strings.Repeat("a", 64) + ".test}", `lab.yaml:3:20: networks.domain: the label "` + strings.Repeat("a", 64) + `" is 64 characters long; DNS allows 63`},
		{"host name too long", "networks: {domain: " + strings.Repeat("a.", 95) + "test}", `lab.yaml:3:20: networks.domain: "` + strings.Repeat("a.", 38) + `a..." is 194 characters long; at most 187 are allowed`},
		{"flow that the router never sees", "networks: {allow: [{from: tenant, to: verifier, port: 1}]}", `lab.yaml:3:39: networks.allow[0].to: tenant and verifier are both on the services network, so that the router never sees this flow`},
		{"flow from nobody", "networks: {allow: [{from: node-9, to: verifier, port: 1}]}", `lab.yaml:3:27: networks.allow[0].from: "node-9" is not one of services, cluster, registrar, verifier, tenant, dns, ingress, or a node's name: did you mean "node-1"?`},
		{"flow without its end", "networks:\n  allow:\n  - from: cluster\n    port: 1", `lab.yaml:5:5: networks.allow[0].to: is missing: add "to:" and its value`},
		{"flow without port", "networks: {allow: [{from: node-1, to: verifier}]}", `lab.yaml:3:20: networks.allow[0].port: is missing: a flow of tcp needs the port of the receiving side`},
		{"flow named like a counter", "networks: {allow: [{name: dropped-services-to-cluster, from: node-1, to: verifier, port: 1}]}", `lab.yaml:3:27: networks.allow[0].name: "dropped-services-to-cluster" is the name of a counter that the router has anyway; choose another`},
		{"flow named like the lab's own", "networks: {allow: [{name: services-to-ingress, from: services, to: node-1, port: 1}]}", `lab.yaml:3:27: networks.allow[0].name: "services-to-ingress" is the name of a counter that the router has anyway; choose another`},
		{"flow name that nft cannot read", "networks: {allow: [{name: 1st, from: node-1, to: verifier, port: 1}]}", `lab.yaml:3:27: networks.allow[0].name: "1st" is not a name of lower-case letters, digits and inner hyphens that begins with a letter`},
		{"ICMP with port", "networks: {allow: [{from: node-1, to: verifier, protocol: icmp, port: 8}]}", `lab.yaml:3:71: networks.allow[0].port: ICMP has no ports: remove it`},
		{"second document", "---\nkind: Lab", `lab.yaml:3:1: a second document begins here: a file describes one lab; remove the --- or put the other lab in a file of its own`},
		{"key that is no text", "[a]: b", `lab.yaml:3:1: holds a list where a field's name should stand`},
		{"merge of a value", "tpm: {<<: 3}", `lab.yaml:3:11: tpm: the merge key (<<) needs a mapping, not the number 3`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spec.Decode("lab.yaml", []byte(head+c.body))
			var invalid *spec.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("error %v, want an InvalidError", err)
			}
			if d := cmp.Diff(c.want, err.Error()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestDecodeWholeDocument(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", `lab.yaml:1:1: the document is empty: a lab needs at least "apiVersion: keylab/v1alpha1" and "kind: Lab"`},
		{"comments only", "# a lab\n---\n", `lab.yaml:1:1: the document is empty: a lab needs at least "apiVersion: keylab/v1alpha1" and "kind: Lab"`},
		{"a list", "- a", `lab.yaml:1:1: the document must consist of fields, beginning with "apiVersion: keylab/v1alpha1"; this is a list`},
		{"no version", "kind: Lab", `lab.yaml:1:1: apiVersion: is missing: add the line "apiVersion: keylab/v1alpha1"`},
		{"wrong version and kind", "apiVersion: keylab/v1\nkind: Plan", "lab.yaml:1:13: apiVersion: \"keylab/v1\" is not one of keylab/v1alpha1\nlab.yaml:2:7: kind: \"Plan\" is not one of Lab"},
		{"tab", head + "tpm:\n\tseed: a\n", `lab.yaml:4:1: YAML does not allow tabs for indentation: use spaces`},
		{"syntax", head + "tpm: {seed: a\nname: b\n", `lab.yaml:3: this is not YAML: did not find expected ',' or '}'`},
		{"unknown anchor", head + "tpm: *t\n", `lab.yaml:3:6: this is not YAML: no anchor &t stands before the alias *t`},
		{"Latin-1", head + "name: caf\xe9\n", `lab.yaml:3:10: the file is not text in UTF-8: save it in that encoding`},
		{"UTF-16", "\xff\xfea\x00", `lab.yaml:1:1: the file is not text in UTF-8: save it in that encoding`},
		{"NUL", head + "name: a\x00\n", `lab.yaml:3:8: this is not YAML: a control character is not allowed`},
		{"huge", strings.Repeat("#", spec.MaxSize+1), `lab.yaml: the file is 1048577 bytes large; at most 1048576 are read`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spec.Decode("lab.yaml", []byte(c.data))
			if err == nil {
				t.Fatal("no error")
			}
			if d := cmp.Diff(c.want, err.Error()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestDecodeAcceptsWhatYAMLAllows(t *testing.T) {
	for name, data := range map[string]string{
		"byte order mark":        "\xef\xbb\xbf" + head,
		"document marks":         "%YAML 1.1\n---\n" + head + "...\n",
		"empty second document":  head + "---\n# nothing\n",
		"JSON":                   `{"apiVersion": "keylab/v1alpha1", "kind": "Lab", "nodes": 3}`,
		"CR LF":                  strings.ReplaceAll(head, "\n", "\r\n"),
		"anchors":                head + "nodes:\n- tpm: &a {seed: x}\n- tpm: *a\n- tpm: {<<: *a, model: m}\n- tpm: {<<: [*a, {model: n}]}\n",
		"hexadecimal number":     head + "nodes: 0x10\n",
		"other ranges, allowed":  head + "networks: {allowOtherRanges: true, services: {cidr: 192.0.2.0/25}, cluster: {cidr: 10.1.0.0/24}}",
		"500 nodes by default":   head + "nodes: 500",
		"option of any type":     head + "keylime: {options: {verifier: {a: 1, b: true, c: 1.5, d: \"\"}}}",
		"binary with path":       head + "agent: {kind: binary, path: ./agent}",
		"binary at one node":     head + "agent: {path: ./agent}\nnodes: [{}, {agent: {kind: binary}}]",
		"kind substrate":         head + "substrate: kind",
		"stranger's certificate": head + "nodes: [{ek: {issuer: stranger, notAfter: 2030-01-02T03:04:05+02:00}}]",
	} {
		if _, err := spec.Decode("lab.yaml", []byte(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A small document must not cause much work by naming its parts again and again, or itself.
func TestDecodeBoundsAliases(t *testing.T) {
	bomb := head + "tpm: &m0 {seed: a, model: b}\n"
	for i := 1; i < 8; i++ {
		bomb += fmt.Sprintf("m%d: &m%d {<<: [%s]}\n", i, i, strings.Repeat(fmt.Sprintf("*m%d,", i-1), 9)+fmt.Sprintf("*m%d", i-1))
	}
	bomb += "agent: {<<: *m7}\n"
	for name, c := range map[string]struct{ data, want string }{
		"merges of merges":    {bomb, "too large when its aliases are followed"},
		"merge of itself":     {head + "tpm: &a {<<: *a}\n", "lead to one another"},
		"list of itself":      {head + "nodes: &a [*a]\n", "nodes[0]: needs fields of its own"},
		"mapping in itself":   {head + "tpm: &a {seed: *a}\n", "tpm.seed: needs text, not a mapping"},
		"too many nodes":      {head + "nodes: [" + strings.Repeat("{},", 501) + "]", "has 501 entries; at most 500"},
		"deeply nested lists": {head + "nodes: " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "not YAML"},
	} {
		start := time.Now()
		_, err := spec.Decode("lab.yaml", []byte(c.data))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %.300v, want %q", name, err, c.want)
		}
		if n := strings.Count(fmt.Sprint(err), "\n"); n > 20 {
			t.Errorf("%s: %d problems for one cause", name, n)
		}
		t.Logf("%s: %v", name, time.Since(start))
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"minimal", "three-nodes", "ecc", "stranger-ca", "mixed"} {
		data, err := os.ReadFile("../../examples/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(head + "nodes:\n- &a {name: x}\n- {<<: *a, name: y, ek: {notAfter: 2020-01-01, issuer: stranger}}\nkeylime: {options: {ca: {a: 1}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := spec.Decode("lab.yaml", data)
		if err != nil {
			var invalid *spec.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
				t.Fatalf("error without problems: %v", err)
			}
			return
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("Validate refuses what Decode accepts: %v", err)
		}
		out, err := spec.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := spec.Decode("again.yaml", out)
		if err != nil {
			t.Fatalf("Decode of what Marshal wrote: %v\n%s", err, out)
		}
		if d := cmp.Diff(s, again, sameSpec); d != "" {
			t.Fatalf("(-before +after):\n%s\n%s", d, out)
		}
	})
}
