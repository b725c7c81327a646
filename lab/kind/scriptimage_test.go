package kind

import "testing"

// A Go agent that runs scripts has an image with a shell, and no other has.
func TestAgentImages(t *testing.T) {
	const plain, scripts = "keylab.test/keylab:0123", "keylab.test/keylab-tools:0123"
	for text, want := range map[string][]string{
		"payload: {file: /all.zip, autorun: true}\nnodes: [{name: a}, {name: b, payload: {none: true}}, {name: c, agent: {kind: image, image: \"x:1\"}}]\n": {scripts, plain, "x:1"},
		"payload: {file: /all.zip}\nnodes: [{name: a}, {name: b, payload: {file: /b.zip, autorun: true}}]\n":                                                {plain, scripts},
		"keylime: {revocation: {agent: true, actions: [{name: a, inline: x}]}}\nnodes: [{name: a}, {name: b, agent: {kind: image, image: \"x:1\"}}]\n":      {scripts, "x:1"},
		"keylime: {revocation: {agent: true}}\nnodes: [{name: a}]\n":                                                                                        {plain},
	} {
		dir, p := planned(t, text)
		l, err := newLab(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l.facts.Image = plain
		for i, n := range p.Nodes {
			if got := l.agentImage(n).Image; got != want[i] {
				t.Errorf("%s: the agent of %s has the image %s, want %s", text, n.Name, got, want[i])
			}
		}
	}
}
