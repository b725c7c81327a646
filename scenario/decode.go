package scenario

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/spec"
)

// Decode reads a scenario from a YAML document, as strictly as a lab is read, and fills in what it leaves out. The name is the file's, for messages and
// for paths, which are relative to its directory and become absolute. An error is a *spec.InvalidError with every problem that the document has.
func Decode(name string, data []byte) (Scenario, error) {
	var s Scenario
	err := spec.DecodeDocument(name, data, spec.Form{Kind: Kind, Noun: "scenario"}, &s, s.check)
	if err != nil {
		return Scenario{}, err
	}
	if err := errors.Join(s.Lab.ResolvePaths(name), s.resolveAgents(name)); err != nil {
		return Scenario{}, err
	}
	return s, nil
}

// check completes the scenario and looks for what no single value shows.
func (s *Scenario) check() []spec.Finding {
	if s.Topic == "" {
		s.Topic = "other"
	}
	if s.Lab.Name == "" {
		s.Lab.Name = "lab" // each run gives it one of its own
	}
	found := s.Lab.Findings("lab")
	if len(s.Modes) == 0 {
		s.Modes = []spec.Mode{s.Lab.Keylime.Mode}
	}
	if len(s.Substrates) == 0 {
		s.Substrates = []spec.Substrate{spec.SubstrateNetns, spec.SubstrateKind}
	}
	c := checker{scenario: s, found: found, members: s.Lab.Nodes, ids: map[string]bool{"start": true, "now": true}}
	for i, m := range s.Modes {
		c.oneOf(fmt.Sprintf("modes[%d]", i), string(m), string(spec.ModePull), string(spec.ModePush))
	}
	if len(found) == 0 {
		found = s.otherModes()
		c.found = append(c.found, found...)
	}
	for i, m := range s.Substrates {
		c.oneOf(fmt.Sprintf("substrates[%d]", i), string(m), string(spec.SubstrateNetns), string(spec.SubstrateKind))
	}
	for _, n := range s.Lab.EffectiveNodes() {
		c.nodes = append(c.nodes, n.Name)
	}
	if len(s.Steps) == 0 {
		c.add("steps", "is an empty list; a scenario needs a step", "")
	}
	expects := false
	for i, step := range s.Steps {
		c.step(fmt.Sprintf("steps[%d]", i), step)
		expects = expects || step.Expect != nil || step.Never != nil || step.Refused != ""
	}
	if len(s.Steps) > 0 && !expects {
		c.add("steps", "expect nothing: add a step with expect, never or refused, or the scenario cannot fail", "")
	}
	if len(c.found) == 0 {
		c.nobody()
	}
	return c.found
}

// nobody finds steps whose word for nodes stands for none, in one of the modes: they would pass without having looked at anything.
func (c *checker) nobody() {
	seen := map[string]bool{}
	for _, m := range c.scenario.Modes {
		in, at := *c.scenario, []int{}
		in.Steps = nil
		for i, step := range c.scenario.Steps {
			if step.Only == "" || step.Only == m {
				in.Steps, at = append(in.Steps, step), append(at, i)
			}
		}
		for j, cast := range in.Cast(0) {
			path := fmt.Sprintf("steps[%d]", at[j])
			for _, w := range []struct {
				path       string
				said, with []string
			}{
				{path + ".nodes", in.Steps[j].Nodes, cast.Nodes},
				{path + ".expect.nodes", about(in.Steps[j].Expect), about(cast.Expect)},
				{path + ".never.nodes", about(in.Steps[j].Never), about(cast.Never)},
			} {
				if len(w.said) > 0 && len(w.with) == 0 && !seen[w.path] {
					seen[w.path] = true
					c.add(w.path, fmt.Sprintf("%s are none: the steps before name every node of the lab; name those that are meant", strings.Join(w.said, ", ")), "")
				}
			}
		}
	}
}

// about are the nodes of a condition, if there is one.
func about(w *Condition) []string {
	if w == nil {
		return nil
	}
	return w.Nodes
}

// otherModes are the problems that the lab has in the modes that it does not name itself.
func (s *Scenario) otherModes() (found []spec.Finding) {
	for _, m := range s.Modes {
		if m == s.Lab.Keylime.Mode || len(found) > 0 || m != spec.ModePull && m != spec.ModePush {
			continue
		}
		other, err := s.In(m)
		var invalid *spec.InvalidError
		if errors.As(err, &invalid) {
			for _, p := range other.Lab.Findings("lab") {
				p.Message += fmt.Sprintf(" (in mode %s, which modes names)", m)
				found = append(found, p)
			}
		}
	}
	return found
}

type checker struct {
	scenario *Scenario
	nodes    []string
	members  spec.Nodes // with the nodes that joined and left by the steps so far
	ids      map[string]bool
	acted    bool // something was done, broken or mended
	found    []spec.Finding
}

func (c *checker) add(path, message, allowed string) {
	c.found = append(c.found, spec.Finding{Path: path, Message: message, Allowed: allowed})
}

func (c *checker) oneOf(path, got string, allowed ...string) bool {
	if slices.Contains(allowed, got) {
		return true
	}
	c.add(path, fmt.Sprintf("%q is not one of %s%s", got, strings.Join(allowed, ", "), spec.DidYouMean(got, allowed)), strings.Join(allowed, ", "))
	return false
}

func (c *checker) pattern(path, text string) {
	if _, err := regexp.Compile(text); err != nil {
		c.add(path, fmt.Sprintf("%q is no regular expression: %v", text, err), "")
	}
}

func (c *checker) step(path string, s Step) {
	var is []string
	for name, given := range map[string]bool{"do": s.Do != "", "fault": s.Fault != "", "mend": s.Mend != "", "expect": s.Expect != nil, "never": s.Never != nil, "hold": s.Hold != 0} {
		if given {
			is = append(is, name)
		}
	}
	slices.Sort(is)
	const kinds = "do, fault, mend, expect, never, hold"
	switch len(is) {
	case 0:
		c.add(path, "does nothing: give it one of "+kinds, kinds)
		return
	case 1:
	default:
		c.add(path+"."+is[1], fmt.Sprintf("a step has one of %s, and this one has %s: make them steps of their own", kinds, strings.Join(is, " and ")), kinds)
		return
	}
	kind := is[0]
	acts := kind == "do" || kind == "fault" || kind == "mend"
	c.belongs(path, kind, map[string]bool{
		"nodes":     len(s.Nodes) == 0 || acts,
		"component": s.Component == "" || acts,
		"with":      len(s.With) == 0 || kind == "do" || kind == "fault",
		"run":       len(s.Run) == 0 || kind == "do",
		"refused":   s.Refused == "" || kind == "do",
		"leave":     !s.Leave || kind == "mend",
		"since":     s.Since == "" || kind == "expect" || kind == "never",
		"within":    s.Within == 0 || kind != "never" && kind != "hold" && kind != "do",
	})
	if s.ID != "" && c.ids[s.ID] {
		c.add(path+".id", fmt.Sprintf("%q is the id of a step before this one, or a word of its own", s.ID), "")
	}
	if s.Since != "" && !c.ids[s.Since] {
		c.add(path+".since", fmt.Sprintf("no step before this one has the id %q; there are %s", s.Since, strings.Join(slices.Sorted(maps.Keys(c.ids)), ", ")), "")
	}
	c.ids[s.ID] = true
	c.pattern(path+".refused", s.Refused)
	c.known(path+".nodes", s.Nodes, "any", "all")
	c.templates(path+".run", s.Run)
	switch kind {
	case "do":
		c.action(path, s)
	case "fault":
		c.fault(path+".fault", control.Fault{Kind: s.Fault, Nodes: s.Nodes, Component: s.Component, Options: s.With})
	case "mend":
		c.fault(path+".mend", control.Fault{Kind: s.Mend, Nodes: s.Nodes, Component: s.Component, Clear: true, Leave: s.Leave})
	case "expect":
		c.condition(path+".expect", *s.Expect)
	case "never":
		c.condition(path+".never", *s.Never)
		if n := *s.Never; n.Verify != "" || n.Log != "" || len(n.Run) > 0 || n.HTTP != nil {
			c.add(path+".never", "can be about nodes, a component, a notice or a counter: what the history tells. verify, log, run and http are for expect", "")
		}
	}
	c.acted = c.acted || acts
}

func (c *checker) belongs(path, kind string, fits map[string]bool) {
	for _, field := range slices.Sorted(maps.Keys(fits)) {
		if !fits[field] {
			c.add(path+"."+field, "means nothing in a step with "+kind+": remove it", "")
		}
	}
}

// known checks names of nodes.
func (c *checker) known(path string, nodes []string, words ...string) {
	for i, n := range nodes {
		if !slices.Contains(c.nodes, n) && !slices.Contains(words, n) && !c.joins(n) {
			c.add(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("the lab has no node %q; it has %s", n, strings.Join(c.nodes, ", ")), strings.Join(append(c.nodes, words...), ", "))
		}
	}
}

// joins tells whether some step adds the node to the lab.
func (c *checker) joins(node string) bool {
	return slices.ContainsFunc(c.scenario.Steps, func(s Step) bool { return s.Do == control.ActionAdd && slices.Contains(s.Nodes, node) })
}

// changeMembers checks the names of nodes that join or leave, by those that the lab has then.
func (c *checker) changeMembers(path string, s Step) {
	for i, n := range s.Nodes {
		at := fmt.Sprintf("%s[%d]", path, i)
		there := slices.ContainsFunc(c.members.All(), func(m spec.Node) bool { return m.Name == n })
		switch {
		case n == "any" || n == "all":
			c.add(at, fmt.Sprintf("%s needs the names of nodes, not %s", s.Do, n), "")
		case s.Do == control.ActionAdd && there:
			c.add(at, fmt.Sprintf("the lab has a node %q then", n), "")
		case s.Do == control.ActionAdd:
			lab := c.scenario.Lab
			c.members = c.members.With(spec.Node{Name: n})
			lab.Nodes = c.members
			var invalid *spec.InvalidError
			if err := lab.Validate(); len(c.found) == 0 && errors.As(err, &invalid) {
				c.add(at, fmt.Sprintf("%q cannot join: %s", n, invalid.Problems[0].Message), "")
			}
		case !there:
			c.add(at, fmt.Sprintf("the lab has no node %q then", n), "")
		default:
			c.members = c.members.Without(n)
		}
	}
}

func (c *checker) fault(path string, f control.Fault) {
	if !c.oneOf(path, f.Kind, control.FaultNames()...) {
		return
	}
	if err := f.Check(); err != nil {
		c.add(path, err.Error(), "")
	}
}

func (c *checker) action(path string, s Step) {
	a, ok := actions[s.Do]
	if !ok {
		c.oneOf(path+".do", s.Do, slices.Sorted(maps.Keys(actions))...)
		return
	}
	if control.AboutMembers(s.Do) {
		c.changeMembers(path+".nodes", s)
	}
	if n := len(s.Nodes); n < a.minNodes || n > a.maxNodes {
		c.add(path+".nodes", fmt.Sprintf("%s needs %s, not %d", s.Do, a.nodeWords(), n), "")
	}
	if a.component != (s.Component != "") {
		c.add(path+".component", s.Do+map[bool]string{true: " needs a component", false: " is about no component: remove it"}[a.component], "")
	}
	if a.program != (len(s.Run) > 0) {
		c.add(path+".run", s.Do+map[bool]string{true: " needs a program and its arguments", false: " runs no program: remove it"}[a.program], "")
	}
	for _, name := range slices.Sorted(maps.Keys(s.With)) {
		if !slices.Contains(a.options, name) && !slices.Contains(a.required, name) {
			can := append(slices.Clone(a.required), a.options...)
			c.add(path+".with."+name, fmt.Sprintf("%s has no option %q; it has %s", s.Do, name, orNone(can)), strings.Join(can, ", "))
		}
	}
	for _, name := range a.required {
		if s.With[name] == "" {
			c.add(path+".with", fmt.Sprintf("%s needs the option %q", s.Do, name), "")
			return
		}
	}
	if a.check != nil {
		if option, err := a.check(s.With); err != nil {
			c.add(path+".with."+option, err.Error(), "")
		}
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func (c *checker) condition(path string, w Condition) {
	about := map[string]bool{
		"nodes": len(w.Nodes) > 0, "component": w.Component != "", "verify": w.Verify != "", "notice": w.Notice != nil, "counter": w.Counter != "", "log": w.Log != "", "run": len(w.Run) > 0, "http": w.HTTP != nil,
	}
	var is []string
	for _, name := range slices.Sorted(maps.Keys(about)) {
		if about[name] {
			is = append(is, name)
		}
	}
	const kinds = "nodes, component, verify, notice, counter, log, run, http"
	if len(is) != 1 {
		c.add(path, fmt.Sprintf("is about one of %s; this is about %s", kinds, orNone(is)), kinds)
		return
	}
	kind := is[0]
	stateful := kind == "nodes" || kind == "component"
	c.belongs(path, kind, map[string]bool{
		"state":        w.State == "" || stateful,
		"detail":       w.Detail == "" || stateful,
		"attestations": w.Attestations == 0 || kind == "nodes",
		"fails":        len(w.Fails) == 0 || kind == "verify" && w.Verify == "failed",
		"more":         w.More == 0 || kind == "counter" || kind == "log",
		"on":           w.On == "" || kind == "run",
		"exit":         w.Exit == 0 || kind == "run",
		"output":       w.Output == "" || kind == "run" || kind == "log" || kind == "http",
	})
	c.known(path+".nodes", w.Nodes, "any", "all", "others")
	c.templates(path+".run", w.Run)
	c.pattern(path+".detail", w.Detail)
	c.pattern(path+".output", w.Output)
	switch {
	case stateful && w.State == "" && w.Detail == "" && w.Attestations == 0:
		c.add(path, "says nothing of "+kind+": add state, detail or attestations", "")
	case kind == "nodes" && w.State != "":
		c.oneOf(path+".state", w.State, append(slices.Clone(fleet.States), stateGone)...)
	case kind == "component" && w.State != "":
		c.oneOf(path+".state", w.State, "running", "starting", "dead")
	case kind == "verify" && w.Verify == "failed" && len(w.Fails) == 0:
		c.add(path, "verify: failed needs the names of the checks that fail: add fails", "")
	case kind == "log" && w.Output == "":
		c.add(path, "log needs something to look for: add output", "")
	case kind == "run" && w.On == "":
		c.add(path, "run needs a host to run on: add on", "")
	case kind == "http":
		c.http(path+".http", *w.HTTP)
	case kind == "notice":
		c.pattern(path+".notice.event", w.Notice.Event)
		c.known(path+".notice.about", []string{w.Notice.About})
	}
}

// templates checks what ${…} stands for.
func (c *checker) templates(path string, argv []string) {
	for i, arg := range argv {
		c.template(fmt.Sprintf("%s[%d]", path, i), arg)
	}
}

func (c *checker) template(at, text string) {
	for _, m := range template.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(c.nodes, m[1]) && m[1] != "any" && !c.joins(m[1]) {
			c.add(at, fmt.Sprintf("%s: the lab has no node %q; it has %s", m[0], m[1], strings.Join(c.nodes, ", ")), "")
		} else {
			c.oneOf(at, m[2], "uuid", "hostname", "address")
		}
	}
}
