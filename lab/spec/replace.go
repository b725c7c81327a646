package spec

import (
	"fmt"
	"reflect"
	"slices"
)

// WithAgent is the lab with an agent of another kind, or another program, on one node; path is for the kind binary only. The nodes stay a number as long as
// that says it all. The caller validates it.
func (s Spec) WithAgent(node string, kind AgentKind, path string) (Spec, error) {
	s = s.clone()
	list := s.Nodes.All()
	i := slices.IndexFunc(list, func(n Node) bool { return n.Name == node })
	if i < 0 {
		return s, fmt.Errorf("the specification has no node %q", node)
	}
	if s.Agent.Kind != AgentBinary && s.Agent.Path != "" { // for some nodes only, of which this may be the last
		for j := range list {
			if a := &list[j].Agent; a.Kind == AgentBinary && a.Path == "" {
				a.Path = s.Agent.Path
			}
		}
		s.Agent.Path = ""
	}
	a := &list[i].Agent
	a.Kind, a.Path, a.Image = kind, path, ""
	if kind == s.Agent.Kind && path == s.Agent.Path {
		a.Kind, a.Path = "", ""
	}
	s.Nodes = Nodes{List: list}
	if alike(list) {
		s.Nodes = Nodes{Count: len(list)}
	}
	return s, nil
}

// alike tells whether the nodes' number says all of them.
func alike(list []Node) bool {
	for i, n := range list {
		if !reflect.DeepEqual(n, Node{Name: nodeName(i)}) {
			return false
		}
	}
	return true
}
