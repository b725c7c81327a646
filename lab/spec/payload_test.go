package spec_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

// What a node gets: its own payload whole, else the lab's, else nothing.
func TestPayloadsOfNodes(t *testing.T) {
	s, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\npayload: {file: all.zip, autorun: true}\nnodes:\n"+
		"  - {name: a}\n  - {name: b, payload: {inline: \"b's\\nown\"}}\n  - {name: c, payload: {none: true}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []spec.EffectiveNode{
		{Payload: spec.Payload{File: "all.zip", Autorun: true}, SharedPayload: true},
		{Payload: spec.Payload{Inline: "b's\nown"}},
		{},
	}
	for i, n := range s.EffectiveNodes() {
		if n.Payload != want[i].Payload || n.SharedPayload != want[i].SharedPayload || n.Payload.Exists() != (i < 2) {
			t.Errorf("%s: %+v, shared %v; want %+v, %v", n.Name, n.Payload, n.SharedPayload, want[i].Payload, want[i].SharedPayload)
		}
	}
}

// Each mistake has its message, and no message repeats what was to be delivered.
func TestPayloadMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"payload: {file: a, inline: secret}", "payload.inline: is set beside file: a payload is one or the other"},
		{"payload: {autorun: true}", "payload.autorun: is set, but there is no payload"},
		{"payload: {inline: secret, autorun: true}", "payload.autorun: needs a zip archive, named by file"},
		{"nodes: [{payload: {none: true, inline: secret}}]", "nodes[0].payload.none: is true, but the node is given a payload as well"},
		{"nodes: [{payload: {inline: secret, autorun: true}}]", "nodes[0].payload.autorun: needs a zip archive"},
		{"payload: {inline: 2020-12-31}", "payload.inline: needs text: put it in quotes"},
		{"payload: {inline: " + strings.Repeat("secret ", 10000) + "}", "payload.inline: is 69999 characters long; at most 65536 are allowed"},
		{"payload: {fill: secret}", `payload.fill: unknown field "fill": did you mean "file"?`},
		{"payload: {none: true}", `payload.none: unknown field "none"`},
		{"payload: {file: \"" + strings.Repeat("a", 4097) + "\"}", "payload.file: "},
		{"payload: {file: a.zip, autorun: true}\nkeylime: {revocation: {agent: true}}", "payload.autorun: does not go with keylime.revocation"},
		{"nodes: [{payload: {file: a.zip, autorun: true}}]\nkeylime: {revocation: {webhook: true}}", "nodes[0].payload.autorun: does not go with keylime.revocation"},
	} {
		_, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\nname: x\n"+c.text+"\n"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80q:\n%v\nwant %q", c.text, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "2020")) {
			t.Errorf("%.80q: the message repeats the payload: %v", c.text, err)
		}
	}
	ok := "apiVersion: keylab/v1alpha1\nkind: Lab\nsubstrate: kind\npayload: {file: a.zip, autorun: true}\nagent: {kind: image, image: \"a:1\"}\n"
	if _, err := spec.Decode("lab.yaml", []byte(ok)); err != nil {
		t.Errorf("an image with a shell: %v", err)
	}
}
