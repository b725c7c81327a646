package main

import (
	"fmt"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/scenario"
)

// made is the note on every page.
const made = "<!-- Made from the library in scenarios/ by \"make docs\"; changes here are lost. -->\n\n"

// index is the list of all pages, by topic.
func index(all []scenario.Scenario) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The library of scenarios\n\n%s", made)
	fmt.Fprintf(&b, `A scenario is an experiment with a whole lab: something is done or broken, it is seen to be, and what must follow is expected by a deadline, or must not follow at all. There are
%d. Each is a file, which is run on real labs; its page says what Keylime does, and what that means for a fleet.

`+"```console"+`
$ keylab run NAME               # one: a lab comes up, the steps are carried out, the lab goes, a report stays
$ keylab run --all --mode all   # every one, in each model of attestation that it is for
`+"```"+`

[Writing one](writing.md) is a short tutorial; [vocabulary](vocabulary.md) lists all that a step can do or break.
`, len(all))
	for _, topic := range scenario.Topics {
		of := slices.DeleteFunc(slices.Clone(all), func(s scenario.Scenario) bool { return s.Topic != topic })
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| scenario | what is tried | modes | substrates |\n|---|---|---|---|\n", topic.Heading())
		for _, s := range of {
			fmt.Fprintf(&b, "| [%s](%s.md) | %s | %s | %s |\n", s.Name, s.Name, inline(s.Title), join(s.Modes, ", "), join(s.Substrates, ", "))
		}
	}
	return b.String()
}

// page is that of one scenario.
func page(s scenario.Scenario) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s", inline(s.Title), made)
	fmt.Fprintf(&b, "[%s](README.md#%s) · %s %s · %s %s · %s\n", s.Topic.Heading(), anchor(s.Topic.Heading()),
		plural(len(s.Modes), "mode"), join(s.Modes, " and "), plural(len(s.Substrates), "substrate"), join(s.Substrates, " and "), count(len(s.Nodes()), "node"))
	for _, part := range []struct{ heading, text string }{
		{"Question", s.About.Question}, {"What happens", s.About.Happens}, {"Why", s.About.Why}, {"What it means for a fleet", s.About.Fleet},
	} {
		if text := strings.TrimSpace(part.text); text != "" {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", part.heading, prose(text))
		}
	}
	b.WriteString("\n## The steps\n\n")
	for i, step := range s.Steps {
		fmt.Fprintf(&b, "%d. %s\n", i+1, sentence(step, s.Steps))
	}
	fmt.Fprintf(&b, "\n## Run it\n\n```console\n$ keylab run %s\n", s.Name)
	if len(s.Modes) > 1 {
		fmt.Fprintf(&b, "$ keylab run %s --mode all\n", s.Name)
	}
	if slices.Contains(s.Substrates, spec.SubstrateKind) {
		fmt.Fprintf(&b, "$ keylab run %s --substrate kind\n", s.Name)
	}
	fmt.Fprintf(&b, "```\n\nThe file is [scenarios/%[1]s.yaml](../../scenarios/%[1]s.yaml); `keylab scenario show %[1]s` prints it, to begin one of your own ([how](writing.md)) with.\n", s.Name)
	return b.String()
}

// The words for nodes, and those in what must never be, where each of them is meant.
var (
	words      = map[string]string{"any": "one node", "all": "every node", "others": "every other node"}
	neverWords = map[string]string{"any": "the one node", "all": "any node", "others": "any other node"}
)

func inWords(nodes []string, words map[string]string) []string {
	var out []string
	for _, n := range nodes {
		if w, ok := words[n]; ok {
			n = w
		}
		out = append(out, n)
	}
	return out
}

// sentence is a step as a list item; steps are all of them.
func sentence(s scenario.Step, steps []scenario.Step) string {
	name, refused := s.Name, s.Refused
	s.Name, s.Refused, s.Nodes = "", "", inWords(s.Nodes, words)
	for c, words := range map[**scenario.Condition]map[string]string{&s.Expect: words, &s.Never: neverWords} {
		if *c != nil {
			worded := **c
			worded.Nodes = inWords(worded.Nodes, words)
			*c = &worded
		}
	}
	var text string
	switch said := s.Sentence(); {
	case s.Do != "":
		text = "**do** `" + s.Do + "`" + inline1(strings.TrimPrefix(said, s.Do))
	case s.Fault != "":
		text = "**break** `" + s.Fault + "`" + inline1(strings.TrimPrefix(said, "break: "+s.Fault))
	case s.Mend != "":
		text = "**mend** `" + s.Mend + "`" + inline1(strings.TrimPrefix(said, "mend: "+s.Mend))
	case s.Hold != 0:
		text = said
	default:
		kind, rest, _ := strings.Cut(said, " ")
		text = "**" + kind + "** " + inline(rest)
	}
	if s.Leave {
		text += ", without telling the verifier"
	}
	if s.Within > 0 {
		text += ", within " + s.Within.String()
	}
	switch {
	case s.Since == "":
	case s.Since == "start":
		text += ", since the start"
	case s.Since == "now":
		text += ", from now on"
	default:
		text += fmt.Sprintf(", since step %d", 1+slices.IndexFunc(steps, func(o scenario.Step) bool { return o.ID == s.Since }))
	}
	if refused != "" {
		text += ", which must be refused, with a text that matches `" + refused + "`"
	}
	if s.Only != "" {
		text += "; only in mode " + string(s.Only)
	}
	for _, w := range scenario.Vocabulary() {
		if s.Do == w.Name && w.Step == "do" || s.Fault == w.Name && w.Step != "do" {
			text += ": " + inline(w.About)
		}
	}
	if name != "" {
		text = inline(name) + ": " + text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// inline1 is inline, with the blank at the beginning kept.
func inline1(s string) string {
	if strings.HasPrefix(s, " ") {
		return " " + inline(s)
	}
	return inline(s)
}

// vocabulary is the list of all actions and faults.
func vocabulary(list []scenario.Word) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What a step can do or break\n\n%s`keylab scenario actions` prints the same. [Writing a scenario](writing.md) says how steps are put together.\n", made)
	for _, part := range []struct{ heading, intro, step string }{
		{"Actions", "`do` names an action; `nodes`, `run` and `with` say to what, and how. An option with a * must be given.", "do"},
		{"Faults", "`fault` breaks something, and the step ends when that was seen; `mend` mends it. Those that last a moment only cannot be mended.", "fault"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| name | needs | options in `with` | what it does |\n|---|---|---|---|\n", part.heading, part.intro)
		for _, w := range list {
			if !strings.HasPrefix(w.Step, part.step) {
				continue
			}
			about := w.About
			if w.Step == "fault" {
				about += "; lasts a moment only"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", w.Name, w.Needs, strings.Join(w.Options, ", "), inline(about))
		}
	}
	return b.String()
}

// marks are the characters of plain text that Markdown could take for markup. An underscore between letters is none.
var marks = strings.NewReplacer(`\`, `\\`, "*", `\*`, "<", "&lt;", "|", `\|`, "[", `\[`, "]", `\]`)

// inline is plain text as one line of Markdown.
func inline(s string) string { return marks.Replace(strings.Join(strings.Fields(s), " ")) }

// prose is plain text in paragraphs as Markdown.
func prose(s string) string { return marks.Replace(s) }

func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), " ", "-") }

func join[T ~string](list []T, by string) string {
	var out []string
	for _, v := range list {
		out = append(out, string(v))
	}
	return strings.Join(out, by)
}

func plural(n int, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}

func count(n int, what string) string { return fmt.Sprintf("%d %s", n, plural(n, what)) }
