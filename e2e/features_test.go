package e2e

import (
	"encoding/json"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// secret is the payload of a lab, and distrust the name of what its agents run when they are told of one that is not trusted any more.
const (
	secret   = "no real secret"
	distrust = "distrust.sh"
)

// delivered checks that every node's logs are its TPM's, that the verifier holds the policies for them, and that only the first node got the payload.
func delivered(l *testLab) {
	r := l.passes()
	for _, want := range []string{
		"ima-list first", "ima-list second", "boot-log first", "boot-log second", "policies first", "policies second", "payload-delivered first", "payload-withheld second",
	} {
		if !slices.ContainsFunc(r.Checks, func(c report.Check) bool { return c.ID+" "+c.Subject == want }) {
			l.t.Errorf("verify makes no check %q", want)
		}
	}
	if list := l.events(); len(list) != 0 {
		l.t.Errorf("the verifier told of somebody before anything was wrong: %+v", list)
	}
}

func (l *testLab) events() []control.Notice {
	l.t.Helper()
	var list []control.Notice
	if err := json.Unmarshal([]byte(l.run("events", l.name, "--output", "json")), &list); err != nil {
		l.t.Fatal(err)
	}
	return list
}

// notAllowed has a node use files: one that its policy allows, and one that it does not, which fails that node alone; the receiver and all agents are
// told, and the agents act.
// A reboot and an enrolment mend it, and deliver the payload again.
func notAllowed(l *testLab) {
	t := l.t
	if out, err := l.try("ima", "first", "add", "--lab", l.name, "--path", "/usr/bin/curl"); err != nil || !strings.Contains(out, "the runtime policy allows it") {
		t.Errorf("a file that is allowed: %v\n%s", err, out)
	}
	l.passes()
	l.run("ima", "first", "add", "--lab", l.name, "--path", "/tmp/miner", "--digest", "sha256:"+strings.Repeat("ab", 32))
	const event = "ima.validation.ima-ng.not_in_allowlist"
	await(t, "the verifier to fail the node", func() string {
		n := l.node("first")
		if n.State == "failed" && strings.Contains(n.Detail, event) {
			return ""
		}
		return n.State + " " + n.Detail
	})
	if f := failed(l.verify()); !slices.Equal(f, []string{"attested first"}) {
		t.Errorf("these fail: %q", f)
	}
	await(t, "the receiver and all agents to be told, and the agents to act", func() string {
		var missing []string
		for _, receiver := range []string{control.ReceiverWebhook, "first", "second"} {
			if !slices.ContainsFunc(l.events(), func(n control.Notice) bool {
				acted := receiver == control.ReceiverWebhook || slices.Equal(n.Actions, []control.ActionRun{{Name: distrust, OK: true}})
				return n.Receiver == receiver && n.Node == "first" && n.Event == event && n.Type == "revocation" && n.Signed && acted
			}) {
				missing = append(missing, receiver)
			}
		}
		return strings.Join(missing, ", ")
	})
	told := len(l.events())
	l.run("node", "reboot", "--lab", l.name, "first")
	if f := failed(l.verify()); !slices.Contains(f, "payload-delivered first") {
		t.Errorf("the payload outlasts the machine's memory: these fail: %q", f)
	}
	l.run("node", "enrol", "--lab", l.name, "first")
	l.passes()
	if n := len(l.events()); n < told {
		t.Errorf("%d notices are left of %d after a reboot", n, told)
	}
}

// tamperedBoot starts a node with an intruder's command line, once, and gives it another firmware, for good.
func tamperedBoot(l *testLab) {
	t := l.t
	l.run("boot", "second", "tamper", "--lab", l.name, "command-line")
	out, err := l.try("node", "enrol", "--lab", l.name, "second")
	if err == nil || !strings.Contains(out, "measured_boot.policy_example") {
		t.Errorf("a tampered boot is trusted: %v\n%s", err, out)
	}
	if f := failed(l.verify()); !slices.Equal(f, []string{"attested second"}) {
		t.Errorf("with a tampered boot these fail: %q", f)
	}
	l.run("boot", "second", "firmware-update", "--lab", l.name, "9.9")
	if out := l.run("boot", "second", "show", "--lab", l.name); !strings.Contains(out, "Firmware 9.9, an honest boot") {
		t.Errorf("the boot after the tampered one: %.200s", out)
	}
	l.run("node", "enrol", "--lab", l.name, "second")
	l.passes()
}
