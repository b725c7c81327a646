package lab_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

// What can be done with EK CAs and EK certificates of a running lab, and what Keylime makes of each.
func TestEK(t *testing.T) {
	t.Parallel()
	whole := t
	s := quick(t, "name: ek\nnodes:\n  - {name: a}\n  - {name: b}\n  - {name: c}\n")
	l := up(t, s)

	t.Run("another CA", func(t *testing.T) {
		made := ek(t, l, control.EKOrder{Kind: control.EKNewCA, CA: "next", Algorithm: "ecc-p384"})
		if len(made.Certificate) == 0 || !strings.Contains(made.Text, "keylab EK Root CA next → keylab EK Intermediate CA next") {
			t.Errorf("%+v", made)
		}
		verify(t, l)
		// The registrar refuses a known agent with another certificate, and so that agent is down.
		issued := ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "a", CA: "next", Restart: true})
		if !strings.HasPrefix(issued.Refused, "403 ") || issued.CA != "next" {
			t.Errorf("an agent with another certificate: %+v", issued)
		}
		if n := node(t, l, "a"); n.State != "agent dead" || !strings.Contains(n.Detail, "it could not register") || n.EKSerial != issued.Serial {
			t.Errorf("the refused agent is %s: %s, serial %s, want %s", n.State, n.Detail, n.EKSerial, issued.Serial)
		}
		if e := surveyed(t, l, "a"); e.CA != "next" || e.Standing != control.EKValid || e.TrustedBy != "" || e.Registered != control.EKAnother || e.Accepted {
			t.Errorf("%+v", e)
		}
		// Keylime looks for the certificate that signed, and not above it.
		wantRefused(t, l, "a", "No Root CA matched")
		ek(t, l, control.EKOrder{Kind: control.EKTrust, CA: "next", Level: "root"})
		wantRefused(t, l, "a", "No Root CA matched")
		ek(t, l, control.EKOrder{Kind: control.EKTrust, CA: "next", Level: "issuer"})
		act(t, l, control.ActionEnrol, "a")
		verify(t, l)
		if e := surveyed(t, l, "a"); e.TrustedBy == "" || e.Registered != control.EKSame || !e.Accepted {
			t.Errorf("%+v", e)
		}
	})
	t.Run("a cross certificate", func(t *testing.T) {
		ek(t, l, control.EKOrder{Kind: control.EKDistrust, CA: "next"})
		verify(t, l, "tenant-accepted a")
		wantState(t, l, "a", "attested") // the tenant looks only when it adds an agent
		cross := ek(t, l, control.EKOrder{Kind: control.EKCrossSign, CA: "next", By: authority.First})
		act(t, l, control.ActionEnrol, "a")
		verify(t, l)
		if e := surveyed(t, l, "a"); len(cross.Files) != 1 || e.TrustedBy != cross.Files[0] {
			t.Errorf("a is trusted by %q, the cross certificate is %v", e.TrustedBy, cross.Files)
		}
	})
	t.Run("what Keylime does not look at", func(t *testing.T) {
		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "b", Expired: true})
		act(t, l, control.ActionEnrol, "b")
		wantProblem(t, verify(t, l, "ek-certificate b"), "ek-certificate b", "expired")

		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "b"})
		act(t, l, control.ActionEnrol, "b")
		revoked := ek(t, l, control.EKOrder{Kind: control.EKRevoke, Node: "b"})
		act(t, l, control.ActionEnrol, "b")
		wantProblem(t, verify(t, l, "ek-certificate b"), "ek-certificate b", "revoked")
		if e := surveyed(t, l, "b"); e.Standing != control.EKRevoked || e.Serial != revoked.Serial {
			t.Errorf("%+v", e)
		}

		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "b", Leaked: true})
		act(t, l, control.ActionEnrol, "b")
		wantProblem(t, verify(t, l, "ek-certificate b"), "ek-certificate b", "the EK CA does not know this certificate")
		if e := surveyed(t, l, "b"); e.Standing != control.EKUnrecorded || e.CA != authority.First {
			t.Errorf("%+v", e)
		}
		leak := ek(t, l, control.EKOrder{Kind: control.EKLeak, CA: authority.First})
		if len(leak.Files) != 1 || !strings.Contains(leak.Text, "Keylime's tenant would accept it") {
			t.Errorf("%+v", leak)
		}
		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "b"})
		act(t, l, control.ActionEnrol, "b")
		verify(t, l)
	})
	t.Run("no certificate, and another run of the lab", func(t *testing.T) {
		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "c", Absent: true})
		wantRefused(t, l, "c", "No EK cert provided")
		if _, err := l.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Orders about nodes need a running lab, those about CAs do not.
		if _, err := l.EK(t.Context(), control.EKOrder{Kind: control.EKIssue, Node: "c"}); !errors.Is(err, lab.ErrNotRunning) {
			t.Errorf("issue in a lab that is down: %v", err)
		}
		ek(t, l, control.EKOrder{Kind: control.EKTrust, CA: "next"})
		l = up(whole, s)
		wantState(t, l, "c", "refused")
		if e := surveyed(t, l, "c"); e.Serial != "" || e.Registered != control.EKSame {
			t.Errorf("%+v", e)
		}
		if a := surveyed(t, l, "a"); a.CA != "next" || !a.Accepted {
			t.Errorf("after down and up: %+v", a)
		}
		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "c"})
		act(t, l, control.ActionEnrol, "c")
		verify(t, l)
		attested(t, l, 3)
	})
	t.Run("another active CA", func(t *testing.T) {
		ek(t, l, control.EKOrder{Kind: control.EKActivate, CA: "next"})
		verify(t, l, "active-ca b", "active-ca c", "retired-ca ca-1")
		act(t, l, control.ActionReplaceTPM, "b")
		act(t, l, control.ActionEnrol, "b")
		if e := surveyed(t, l, "b"); e.CA != "next" || e.Standing != control.EKValid {
			t.Errorf("the certificate of a new TPM: %+v", e)
		}
		act(t, l, control.ActionForget, "c")
		if n := node(t, l, "c"); n.State != "forgotten" || !strings.Contains(n.Detail, "`keylab node enrol c`") {
			t.Errorf("c is %s: %s", n.State, n.Detail)
		}
		done := ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "c", Supersede: true, Restart: true})
		if done.Refused != "" {
			t.Errorf("an agent that was forgotten is refused: %s", done.Refused)
		}
		act(t, l, control.ActionEnrol, "c")
		ek(t, l, control.EKOrder{Kind: control.EKDistrust, CA: authority.First})
		verify(t, l)
		export := t.TempDir()
		if _, err := l.Export(t.Context(), export); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"ekca/root.pem", "ekcas/next/root.pem", "ekcas/next/crl.der", "ekcas/record.json", "ekcas/leaked/*.pem"} {
			if found, err := filepath.Glob(filepath.Join(export, file)); err != nil || len(found) == 0 {
				t.Errorf("the export has no %s: %v", file, err)
			}
		}
	})
	t.Run("mistakes", func(t *testing.T) {
		for want, o := range map[string]control.EKOrder{
			`ek trust nobody: no such EK CA "nobody"; the lab has ca-1, next`:  {Kind: control.EKTrust, CA: "nobody"},
			"ek new-ca ca-1: the lab has an EK CA":                             {Kind: control.EKNewCA, CA: "ca-1"},
			`the lab has no node "z"`:                                          {Kind: control.EKIssue, Node: "z"},
			"ek issue a: a certificate that is not there":                      {Kind: control.EKIssue, Node: "a", Absent: true, Expired: true},
			`ek revoke a: "boredom" is no reason; there are aACompromise, `:    {Kind: control.EKRevoke, Node: "a", Reason: "boredom"},
			"ek melt ca-1: there is no such order; there are new-ca, trust, d": {Kind: "melt", CA: "ca-1"},
		} {
			if _, err := l.EK(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", o, err, want)
			}
		}
		act(t, l, control.ActionStop, "a")
		if _, err := l.EK(t.Context(), control.EKOrder{Kind: control.EKIssue, Node: "a"}); err == nil || !strings.Contains(err.Error(), "it is off: `keylab node start a` starts it") {
			t.Errorf("issue for a node that is off: %v", err)
		}
		if e := surveyed(t, l, "a"); !strings.Contains(e.Error, "off") {
			t.Errorf("a node that is off: %+v", e)
		}
	})
}

// Before 7.14 Keylime's registrar takes another EK certificate of a known agent, and the verifier goes on trusting it, whoever issued it.
func TestEKBefore714(t *testing.T) {
	for _, version := range []string{"7.13.1", "7.12.2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l := up(t, quick(t, fmt.Sprintf("name: ek%s\nnodes: [{name: a}, {name: b}]\nkeylime: {version: %s}\n", strings.ReplaceAll(version, ".", "-"), version)))
			ek(t, l, control.EKOrder{Kind: control.EKNewCA, CA: "untrusted"})
			if done := ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "a", CA: "untrusted", Restart: true}); done.Refused != "" {
				t.Errorf("refused: %s", done.Refused)
			}
			before := node(t, l, "a").AttestationCount
			await(t, "the verifier to attest a with a certificate that nobody vouches for", func() bool { return node(t, l, "a").AttestationCount > before+1 })
			e := surveyed(t, l, "a")
			if e.Registered != control.EKSame || e.TrustedBy != "" || e.Accepted {
				t.Errorf("%+v", e)
			}
			verify(t, l, "tenant-accepted a")
			ek(t, l, control.EKOrder{Kind: control.EKTrust, CA: "untrusted"})
			wantProblem(t, verify(t, l, "tenant-accepted a"), "tenant-accepted a", "before its EK certificate was issued")
			act(t, l, control.ActionEnrol, "a")
			verify(t, l)
		})
	}
}

// In the push model the check of EK certificates is keylab's own, and sees what the tenant would.
func TestEKPush(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: ek-push\nkeylime: {mode: push}\nnodes: [{name: a}, {name: b}]\n")
	s.Keylime.QuoteInterval = spec.Duration(time.Second)
	l := up(t, s)
	ek(t, l, control.EKOrder{Kind: control.EKNewCA, CA: "next"})
	ek(t, l, control.EKOrder{Kind: control.EKTrust, CA: "next", Level: "root"})
	if done := ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "a", CA: "next", Restart: true}); !strings.HasPrefix(done.Refused, "403 ") {
		t.Errorf("an agent with another certificate: %+v", done)
	}
	wantRefused(t, l, "a", "checked by keylab, since Keylime does not in the push model")
	ek(t, l, control.EKOrder{Kind: control.EKTrust, CA: "next"})
	act(t, l, control.ActionEnrol, "a")
	verify(t, l)
}

func ek(t *testing.T, l *lab.Lab, o control.EKOrder) control.EKDone {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Minute, fmt.Errorf("two minutes were not enough to %s", o.Kind))
	defer cancel()
	done, err := l.EK(ctx, o)
	if err != nil || done.Text == "" {
		t.Fatalf("%+v: %q, %v, %v", o, done.Text, err, context.Cause(ctx))
	}
	return done
}

// surveyed is what the lab finds out about a node's EK certificate.
func surveyed(t *testing.T, l *lab.Lab, node string) control.EKNode {
	t.Helper()
	done := ek(t, l, control.EKOrder{Kind: control.EKSurvey})
	i := slices.IndexFunc(done.Nodes, func(e control.EKNode) bool { return e.Node == node })
	if i < 0 {
		t.Fatalf("no node %s in the survey", node)
	}
	return done.Nodes[i]
}

// wantRefused has a node enrolled anew, which the tenant is to refuse.
func wantRefused(t *testing.T, l *lab.Lab, name, why string) {
	t.Helper()
	if _, err := l.Act(t.Context(), control.Action{Kind: control.ActionEnrol, Node: name}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("enrol %s: %v, want a refusal: %s", name, err, why)
	}
	if n := node(t, l, name); n.State != "refused" || !strings.Contains(n.Detail, why) {
		t.Errorf("%s is %s: %s", name, n.State, n.Detail)
	}
}

// wantProblem wants a check to have failed with these words.
func wantProblem(t *testing.T, r report.Result, check, words string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name() == check && !strings.Contains(c.Error, words) {
			t.Errorf("%s failed otherwise than by %q: %s", check, words, c.Error)
		}
	}
}
