package scenario

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// template is what stands for something of a node in a program's arguments.
var template = regexp.MustCompile(`\$\{([a-z0-9-]+)\.([a-z]+)\}`)

// cast is who plays which part in a run: the lab's nodes, and the one that `any` means.
type cast struct {
	nodes []string
	any   string
	named map[string]bool // by the steps so far
}

func newCast(s Scenario, seed uint64) *cast {
	c := &cast{named: map[string]bool{}}
	for _, n := range s.Lab.EffectiveNodes() {
		c.nodes = append(c.nodes, n.Name)
	}
	c.any = c.nodes[rand.New(rand.NewPCG(seed, 0)).IntN(len(c.nodes))]
	return c
}

// resolve replaces the words that stand for nodes by their names.
func (c *cast) resolve(words []string) []string {
	var out []string
	for _, w := range words {
		switch w {
		case "any":
			out = append(out, c.any)
		case "all":
			out = append(out, c.nodes...)
		case "others":
			for _, n := range c.nodes {
				if !c.named[n] {
					out = append(out, n)
				}
			}
		default:
			out = append(out, w)
		}
	}
	return out
}

// name notes that a step does something to these nodes.
func (c *cast) name(nodes []string) {
	for _, n := range nodes {
		c.named[n] = true
	}
}

// join notes that the lab has one more node; leave that it has one less. What a step has in mind with a word for nodes changes with them.
func (c *cast) join(node string) {
	if !slices.Contains(c.nodes, node) {
		c.nodes = append(slices.Clone(c.nodes), node)
	}
}

func (c *cast) leave(node string) {
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(n string) bool { return n == node })
}

// step is the step with the nodes' names in place of the words for them.
func (c *cast) step(s Step) Step {
	s.Nodes = c.resolve(s.Nodes)
	for _, w := range []**Condition{&s.Expect, &s.Never} {
		if *w != nil {
			resolved := **w
			resolved.Nodes = c.resolve(resolved.Nodes)
			if n := resolved.Notice; n != nil {
				notice := *n
				notice.About = c.resolve([]string{n.About})[0]
				resolved.Notice = &notice
			}
			*w = &resolved
		}
	}
	return s
}

// expand puts what the nodes are now in place of ${NODE.uuid} and the like.
func (c *cast) expand(argv []string, status control.Status) ([]string, error) {
	out := slices.Clone(argv)
	var err error
	for i, arg := range argv {
		out[i] = template.ReplaceAllStringFunc(arg, func(text string) string {
			m := template.FindStringSubmatch(text)
			name := c.resolve([]string{m[1]})[0]
			j := slices.IndexFunc(status.Nodes, func(n control.Node) bool { return n.Name == name })
			if j < 0 {
				err = fmt.Errorf("%s: the lab has no node %q now", text, name)
				return text
			}
			return map[string]string{"uuid": status.Nodes[j].UUID, "hostname": status.Nodes[j].Hostname, "address": status.Nodes[j].Address}[m[2]]
		})
	}
	return out, err
}

// matches tells whether a name is one that the pattern stands for, in which * is any text.
func matches(pattern, name string) bool {
	ok, _ := regexp.MatchString("^"+strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")+"$", name)
	return ok
}

// Sentence is the step in one line.
func (s Step) Sentence() string {
	if s.Name != "" {
		return s.Name
	}
	of := ""
	if len(s.Nodes) > 0 {
		of = " " + strings.Join(s.Nodes, " and ")
	}
	if s.Component != "" {
		of += " " + s.Component
	}
	var with []string
	for name, value := range s.With {
		with = append(with, name+"="+value)
	}
	slices.Sort(with)
	if len(with) > 0 {
		of += " (" + strings.Join(with, ", ") + ")"
	}
	if len(s.Run) > 0 {
		of += ": " + strings.Join(s.Run, " ")
	}
	if s.Refused != "" {
		of += fmt.Sprintf(", which must be refused: %q", s.Refused)
	}
	switch {
	case s.Do != "":
		return s.Do + of
	case s.Fault != "":
		return "break: " + s.Fault + of
	case s.Mend != "":
		return "mend: " + s.Mend + of
	case s.Expect != nil:
		return "expect " + s.Expect.sentence()
	case s.Never != nil:
		return "never " + s.Never.sentence()
	}
	return "go on for " + s.Hold.String()
}

// sentence is the condition in a few words.
func (w Condition) sentence() string {
	detail := ""
	if w.Detail != "" {
		detail = fmt.Sprintf(" with %q", w.Detail)
	}
	switch {
	case len(w.Nodes) > 0:
		text := strings.Join(w.Nodes, " and ")
		if w.State != "" {
			text += " " + w.State
		}
		if w.Attestations > 0 {
			text += ", " + plural(w.Attestations, "good attestation") + " more"
		}
		return text + detail
	case w.Component != "":
		return w.Component + " " + w.State + detail
	case w.Verify == "passed":
		return "every check of verify to pass"
	case w.Verify == "failed":
		return "verify to fail by exactly " + strings.Join(w.Fails, ", ")
	case w.Notice != nil:
		text := "a notice about " + w.Notice.About
		if w.Notice.Receiver != "" {
			text += " at " + w.Notice.Receiver
		}
		if w.Notice.Event != "" {
			text += fmt.Sprintf(" with %q", w.Notice.Event)
		}
		if w.Notice.Action != "" {
			text += fmt.Sprintf(", and the action %s to end well", w.Notice.Action)
		}
		return text
	case w.Log != "":
		return fmt.Sprintf("%s with %q in the log of %s", plural(max(1, w.More), "line"), w.Output, w.Log)
	case w.HTTP != nil:
		return w.HTTP.sentence(w.Output)
	case w.Counter != "":
		return fmt.Sprintf("%s to grow by %d", w.Counter, max(1, w.More))
	}
	text := fmt.Sprintf("%q on %s to end with %d", strings.Join(w.Run, " "), w.On, w.Exit)
	if w.Output != "" {
		text += fmt.Sprintf(" and print %q", w.Output)
	}
	return text
}

// Nodes are the names of the lab's nodes.
func (s Scenario) Nodes() []string {
	var names []string
	for _, n := range s.Lab.EffectiveNodes() {
		names = append(names, n.Name)
	}
	return names
}

// ErrNotFor: a scenario that means nothing in this mode, or on this substrate.
var ErrNotFor = errors.New("not for")

// In is the scenario as it runs in a model of attestation, or why it cannot: the lab's mode is set, and the steps that are for the other one are left out.
func (s Scenario) In(mode spec.Mode) (Scenario, error) {
	if mode == "" {
		mode = s.Modes[0]
	}
	if !slices.Contains(s.Modes, mode) {
		return s, fmt.Errorf("scenario %s is %w mode %s", s.Name, ErrNotFor, mode)
	}
	s.Lab.Keylime.Mode = mode
	s.Lab.Networks.Allow = nil // as the mode has them by default
	s.Steps = slices.DeleteFunc(slices.Clone(s.Steps), func(step Step) bool { return step.Only != "" && step.Only != mode })
	s.Lab.SetDefaults()
	return s, s.Lab.Validate()
}
