package spec_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"net/netip"

	"keylab.dev/keylab/lab/spec"
)

// sameSpec compares specs by what they say.
var sameSpec = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	data, err := spec.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("lab.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("lab.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plain turns YAML into what a JSON document of the same content would hold: dates stay texts, as in editors.
func plain(t *testing.T, data []byte) any {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var dates func(n *yaml.Node)
	dates = func(n *yaml.Node) {
		if n.ShortTag() == "!!timestamp" {
			n.Tag = "!!str"
		}
		for _, c := range n.Content {
			dates(c)
		}
	}
	dates(&doc)
	var v any
	if err := doc.Decode(&v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func examples(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("examples: %v, %v; want five or more", files, err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = data
	}
	return out
}

func TestExamplesAreValidLabs(t *testing.T) {
	schema := compileSchema(t)
	for name, data := range examples(t) {
		t.Run(name, func(t *testing.T) {
			s, err := spec.Decode(name, data)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(plain(t, data)); err != nil {
				t.Errorf("the schema refuses what Decode accepts: %v", err)
			}
			if bytes.Contains(data, []byte("\t")) {
				t.Error("holds a tab")
			}
			out, err := spec.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(plain(t, out)); err != nil {
				t.Errorf("the schema refuses what Marshal writes: %v\n%s", err, out)
			}
			again, err := spec.Decode("again.yaml", out)
			if err != nil {
				t.Fatalf("Decode of what Marshal wrote: %v\n%s", err, out)
			}
			if d := cmp.Diff(s, again, sameSpec); d != "" {
				t.Errorf("Marshal and Decode changed the lab (-before +after):\n%s", d)
			}
		})
	}
}

// The annotated example promises to show the defaults.
func TestThreeNodesShowsTheDefaults(t *testing.T) {
	s, err := spec.Decode("three-nodes.yaml", examples(t)["three-nodes.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Spec{Name: "three-nodes"}
	want.TPM.Seed = "three-nodes"
	want.Keylime.Options = map[string]map[string]string{"verifier": {"max_retries": "3"}}
	want.SetDefaults()
	if d := cmp.Diff(want, s, sameSpec); d != "" {
		t.Errorf("(-defaults +example):\n%s", d)
	}
}

func TestMinimalIsTheDefault(t *testing.T) {
	s, err := spec.Decode("minimal.yaml", examples(t)["minimal.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(spec.Default(), s, sameSpec); d != "" {
		t.Errorf("(-default +example):\n%s", d)
	}
}

func TestMixedResolvesItsNodes(t *testing.T) {
	s, err := spec.Decode("mixed.yaml", examples(t)["mixed.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]spec.EffectiveNode{}
	for _, n := range s.EffectiveNodes() {
		byName[n.Name] = n
	}
	ecc := byName["ecc-new"]
	if ecc.TPM.EKAlgorithm != spec.EKECCP256 || ecc.TPM.Manufacturer != "OLDT" || ecc.TPM.Model != "OT-5000" || ecc.TPM.FirmwareVersionID() != "id:00020001" {
		t.Errorf("ecc-new: %+v", ecc.TPM)
	}
	if old := byName["rsa-old-2"]; old.TPM.Model != "OT-4000" || old.TPM.EKAlgorithm != spec.EKRSA2048 || old.TPM.Backend != spec.BackendAuto {
		t.Errorf("rsa-old-2: %+v", old.TPM)
	}
	if n := byName["named"]; n.Agent.Port != 9102 || n.Agent.Kind != spec.AgentGo || !strings.HasPrefix(n.Agent.UUID, "5b1c") {
		t.Errorf("named: %+v", n.Agent)
	}
	if ek := byName["expired"].EK; ek.NotAfter.Format("2006-01-02T15:04:05Z07:00") != "2020-12-31T00:00:00Z" || ek.Issuer != spec.IssuerLab {
		t.Errorf("expired: %+v", ek)
	}
	if ek := byName["bare"].EK; ek.Certificate != spec.CertificateAbsent {
		t.Errorf("bare: %+v", ek)
	}
}

func TestSchemaRefusesWhatDecodeRefuses(t *testing.T) {
	schema := compileSchema(t)
	const head = "apiVersion: keylab/v1alpha1\nkind: Lab\n"
	for _, body := range []string{
		"nodez: 3", "nodes: 0", "nodes: 501", "nodes: []", "nodes: three", "nodes: 1.5", "name: Upper", "name: \"\"", "name: 3", "substrate: docker",
		"tpm: {ekAlgorithm: rsa4096}", "tpm: {manufacturer: TOOLONG}", "tpm: {firmwareVersion: 7.2}", "tpm:", "tpm: []",
		"nodes: [{tpm: {backend: qemu}}]", "nodes: [{agent: {port: 0}}]", "nodes: [{ek: {notAfter: yesterday}}]", "nodes: [{ek: {issuer: me}}]",
		"ekCA: {intermediates: 5}", "ekCA: {intermediates: -1}", "ekCA: {validity: 10}", "ekCA: {validity: ten years}", "ekCA: {crlURL: ftp://x}",
		"networks: {services: {cidr: 198.18.10.0}}", "networks: {cluster: {loadBalancer: here}}", "networks: {allow: [{from: cluster, port: 1}]}",
		"networks: {domain: -x.test}", "networks: {allow: [{from: cluster, to: verifier, port: 65536}]}", "networks: {allowOtherRanges: 1}",
		"keylime: {mode: both}", "keylime: {version: \"6.5.3\"}", "keylime: {requireEKCert: maybe}", "keylime: {verifierWorkers: 0}",
		"keylime: {options: {agent: {a: b}}}", "keylime: {options: {verifier: {a: [b]}}}", "agent: {kind: docker}", "agent: {uuid: me}", "agent: {akAlgorithm: ecdaa}", "timeouts: {ready: 2 minutes}",
	} {
		if _, err := spec.Decode("lab.yaml", []byte(head+body)); err == nil {
			t.Errorf("Decode accepts %q", body)
		}
		if err := schema.Validate(plain(t, []byte(head+body))); err == nil {
			t.Errorf("the schema accepts %q", body)
		}
	}
	if err := schema.Validate(plain(t, []byte("kind: Lab"))); err == nil {
		t.Error("the schema accepts a lab without apiVersion")
	}
}

// defaultsOf returns the defaults in a schema by path, in JSON, following references to definitions.
func defaultsOf(defs map[string]any, s map[string]any, path string, out map[string]any) {
	if v, ok := s["default"]; ok {
		out[path] = v
	}
	if ref, ok := s["$ref"].(string); ok {
		s = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	props, _ := s["properties"].(map[string]any)
	for name, p := range props {
		defaultsOf(defs, p.(map[string]any), strings.TrimPrefix(path+"."+name, "."), out)
	}
}

func leaves(v any, path string, out map[string]any) {
	if m, ok := v.(map[string]any); ok {
		for name, sub := range m {
			leaves(sub, strings.TrimPrefix(path+"."+name, "."), out)
		}
		return
	}
	out[path] = v
}

// The schema tells the very defaults that SetDefaults puts in: none too many, none too few, but for those that depend on
// other fields.
func TestSchemaDefaultsAreTheDefaults(t *testing.T) {
	data, _ := spec.Schema()
	var schema map[string]any
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	told := map[string]any{}
	defaultsOf(schema["$defs"].(map[string]any), schema, "", told)

	out, err := spec.Marshal(spec.Default())
	if err != nil {
		t.Fatal(err)
	}
	var v any
	text, _ := json.Marshal(plain(t, out))
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	real := map[string]any{}
	leaves(v, "", real)
	for _, depends := range []string{"apiVersion", "kind", "ekCA.ekValidity", "networks.services.cidr", "networks.cluster.cidr", "networks.cluster.loadBalancer", "networks.domain"} {
		if real[depends] == nil {
			t.Errorf("%s has no default", depends)
		}
		delete(real, depends)
	}
	if d := cmp.Diff(real, told); d != "" {
		t.Errorf("(-SetDefaults +schema):\n%s", d)
	}

	// What is set per node is the same for the certificate only: the rest is inherited.
	ek := map[string]any{}
	defaultsOf(nil, schema["$defs"].(map[string]any)["NodeEK"].(map[string]any), "", ek)
	node := spec.Spec{Nodes: spec.Nodes{Count: 1}}.EffectiveNodes()[0]
	if d := cmp.Diff(map[string]any{"issuer": string(node.EK.Issuer), "certificate": string(node.EK.Certificate)}, ek); d != "" {
		t.Errorf("node.ek (-EffectiveNodes +schema):\n%s", d)
	}
}
