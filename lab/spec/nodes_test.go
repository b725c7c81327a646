package spec_test

import (
	"slices"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

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
