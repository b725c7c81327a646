package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
)

// Word is one thing that a step can name.
type Word struct {
	Step    string   // do, or fault and mend
	Name    string   //
	Needs   string   // nodes, component, program
	Options []string // names in `with`; those that must be given have a * behind them
	About   string
}

// Vocabulary is all that a step can do or break, in the order of the names.
func Vocabulary() []Word {
	var out []Word
	for _, name := range slices.Sorted(maps.Keys(actions)) {
		a := actions[name]
		w := Word{Step: "do", Name: name, About: a.about, Options: slices.Clone(a.options)}
		for _, r := range a.required {
			w.Options = append(w.Options, r+"*")
		}
		switch {
		case a.maxNodes == many:
			w.Needs = "nodes"
		case a.maxNodes > 0:
			w.Needs = a.nodeWords()
		case a.component:
			w.Needs = "component"
		}
		if a.program {
			if w.Needs != "" {
				w.Needs += ", "
			}
			w.Needs += "run"
		}
		out = append(out, w)
	}
	for _, f := range control.Faults {
		w := Word{Step: "fault, mend", Name: f.Kind, About: f.About}
		if f.Momentary {
			w.Step = "fault"
		}
		switch {
		case f.Nodes == 1:
			w.Needs = "1 node"
		case f.Nodes > 1:
			w.Needs = fmt.Sprintf("%d nodes", f.Nodes)
		case len(f.Components) > 0:
			w.Needs = strings.Join(f.Components, " or ")
		}
		for _, o := range f.Options {
			w.Options = append(w.Options, o.Name)
		}
		out = append(out, w)
	}
	return out
}

// Cast are the steps with the nodes' names in place of the words for them, as a run with that seed has them.
func (s Scenario) Cast(seed uint64) []Step {
	c := newCast(s, seed)
	var out []Step
	for _, step := range s.Steps {
		step = c.step(step)
		if step.Expect == nil && step.Never == nil {
			c.name(step.Nodes)
			for _, n := range step.Nodes {
				switch step.Do {
				case control.ActionAdd:
					c.join(n)
				case control.ActionRemove:
					c.leave(n)
				}
			}
		}
		out = append(out, step)
	}
	return out
}
