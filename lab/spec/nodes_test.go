package spec_test

import (
	"reflect"
	"slices"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

// Another agent on one node changes that node alone, and put back, the lab is as it was.
func TestWithAgent(t *testing.T) {
	const head = "apiVersion: keylab/v1alpha1\nkind: Lab\nname: x\n"
	for what, c := range map[string]struct{ text, node, back, path, other string }{
		"a number":                        {"nodes: 2", "node-1", "go", "", "go "},
		"a list":                          {"nodes: [{name: a}, {name: b, ek: {expired: true}}]", "a", "go", "", "go "},
		"a lab of programs":               {"nodes: 2\nagent: {kind: binary, path: /x}", "node-2", "binary", "/x", "binary /x"},
		"another one, by the lab's path":  {"nodes: [{name: a}, {name: b, agent: {kind: binary}}]\nagent: {path: /x}", "a", "go", "", "binary /x"},
		"the only one, by the lab's path": {"nodes: [{name: a}, {name: b, agent: {kind: binary}}]\nagent: {path: /x}", "b", "binary", "/x", "go "},
	} {
		s, err := spec.Decode("x", []byte(head+c.text+"\n"))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		agents := func(s spec.Spec) (of, other string) {
			if err := s.Validate(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			for _, n := range s.EffectiveNodes() {
				if text := string(n.Agent.Kind) + " " + n.Agent.Path; n.Name == c.node {
					of = text
				} else {
					other = text
				}
			}
			return of, other
		}
		for _, other := range []struct {
			kind spec.AgentKind
			path string
		}{{spec.AgentGo, ""}, {spec.AgentBinary, "/y"}} {
			next, err := s.WithAgent(c.node, other.kind, other.path)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if of, rest := agents(next); of != string(other.kind)+" "+other.path || rest != c.other {
				t.Errorf("%s, to %v: it has %q, the other one %q, want %q", what, other, of, rest, c.other)
			}
			again, err := next.WithAgent(c.node, spec.AgentKind(c.back), c.path)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !reflect.DeepEqual(again.EffectiveNodes(), s.EffectiveNodes()) || (again.Nodes.List == nil) != (s.Nodes.List == nil) {
				t.Errorf("%s, to %v and back: %+v, before %+v", what, other, again.Nodes, s.Nodes)
			}
		}
		if _, err := s.WithAgent("c", spec.AgentGo, ""); err == nil {
			t.Errorf("%s: a node that is not there has another agent", what)
		}
	}
}

// Nodes are a number as long as that says it all, and else a list.
func TestNodesChange(t *testing.T) {
	names := func(n spec.Nodes) (out []string) {
		for _, x := range n.All() {
			out = append(out, x.Name)
		}
		return out
	}
	three := spec.Nodes{Count: 3}
	named := spec.Nodes{List: []spec.Node{{Name: "a"}, {}}}
	for what, c := range map[string]struct {
		got    spec.Nodes
		number int // 0: a list
		want   []string
	}{
		"the next one":          {three.With(spec.Node{Name: "node-4"}), 4, []string{"node-1", "node-2", "node-3", "node-4"}},
		"another name":          {three.With(spec.Node{Name: "b"}), 0, []string{"node-1", "node-2", "node-3", "b"}},
		"the next, but special": {three.With(spec.Node{Name: "node-4", EK: spec.NodeEK{Expired: true}}), 0, []string{"node-1", "node-2", "node-3", "node-4"}},
		"without the last":      {three.Without("node-3"), 2, []string{"node-1", "node-2"}},
		"without the first":     {three.Without("node-1"), 0, []string{"node-2", "node-3"}},
		"without the only one":  {spec.Nodes{Count: 1}.Without("node-1"), 0, nil},
		"a list and one more":   {named.With(spec.Node{Name: "b"}), 0, []string{"a", "node-2", "b"}},
		"a list and one less":   {named.Without("a"), 0, []string{"node-2"}},
	} {
		if got := names(c.got); !slices.Equal(got, c.want) || c.got.Count != c.number || (c.got.List == nil) != (c.number > 0) {
			t.Errorf("%s: %+v", what, c.got)
		}
	}
	if three.Count != 3 || len(named.List) != 2 || named.List[1].Name != "" {
		t.Errorf("what was there has changed: %+v, %+v", three, named)
	}
}
