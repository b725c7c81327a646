package lab_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/report"
)

// Two labs with the same addresses live side by side: one of eight machines with ECC EKs, in order, and one in which a
// machine has an EK certificate of a CA that nobody trusts.
func TestSideBySide(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir()) // the list of labs must have no others in it
	ecc := quick(t, "name: ecc\nnodes: 8\ntpm: {ekAlgorithm: ecc-p256}\nagent: {akAlgorithm: ecdsa}\n")
	mixed := quick(t, "name: stranger\nnodes:\n  - {name: good-1}\n  - {name: odd, ek: {issuer: stranger}}\n  - {name: good-2}\n")
	a := up(t, ecc)
	b := up(t, mixed)

	attested(t, a, 8)
	s := status(t, b)
	if s.State != "running" {
		t.Errorf("a lab in which a refusal was asked for is %s, want running", s.State)
	}
	for _, n := range s.Nodes {
		want := "attested"
		if n.Name == "odd" {
			want = "refused"
			if !strings.Contains(n.Detail, "certificate") {
				t.Errorf("why it was refused is not said: %q", n.Detail)
			}
		}
		if n.State != want {
			t.Errorf("%s is %s, want %s", n.Name, n.State, want)
		}
	}

	// Both are verified at the same time, and neither sees the other.
	var odd report.Result
	var g errgroup.Group
	g.Go(func() error { verify(t, a); return nil })
	g.Go(func() error {
		odd = verify(t, b, of([]string{"odd"}, "ek-certificate", "tenant-accepted", "attested")...)
		return nil
	})
	_ = g.Wait()
	for _, c := range odd.Checks {
		if c.ID == "ek-certificate" && c.Subject == "odd" && !strings.Contains(c.Error, "EK CA") {
			t.Errorf("the failed check does not name the CA: %s", c.Error)
		}
	}

	labs, err := lab.List(t.Context())
	if err != nil || len(labs) != 2 || labs[0].Lab != "ecc" || labs[1].Lab != "stranger" {
		t.Errorf("the list of labs: %v, %+v", err, labs)
	}
	if _, err := lab.Up(t.Context(), mixed, lab.UpOptions{}); !errors.Is(err, lab.ErrRunning) {
		t.Errorf("a second up of a running lab: %v, want ErrRunning", err)
	}

	// The end of one leaves the other in peace.
	wipe(t, b)
	if b.Exists(t.Context()) {
		t.Error("a wiped lab still exists")
	}
	attested(t, a, 8)
}

// What a lab's folder keeps: the same EKs, UUIDs and EK certificates after down and up. What a seed keeps: the same EKs
// after wipe, but with certificates of a new CA.
func TestIdentitySurvives(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: again\nnodes: 2\ntpm: {seed: the same}\n")
	l := up(t, s)
	uuids, serials := identities(status(t, l))

	if was, err := l.Down(t.Context()); err != nil || !was {
		t.Fatalf("down: was running %v, %v", was, err)
	}
	if _, err := l.Status(t.Context()); !errors.Is(err, lab.ErrNotRunning) {
		t.Errorf("status after down: %v, want ErrNotRunning", err)
	}
	if was, err := l.Down(t.Context()); err != nil || was {
		t.Errorf("a second down: was running %v, %v", was, err)
	}

	other := s
	other.TPM.Seed = "another"
	if _, err := lab.Up(t.Context(), other, lab.UpOptions{}); err == nil || !strings.Contains(err.Error(), "`keylab wipe again`") {
		t.Errorf("up with another seed in the same folder: %v", err)
	}

	l = up(t, s)
	uuids2, serials2 := identities(status(t, l))
	wantSame(t, "UUIDs over down and up", uuids, uuids2)
	wantSame(t, "EK serials over down and up", serials, serials2)
	verify(t, l)

	if existed, err := l.Wipe(t.Context()); err != nil || !existed {
		t.Fatalf("wipe: existed %v, %v", existed, err)
	}
	l = up(t, s)
	uuids3, serials3 := identities(status(t, l))
	wantSame(t, "UUIDs over a wipe, from the same seed", uuids, uuids3)
	for node, serial := range serials3 {
		if serial == serials[node] {
			t.Errorf("%s has an EK certificate of a CA that was wiped", node)
		}
	}
	attested(t, l, 2)
}
