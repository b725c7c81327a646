package lab_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/rotate"
	"keylab.dev/keylab/lab/spec"
)

var _ rotate.Lab = (*lab.Lab)(nil)

// A lab goes from one EK CA to the next in each of the three ways; a thief is expelled; what was reached lasts over down and up.
func TestRotate(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: rotate\nnodes: 3\n")
	l := up(t, s)
	uuids, _ := identities(status(t, l))

	plan := rotated(t, l, rotate.Options{DryRun: true})
	if cas := ekCAs(t, l); len(cas) != 1 || plan.To != "ca-2" || len(plan.Commands) != 3+3*4+1 {
		t.Errorf("a dry run: %d CAs, to %s, %d commands", len(cas), plan.To, len(plan.Commands))
	}
	r := rotated(t, l, rotate.Options{})
	wantRotated(t, l, r, "ca-2", 3)
	if len(r.LeftOut) > 0 || len(r.StillTrusted) > 0 {
		t.Errorf("left out %+v, still trusted %v", r.LeftOut, r.StillTrusted)
	}
	for i, c := range r.Commands {
		if c.What != plan.Commands[i].What || !slices.Equal(c.Run, plan.Commands[i].Run) {
			t.Errorf("planned %+v\ndone    %+v", plan.Commands[i], c)
		}
	}

	t.Run("emergency", func(t *testing.T) {
		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "node-2", Leaked: true})
		act(t, l, control.ActionEnrol, "node-2")
		r := rotated(t, l, rotate.Options{Strategy: rotate.Emergency})
		wantRotated(t, l, r, "ca-3", 2)
		// That a CA is gone moves no node: the verifier has to be told.
		if want := []string{"node-1", "node-2", "node-3"}; !slices.Equal(r.StillTrusted, want) {
			t.Errorf("attested after their CA was gone: %v, want %v", r.StillTrusted, want)
		}
		if len(r.LeftOut) != 1 || r.LeftOut[0].Node != "node-2" || !r.LeftOut[0].Expelled {
			t.Errorf("left out: %+v", r.LeftOut)
		}
		wantState(t, l, "node-2", "forgotten")
		wantRefused(t, l, "node-2", "No Root CA matched")
		ek(t, l, control.EKOrder{Kind: control.EKIssue, Node: "node-2"})
		act(t, l, control.ActionEnrol, "node-2")
		verify(t, l)
	})
	t.Run("at once", func(t *testing.T) {
		wantRotated(t, l, rotated(t, l, rotate.Options{Strategy: rotate.AtOnce, To: "new-maker", Algorithm: "ecc-p256"}), "new-maker", 3)
		verify(t, l)
	})
	if _, err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = up(t, s)
	verify(t, l)
	now, _ := identities(status(t, l))
	wantSame(t, "UUIDs over rotations", uuids, now)
	if e := surveyed(t, l, "node-1"); e.CA != "new-maker" {
		t.Errorf("after down and up: %+v", e)
	}
}

// A rotation that is interrupted, or that meets a node that is off, is completed by another one.
func TestRotateAgain(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: rotate-again\nnodes:\n  - {name: a}\n  - {name: b}\n  - {name: stranger, ek: {issuer: stranger}}\n"))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := rotate.Run(ctx, l, rotate.Options{OnCommand: func(c rotate.Command) {
		if strings.HasPrefix(c.What, "have verifier and registrar forget a") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || r.Passed() {
		t.Errorf("interrupted: %v, passed %v", err, r.Passed())
	}
	wantState(t, l, "a", "forgotten")

	act(t, l, control.ActionStop, "b")
	r = rotated(t, l, rotate.Options{Strategy: rotate.AtOnce})
	if r.Passed() || r.To != "ca-2" {
		t.Errorf("with a node that is off: to %s, passed %v", r.To, r.Passed())
	}
	wantState(t, l, "a", "attested")
	act(t, l, control.ActionStart, "b")
	r = rotated(t, l, rotate.Options{})
	wantRotated(t, l, r, "ca-2", 2)
	// The specification's own stranger is nobody's business.
	if len(r.LeftOut) != 1 || r.LeftOut[0].Node != "stranger" || r.LeftOut[0].Expelled {
		t.Errorf("left out: %+v", r.LeftOut)
	}
	wantState(t, l, "stranger", "refused")
}

// The push model rotates as the pull model does; the runbook has the check that Keylime leaves out.
func TestRotatePush(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: rotate-push\nkeylime: {mode: push}\nnodes: 2\n")
	s.Keylime.QuoteInterval = spec.Duration(time.Second)
	l := up(t, s)
	r := rotated(t, l, rotate.Options{})
	wantRotated(t, l, r, "ca-2", 2)
	var book strings.Builder
	for _, c := range r.Commands {
		fmt.Fprintln(&book, strings.Join(c.Run, "\n"))
	}
	for _, want := range []string{"openssl verify -partial_chain", "--push-model", "systemctl restart keylime_push_model_agent"} {
		if !strings.Contains(book.String(), want) {
			t.Errorf("the runbook lacks %q:\n%s", want, book.String())
		}
	}
	verify(t, l)
}

// The runbook is what the real tools take: its commands, run by hand for one node, have it enrolled with a certificate that OpenSSL made.
func TestRunbook(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: book\nnodes: 1\n"))
	plan := rotated(t, l, rotate.Options{DryRun: true})
	dir := t.TempDir()
	for _, c := range plan.Commands {
		if strings.HasPrefix(c.What, "have ca-2") || strings.HasPrefix(c.What, "distrust") {
			continue
		}
		for _, line := range c.Run {
			line, _, _ = strings.Cut(line, "   # ")
			args := strings.Fields(line)
			var err error
			var out []byte
			switch {
			case args[0] == "systemctl":
				act(t, l, control.ActionRestartAgent, "node-1")
			case args[0] == "keylime_tenant":
				cmd, cmdErr := l.TenantCommand(t.Context(), args[1:]...)
				if cmdErr != nil {
					t.Fatal(cmdErr)
				}
				out, err = cmd.CombinedOutput()
			default:
				line = strings.ReplaceAll(line, "/var/lib/keylime/tpm_cert_store", l.Dir().CertStore())
				cmd, cmdErr := l.TPMCommand(t.Context(), "node-1", "sh", "-euc", "cd "+dir+"\n"+line)
				if cmdErr != nil {
					t.Fatal(cmdErr)
				}
				out, err = cmd.CombinedOutput()
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
	}
	await(t, "the verifier to attest the node", func() bool { return node(t, l, "node-1").AttestationCount > 0 })
	if e := surveyed(t, l, "node-1"); e.Standing != control.EKForeign || e.TrustedBy != "ca-2-issuing.pem" || e.Registered != control.EKSame {
		t.Errorf("%+v", e)
	}
}

func rotated(t *testing.T, l *lab.Lab, o rotate.Options) rotate.Result {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 4*time.Minute, errors.New("four minutes were not enough to rotate"))
	defer cancel()
	r, err := rotate.Run(ctx, l, o)
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return r
}

// wantRotated wants a rotation to have brought so many nodes to a CA, without a refusal, and to have seen them attested.
func wantRotated(t *testing.T, l *lab.Lab, r rotate.Result, to string, nodes int) {
	t.Helper()
	if r.To != to || !r.Passed() || len(r.Refused) > 0 {
		t.Errorf("to %s, refused %+v, the proof:", r.To, r.Refused)
		for _, c := range r.Proof.Checks {
			t.Errorf("  %s %s %s %s", c.Status, c.Name(), c.Evidence, c.Error)
		}
	}
	for _, c := range r.Commands {
		if c.Status != rotate.Done || c.Did == "" || len(c.Run) == 0 {
			t.Errorf("command %+v", c)
		}
	}
	over := 0
	for _, e := range ek(t, l, control.EKOrder{Kind: control.EKSurvey}).Nodes {
		if e.CA == to && e.Registered == control.EKSame && e.Accepted && e.TrustedBy != "" {
			over++
		}
	}
	if over != nodes {
		t.Errorf("%d nodes are on %s, want %d", over, to, nodes)
	}
	for _, ca := range ekCAs(t, l) {
		if left, err := ca.InStore(l.Dir().CertStore()); err != nil || (len(left) > 0) != (ca.Name == to) {
			t.Errorf("the tpm_cert_store has of %s: %v, %v", ca.Name, left, err)
		}
	}
	for _, g := range r.Gaps {
		if g.Longest <= 0 || g.Count == 0 && !slices.ContainsFunc(r.LeftOut, func(o rotate.LeftOut) bool { return o.Node == g.Node }) {
			t.Errorf("gap: %+v", g)
		}
	}
}

func ekCAs(t *testing.T, l *lab.Lab) []authority.CA {
	t.Helper()
	set, err := l.EKCAs()
	if err != nil {
		t.Fatal(err)
	}
	cas, err := set.List()
	if err != nil {
		t.Fatal(err)
	}
	return cas
}
