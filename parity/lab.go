package parity

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// kind is one kind of agent: the names of its nodes, and where in its folder it keeps its AK.
type kind struct{ name, other, measured, boots, akFile string }

var kinds = []kind{
	{"own", "own-2", "own-measured", "own-boots", "agent.json"},
	{"real", "real-2", "real-measured", "real-boots", "agent_data.json"},
}

// payload is what nodes that measure are given in the pull model.
const payload = "not a real secret"

// allowedFile is one that the runtime policy allows and that no start measures.
const allowedFile = "/usr/bin/curl"

// stage is one of the labs in which agents are compared.
type stage struct {
	name string
	mode spec.Mode
	// told: the verifier tells agents of those that it no longer trusts, which makes other payloads of them. The node that fails measures files.
	told bool
}

var (
	pullStage = stage{name: "pull", mode: spec.ModePull}
	toldStage = stage{name: "told", mode: spec.ModePull, told: true}
	pushStage = stage{name: "push", mode: spec.ModePush}
	stages    = []stage{pullStage, toldStage, pushStage}
)

// cases are the verdicts of the stage's lab.
func (s stage) cases() []VerdictCase {
	if s.told {
		return toldCases()
	}
	return verdictCasesOf(s.mode)
}

// spec is the stage's lab: of each kind of agent two nodes, so that hostnames can be swapped among agents of one kind, one whose files are measured, and one
// whose boot is: what comes of a list that a reboot began anew would hide what comes of the boot.
func (s stage) spec(agent string) (spec.Spec, error) {
	mode := s.mode
	var text strings.Builder
	interval := "500ms"
	if mode == spec.ModePush {
		interval = "2s"
	}
	fmt.Fprintf(&text, "apiVersion: keylab/v1alpha1\nkind: Lab\nname: parity-%s\ntimeouts: {ready: 10m}\nkeylime:\n  mode: %s\n  quoteInterval: %s\n", s.name, mode, interval)
	if s.told {
		text.WriteString(toldRevocation)
	}
	fmt.Fprintf(&text, "  options:\n    verifier:\n")
	// A reboot of the machine must not be too long for the verifier, whose retries are a second apart.
	fmt.Fprintf(&text, "      max_retries: \"10\"\n      retry_interval: \"1\"\n")
	if mode == spec.ModePush { // every start wants a session
		fmt.Fprintf(&text, "      session_create_rate_limit_per_agent: \"1000\"\n")
	}
	fmt.Fprintf(&text, "ima: {files: [{path: /usr/lib/systemd/systemd}, {path: %s, atBoot: false}]}\nnodes:\n", allowedFile)
	for i, k := range kinds {
		program := ""
		if i == 1 {
			program = ", agent: {kind: binary, path: " + strconv.Quote(agent) + "}"
		}
		measured := "ima: {enabled: true}"
		if mode == spec.ModePull {
			measured += ", payload: {inline: " + strconv.Quote(payload) + "}"
		}
		if s.told {
			fmt.Fprintf(&text, "  - {name: %s%s}\n  - {name: %s%s, ima: {enabled: true}}\n", k.name, program, k.other, program)
			continue
		}
		fmt.Fprintf(&text, "  - {name: %s%s}\n  - {name: %s%s}\n  - {name: %s%s, %s}\n  - {name: %s%s, measuredBoot: {enabled: true}}\n",
			k.name, program, k.other, program, k.measured, program, measured, k.boots, program)
	}
	return spec.Decode("parity.yaml", []byte(text.String()))
}

// machines are the nodes with one kind of agent that things are done to; nil: the lab has no such.
type machines struct{ plain, measured, boots *machine }

// of is the one that a case is for.
func (m machines) of(c VerdictCase) *machine {
	switch {
	case c.measured:
		return m.measured
	case c.boots:
		return m.boots
	}
	return m.plain
}

func (k kind) machines(ctx context.Context, l *lab.Lab, p plan.Plan) (m machines, err error) {
	m.plain = &machine{lab: l, plan: p, name: k.name, other: k.other, akFile: k.akFile}
	m.measured = &machine{lab: l, plan: p, name: k.measured, other: k.other, akFile: k.akFile}
	m.boots = &machine{lab: l, plan: p, name: k.boots, other: k.other, akFile: k.akFile}
	for _, one := range []**machine{&m.plain, &m.measured, &m.boots} {
		if _, ok := p.Node((*one).name); !ok {
			*one = nil
			continue
		}
		if err := (*one).look(ctx); err != nil {
			return m, err
		}
	}
	return m, nil
}

// overdue is how long an agent of the push model may be overdue before that is the verdict: one that was started again is so for a moment.
const overdue = 20 * time.Second
