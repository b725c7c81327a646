package control_test

import (
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/control"
)

// Every kind is described, and its defaults are values that it takes.
func TestFaultKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range control.Faults {
		if seen[k.Kind] || k.Kind == "" || k.About == "" {
			t.Errorf("kind %q: there twice, or not described: %+v", k.Kind, k)
		}
		seen[k.Kind] = true
		f := control.Fault{Kind: k.Kind, Options: map[string]string{}}
		f.Nodes = []string{"a", "b"}[:k.Nodes]
		if len(k.Components) > 0 {
			f.Component = k.Components[0]
		}
		if err := f.Check(); err != nil {
			t.Errorf("%s without options: %v", k.Kind, err)
		}
		for _, o := range k.Options {
			f.Options[o.Name] = o.Default
		}
		if err := f.Check(); err != nil {
			t.Errorf("%s with its defaults: %v", k.Kind, err)
		}
		f.Clear = true
		if err := f.Check(); (err == nil) == k.Momentary {
			t.Errorf("mend %s, momentary %v: %v", k.Kind, k.Momentary, err)
		}
	}
}

func TestFaultOptions(t *testing.T) {
	f := control.Fault{Kind: control.FaultLatency, Nodes: []string{"a"}, Options: map[string]string{"delay": "1.5s"}}
	if d, j := f.Duration("delay"), f.Duration("jitter"); d != 1500*time.Millisecond || j != 0 {
		t.Errorf("delay %v, jitter %v", d, j)
	}
	for text, want := range map[string]float64{"12.5%": 12.5, "0": 0, "100": 100} {
		f := control.Fault{Kind: control.FaultLoss, Nodes: []string{"a"}, Options: map[string]string{"percent": text}}
		if err := f.Check(); err != nil || f.Percent("percent") != want {
			t.Errorf("%s: %v, %v", text, f.Percent("percent"), err)
		}
	}
	for want, f := range map[string]control.Fault{
		`option percent: "NaN" is no percentage`:                   {Kind: control.FaultLoss, Nodes: []string{"a"}, Options: map[string]string{"percent": "NaN"}},
		`option answer: "no" is none of servfail, nothing`:         {Kind: control.FaultDNSFailure, Options: map[string]string{"answer": "no"}},
		`to leave the verifier alone is a way to mend`:             {Kind: control.FaultDNSFailure, Leave: true},
		`option by: "1s" is no offset of 10s or more`:              {Kind: control.FaultClockSkew, Component: "verifier", Options: map[string]string{"by": "1s"}},
		`fault latency has no option "loss"; it has delay, jitter`: {Kind: control.FaultLatency, Nodes: []string{"a"}, Options: map[string]string{"loss": "1"}},
	} {
		if err := f.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
}

func TestActionsCheck(t *testing.T) {
	for text, ok := range map[string]bool{"0": true, "23": true, "24": false, "-1": false, "ten": false} {
		if pcr, err := control.ParsePCR(text); (err == nil) != ok {
			t.Errorf("PCR %s: %v, %v", text, pcr, err)
		}
	}
	for _, kind := range control.Actions {
		a := control.Action{Kind: kind, Node: "a"}
		if control.TwoNodes(kind) {
			a.Other = "b"
		}
		if control.AboutPCR(kind) {
			a.PCR, _ = control.ParsePCR("15")
		}
		if kind == control.ActionReplaceAgent {
			a.AgentKind = "go"
		}
		if err := a.Check(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for want, a := range map[string]control.Action{
		"needs the kind of the agent, go or binary":  {Kind: control.ActionReplaceAgent, Node: "a"},
		`"image" is no kind of agent`:                {Kind: control.ActionReplaceAgent, Node: "a", AgentKind: "image"},
		"needs the path of the program":              {Kind: control.ActionReplaceAgent, Node: "a", AgentKind: "binary"},
		`needs an absolute path, not "./agent"`:      {Kind: control.ActionReplaceAgent, Node: "a", AgentKind: "binary", AgentPath: "./agent"},
		"a path is for an agent of the kind binary":  {Kind: control.ActionReplaceAgent, Node: "a", AgentKind: "go", AgentPath: "/agent"},
		"reboot is about no other agent":             {Kind: control.ActionReboot, Node: "a", AgentKind: "go"},
		"replace-agent is done to one node, not to ": {Kind: control.ActionReplaceAgent, Node: "a", Other: "b", AgentKind: "go"},
	} {
		if err := a.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", a, err, want)
		}
	}
}
