package spec

import (
	"fmt"
	"path/filepath"
	"slices"
)

// ResolvePaths makes every path of the lab absolute, given the file that it was read from, to whose directory paths are relative.
func (s *Spec) ResolvePaths(file string) error {
	from := resolver{dir: filepath.Dir(file)}
	from.resolve("the agent's program", &s.Agent.Path)
	from.resolve("the payload", &s.Payload.File)
	s.Keylime.Revocation.Actions = slices.Clone(s.Keylime.Revocation.Actions)
	for i := range s.Keylime.Revocation.Actions {
		from.resolve("the revocation action", &s.Keylime.Revocation.Actions[i].File)
	}
	s.Nodes.List = slices.Clone(s.Nodes.List)
	for i := range s.Nodes.List {
		from.node(&s.Nodes.List[i])
	}
	return from.err
}

// ResolvePaths is that for a node's definition.
func (n *Node) ResolvePaths(file string) error {
	from := resolver{dir: filepath.Dir(file)}
	from.node(n)
	return from.err
}

type resolver struct {
	dir string
	err error // the first
}

func (r *resolver) node(n *Node) {
	r.resolve("the agent's program", &n.Agent.Path)
	r.resolve("the payload", &n.Payload.File)
	n.Mounts = slices.Clone(n.Mounts)
	for i := range n.Mounts {
		r.resolve("what is mounted", &n.Mounts[i].HostPath)
	}
}

func (r *resolver) resolve(what string, path *string) {
	if *path == "" || filepath.IsAbs(*path) {
		return
	}
	absolute, err := filepath.Abs(filepath.Join(r.dir, *path))
	if err != nil {
		if r.err == nil {
			r.err = fmt.Errorf("the path of %s, %s: %w", what, *path, err)
		}
		return
	}
	*path = absolute
}
