package lab_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// What nodes of the push model measure is proved from the evidence that the verifier had, and each tampering breaks the one node.
func TestPushMeasured(t *testing.T) {
	t.Parallel()
	s := quick(t, `name: pushmeasured
keylime: {mode: push}
nodes:
  - {name: a}
  - {name: boots, ima: {enabled: false}}
  - {name: plain, ima: {enabled: false}, measuredBoot: {enabled: false}}
ima: {enabled: true}
measuredBoot: {enabled: true}
`)
	s.Keylime.QuoteInterval = spec.Duration(1e9)
	s.Keylime.Options["verifier"]["session_create_rate_limit_per_agent"] = "1000" // verify counts too, and is run often here
	l := up(t, s)
	attested(t, l, 3)
	checkSays(t, l, "ima-list", "a", "6 entries replay to PCR 10 as read from the TPM; 6 of them")
	checkSays(t, l, "boot-log", "boots", "as the verifier had them, replay to PCRs 0-9 and 14 as quoted")

	change(t, l, control.Measurement{Kind: control.MeasureFile, Node: "a", Path: "/usr/bin/curl"})
	trusted(t, l, "a")
	checkSays(t, l, "ima-list", "a", "7 entries replay to PCR 10 as read from the TPM; 7 of them, of which the verifier had 0 with the latest evidence")

	// Keylime's verifier goes on from PCR 10 as it was before a start.
	if done := act(t, l, control.ActionReboot, "a"); !strings.Contains(done, "`keylab node enrol a` has it trusted again") {
		t.Errorf("after the reboot: %s", done)
	}
	await(t, "the verifier to fail a", func() bool { return node(t, l, "a").State == "failed" })
	if n := node(t, l, "a"); !strings.Contains(n.Hint, "the verifier goes on from PCR 10 as it was before") {
		t.Errorf("a failed, and the hint is %q", n.Hint)
	}
	act(t, l, control.ActionEnrol, "a")
	act(t, l, control.ActionReboot, "a") // also where nothing was measured since the last start
	await(t, "the verifier to fail a", func() bool { return node(t, l, "a").State == "failed" })
	act(t, l, control.ActionEnrol, "a")
	act(t, l, control.ActionReboot, "boots")
	trusted(t, l, "a", "boots")

	for _, test := range []struct {
		name   string
		change control.Measurement
		broken []string
		then   string // the node's state; overdue where the verifier takes no evidence, so that it finds no fault either
	}{
		{"a file that is not allowed", control.Measurement{Kind: control.MeasureFile, Node: "a", Path: "/tmp/miner", Digest: digestOf("miner")}, of([]string{"a"}, "challenge", "attested"), "failed"},
		{"PCR 10 extended", control.Measurement{Kind: control.TamperPCR, Node: "a"}, of([]string{"a"}, "ima-list", "challenge", "attested"), "failed"},
		{"an entry taken out of the list", control.Measurement{Kind: control.TamperList, Node: "a"}, of([]string{"a"}, "ima-list", "attested"), "overdue"},
		{"another command line", control.Measurement{Kind: control.TamperBoot, Node: "boots", Tamper: "command-line"}, of([]string{"boots"}, "challenge", "attested"), "failed"},
		{"a boot that is not in the log", control.Measurement{Kind: control.TamperBoot, Node: "boots", Tamper: "dropped-event"}, of([]string{"boots"}, "boot-log", "challenge", "attested"), "failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := test.change.Node
			change(t, l, test.change)
			await(t, "node "+n+" to be "+test.then, func() bool { return node(t, l, n).State == test.then })
			verify(t, l, test.broken...)
			act(t, l, control.ActionReboot, n)
			act(t, l, control.ActionEnrol, n)
			verify(t, l)
		})
	}
}

// checkSays wants the lab in order, and a check's evidence to say something.
func checkSays(t *testing.T, l *lab.Lab, id, subject, says string) {
	t.Helper()
	if c, ok := found(verify(t, l), id, subject); !ok || !strings.Contains(c.Evidence, says) {
		t.Errorf("%s %s: %v, %q, want %q", id, subject, ok, c.Evidence, says)
	}
}
