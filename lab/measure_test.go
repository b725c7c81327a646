package lab_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// What the kernels of nodes measure: the verifier trusts a node as long as its list explains PCR 10 and holds only what the policy allows, and gives up
// the one node of which that is not so.
func TestIMA(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, `name: ima
nodes:
  - {name: a}
  - {name: b, ima: {template: ima-sig, files: [{path: /sbin/init}, {path: "/opt/with space"}, {path: /opt/later, atBoot: false}]}}
  - {name: off, ima: {enabled: false}}
ima: {enabled: true}
`))
	attested(t, l, 3)
	r := verify(t, l)
	for _, n := range []string{"a", "b"} {
		for _, id := range []string{"ima-list", "policies"} {
			if c, ok := found(r, id, n); !ok || !strings.Contains(c.Evidence, "PCR 10") && !strings.Contains(c.Evidence, "files of the specification") {
				t.Errorf("%s %s: %v, %+v", id, n, ok, c)
			}
		}
	}
	if _, ok := found(r, "ima-list", "off"); ok {
		t.Error("the list of a node that has none was checked")
	}

	t.Run("a file that is allowed", func(t *testing.T) {
		done := change(t, l, control.Measurement{Kind: control.MeasureFile, Node: "a", Path: "/usr/bin/curl"})
		if !strings.Contains(done, "the runtime policy allows it") {
			t.Error(done)
		}
		change(t, l, control.Measurement{Kind: control.MeasureFile, Node: "b", Path: "/opt/later"})
		trusted(t, l, "a", "b", "off")
		verify(t, l)
	})
	t.Run("the list", func(t *testing.T) {
		a, err := l.Measure(t.Context(), control.Measurement{Kind: control.ShowList, Node: "b"})
		if err != nil || a.IMA == nil {
			t.Fatalf("%+v, %v", a, err)
		}
		var paths []string
		for _, e := range a.IMA.Entries {
			paths = append(paths, e.Path)
			if !e.Allowed || e.Template != "ima-sig" {
				t.Errorf("%+v", e)
			}
		}
		if got := strings.Join(paths, " "); got != "boot_aggregate /sbin/init /opt/with_space /opt/later" || a.IMA.PCR != a.IMA.Replay {
			t.Errorf("%s; PCR 10 is %s, the list gives %s", got, a.IMA.PCR, a.IMA.Replay)
		}
	})

	t.Run("files that are signed", func(t *testing.T) {
		for _, m := range []control.Measurement{{Path: "/opt/new", Digest: digestOf("new")}, {Path: "/sbin/init", Digest: digestOf("update")}} {
			m.Kind, m.Node, m.Sign = control.MeasureFile, "b", control.SignLab
			if done := change(t, l, m); !strings.Contains(done, "the runtime policy has the key that signed it") {
				t.Error(done)
			}
		}
		trusted(t, l, "a", "b", "off")
		r := verify(t, l)
		if c, ok := found(r, "policies", "b"); !ok || !strings.Contains(c.Evidence, "and of the lab's key for signatures") {
			t.Errorf("%+v", c)
		}
		a, err := l.Measure(t.Context(), control.Measurement{Kind: control.ShowList, Node: "b"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range a.IMA.Entries[len(a.IMA.Entries)-2:] {
			if !e.Allowed || len(e.Signature) == 0 {
				t.Errorf("%+v", e)
			}
		}
	})

	tests := []struct {
		name   string
		change control.Measurement
		event  string
		broken []string
	}{
		{"a file that is not allowed", control.Measurement{Kind: control.MeasureFile, Node: "a", Path: "/tmp/miner", Digest: digestOf("miner")},
			"ima.validation.ima-ng.not_in_allowlist", of([]string{"a"}, "attested")},
		{"another content of a file that is allowed", control.Measurement{Kind: control.MeasureFile, Node: "b", Path: "/sbin/init", Digest: digestOf("rootkit")},
			"ima.validation.ima-ng.runtime_policy_hash", of([]string{"b"}, "attested")},
		{"a file that a stranger signed", control.Measurement{Kind: control.MeasureFile, Node: "b", Path: "/opt/new", Digest: digestOf("new"), Sign: control.SignStranger},
			"ima.validation.ima-ng.not_in_allowlist", of([]string{"b"}, "attested")},
		{"an entry taken out of the list", control.Measurement{Kind: control.TamperList, Node: "b"}, "ima.pcr_mismatch", of([]string{"b"}, "ima-list", "attested")},
		{"PCR 10 extended", control.Measurement{Kind: control.TamperPCR, Node: "a"}, "ima.pcr_mismatch", of([]string{"a"}, "ima-list", "attested")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			change(t, l, test.change)
			givenUp(t, l, test.change.Node, test.event)
			verify(t, l, test.broken...)
			act(t, l, control.ActionReboot, test.change.Node)
			act(t, l, control.ActionReactivate, test.change.Node)
			verify(t, l)
		})
	}

	// Every start begins with a new list, whatever ended the one before.
	t.Run("crash and another TPM", func(t *testing.T) {
		change(t, l, control.Measurement{Kind: control.TamperPCR, Node: "a"})
		act(t, l, control.ActionCrash, "a")
		act(t, l, control.ActionEnrol, "a")
		act(t, l, control.ActionReplaceTPM, "b")
		act(t, l, control.ActionEnrol, "b")
		verify(t, l)
	})
	t.Run("mistakes", func(t *testing.T) {
		for want, m := range map[string]control.Measurement{
			"off measures no files: set ima.enabled: true in the lab's file":                {Kind: control.MeasureFile, Node: "off", Path: "/usr/bin/curl"},
			"a does not measure its boot: set measuredBoot.enabled: true in the lab's file": {Kind: control.ShowBoot, Node: "a"},
			`the lab has no node "c"; it has a, b, off`:                                     {Kind: control.ShowList, Node: "c"},
			"a: /x is not among the files of the lab's specification":                       {Kind: control.MeasureFile, Node: "a", Path: "/x"},
			"the IMA list of a has no signatures: set ima.template: ima-sig":                {Kind: control.MeasureFile, Node: "a", Path: "/x", Digest: digestOf("x"), Sign: control.SignLab},
			`a: file digest "md5:00": algorithm "md5" is not known`:                         {Kind: control.MeasureFile, Node: "a", Path: "/x", Digest: "md5:00"},
		} {
			if a, err := l.Measure(t.Context(), m); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %+v, %v, want %q", m, a, err, want)
			}
		}
		act(t, l, control.ActionStop, "a")
		if _, err := l.Measure(t.Context(), control.Measurement{Kind: control.TamperPCR, Node: "a"}); err == nil || !strings.Contains(err.Error(), "`keylab node start a` starts it") {
			t.Errorf("of a node that is off: %v", err)
		}
	})
}

// What the firmware of nodes measures: each tamper of a boot is found out, or not, as package bootlog says, and fails the one node.
func TestMeasuredBoot(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: boots\nnodes: 3\nmeasuredBoot: {enabled: true}\n"))
	attested(t, l, 3)
	r := verify(t, l)
	if c, ok := found(r, "policies", "node-3"); !ok || !strings.Contains(c.Evidence, "judged by the policy example") {
		t.Errorf("%+v", c)
	}
	all := []string{"node-1", "node-2", "node-3"}
	verified := map[string]bool{}
	for i, tamper := range bootlog.Tampers() {
		t.Run(tamper.Name, func(t *testing.T) {
			n := all[i%len(all)]
			change(t, l, control.Measurement{Kind: control.TamperBoot, Node: n, Tamper: tamper.Name})
			var broken []string
			switch {
			case tamper.BreaksReplay:
				givenUp(t, l, n, "measured_boot.invalid_pcr_")
				broken = of([]string{n}, "boot-log", "attested")
			case tamper.BreaksRefState:
				givenUp(t, l, n, "measured_boot.policy_example")
				broken = of([]string{n}, "attested")
			default: // Keylime does not see it
				trusted(t, l, all...)
			}
			if kind := fmt.Sprint(tamper.BreaksReplay, tamper.BreaksRefState); !verified[kind] { // one of each kind is enough
				verified[kind] = true
				verify(t, l, broken...)
			}
			a, err := l.Measure(t.Context(), control.Measurement{Kind: control.ShowBoot, Node: n})
			if err != nil || a.Boot.Tamper != tamper.Name || len(a.Boot.Events) < 40 {
				t.Errorf("the boot log shows %+v, %v", a.Boot, err)
			}
			act(t, l, control.ActionReboot, n)
			if len(broken) > 0 {
				act(t, l, control.ActionReactivate, n)
			}
		})
	}
	verify(t, l)

	t.Run("firmware update", func(t *testing.T) {
		change(t, l, control.Measurement{Kind: control.UpdateFirmware, Node: "node-2", Version: "2.2.0"})
		givenUp(t, l, "node-2", "measured_boot.policy_example")
		act(t, l, control.ActionReboot, "node-2") // it keeps its firmware
		act(t, l, control.ActionEnrol, "node-2")  // and the verifier learns of it
		act(t, l, control.ActionReboot, "node-2")
		trusted(t, l, all...)
		verify(t, l)
	})
	t.Run("mistakes", func(t *testing.T) {
		for want, m := range map[string]control.Measurement{
			`node-1: bootlog: no tamper is named "fire"; there are: command-line`:                   {Kind: control.TamperBoot, Node: "node-1", Tamper: "fire"},
			"node-1 measures no files: set ima.enabled: true in the lab's file":                     {Kind: control.TamperList, Node: "node-1"},
			`node-1: bootlog: machine "node-1": Firmware.Version is "a\nb", which is not printable`: {Kind: control.UpdateFirmware, Node: "node-1", Version: "a\nb"},
		} {
			if a, err := l.Measure(t.Context(), m); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %+v, %v, want %q", m, a, err, want)
			}
		}
		trusted(t, l, all...)
	})
	if _, err := l.Down(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// The policy accept-all takes any boot that is logged as it was. IMA beside it goes by the boot aggregate of the log.
func TestMeasuredBootAcceptAll(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: anyboot\nnodes: [{name: a}, {name: b, measuredBoot: {enabled: false}}]\nmeasuredBoot: {enabled: true, policy: accept-all}\nima: {enabled: true}\n"))
	attested(t, l, 2)
	verify(t, l)
	// The list that the verifier has replayed so far began with another boot aggregate.
	change(t, l, control.Measurement{Kind: control.TamperBoot, Node: "a", Tamper: "command-line"})
	givenUp(t, l, "a", "ima.pcr_mismatch")
	act(t, l, control.ActionReactivate, "a")
	trusted(t, l, "a", "b")
	verify(t, l)
	change(t, l, control.Measurement{Kind: control.TamperBoot, Node: "a", Tamper: "dropped-command"})
	givenUp(t, l, "a", "")
	verify(t, l, of([]string{"a"}, "boot-log", "attested")...)
}

// found is one check of a result.
func found(r report.Result, id, subject string) (report.Check, bool) {
	for _, c := range r.Checks {
		if c.ID == id && c.Subject == subject {
			return c, true
		}
	}
	return report.Check{}, false
}

// digestOf is the digest of a file with this content.
func digestOf(content string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
}

// change changes what a node measures.
func change(t *testing.T, l *lab.Lab, m control.Measurement) string {
	t.Helper()
	a, err := l.Measure(t.Context(), m)
	if err != nil || a.Done == "" {
		t.Fatalf("%+v: %+v, %v", m, a, err)
	}
	return a.Done
}

// givenUp waits until the verifier has given a node up for an event, and wants all others trusted.
func givenUp(t *testing.T, l *lab.Lab, name, event string) {
	t.Helper()
	var detail string
	await(t, "the verifier to give "+name+" up", func() bool {
		n := node(t, l, name)
		detail = n.Detail
		return n.State == "failed"
	})
	if !strings.Contains(detail, `last event "`+event) {
		t.Errorf("%s failed: %s, want %s", name, detail, event)
	}
	var others []string
	for _, n := range status(t, l).Nodes {
		if n.Name != name {
			others = append(others, n.Name)
		}
	}
	trusted(t, l, others...)
}

// trusted waits until the verifier has had two more good quotes of each of these nodes: the first may have been under way before.
func trusted(t *testing.T, l *lab.Lab, names ...string) {
	t.Helper()
	before := map[string]int{}
	for _, n := range status(t, l).Nodes {
		before[n.Name] = n.AttestationCount
	}
	await(t, "two more good quotes of "+strings.Join(names, " and "), func() bool {
		for _, name := range names {
			n := node(t, l, name)
			if n.State == "overdue" { // in the push model, on a busy machine, until its next evidence
				return false
			}
			if n.State != "attested" {
				t.Fatalf("%s is %s: %s", name, n.State, n.Detail)
			}
			if n.AttestationCount < before[name]+2 {
				return false
			}
		}
		return true
	})
}
