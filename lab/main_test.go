package lab_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/report"
)

func TestMain(m *testing.M) {
	// What this machine's Docker has must not show: labs of the substrate kind have tests of their own.
	os.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	lab.Init()
	os.Exit(run(m))
}

// run has all labs of these tests, which run side by side, be in one folder.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv(state.EnvBase, dir)
	return m.Run()
}

// quick is a specification of a lab in which the verifier finds out sooner than by default, given as the file's text
// after its head.
func quick(t *testing.T, text string) lab.Spec {
	t.Helper()
	s, err := spec.Decode("test.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	s.Keylime.QuoteInterval = spec.Duration(500 * time.Millisecond)
	s.Keylime.Options = map[string]map[string]string{"verifier": {"max_retries": "3"}}
	return s
}

// up brings a lab up and wipes it after the test.
func up(t *testing.T, s lab.Spec) *lab.Lab {
	t.Helper()
	var progress []string
	l, err := lab.Up(t.Context(), s, lab.UpOptions{OnEvent: func(e lab.Event) {
		progress = append(progress, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", e.Step, e.State, e.Elapsed, e.Text, e.Error)))
	}})
	if err != nil {
		t.Fatalf("bring lab %s up: %v\n%s", s.Name, err, strings.Join(progress, "\n"))
	}
	t.Cleanup(func() { wipe(t, l) })
	return l
}

func wipe(t *testing.T, l *lab.Lab) {
	t.Helper()
	if _, err := l.Wipe(context.Background()); err != nil {
		t.Errorf("wipe lab %s: %v", l.Name(), err)
	}
}

func status(t *testing.T, l *lab.Lab) lab.Status {
	t.Helper()
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatalf("status of lab %s: %v", l.Name(), err)
	}
	return s
}

// verify has the lab prove its claims and wants exactly these checks, as "id subject", to fail; * at the end of one
// stands for any rest.
func verify(t *testing.T, l *lab.Lab, broken ...string) report.Result {
	t.Helper()
	r, err := l.Verify(t.Context())
	if err != nil {
		t.Fatalf("verify lab %s: %v", l.Name(), err)
	}
	if len(r.Checks) == 0 {
		t.Fatalf("lab %s: no check ran", l.Name())
	}
	if r.Passed() != (len(broken) == 0) {
		t.Errorf("lab %s: passed is %v", l.Name(), r.Passed())
	}
	missing := map[string]bool{}
	for _, b := range broken {
		missing[b] = true
	}
	for _, c := range r.Checks {
		name := c.ID + " " + c.Subject
		i := slices.IndexFunc(broken, func(b string) bool {
			start, any := strings.CutSuffix(b, "*")
			return b == name || any && strings.HasPrefix(name, start)
		})
		switch {
		case i >= 0 && c.Passed():
			t.Errorf("lab %s: %s passed, but should not: %s", l.Name(), name, c.Evidence)
		case i >= 0:
			delete(missing, broken[i])
			if c.Error == "" {
				t.Errorf("lab %s: %s failed without a reason", l.Name(), name)
			}
		case !c.Passed():
			t.Errorf("lab %s: %s failed: %s", l.Name(), name, c.Error)
		case c.Evidence == "":
			t.Errorf("lab %s: %s passed without evidence", l.Name(), name)
		}
	}
	for m := range missing {
		t.Errorf("lab %s: no check %q was made", l.Name(), m)
	}
	return r
}

// of makes the names of checks of nodes.
func of(nodes []string, ids ...string) []string {
	var names []string
	for _, n := range nodes {
		for _, id := range ids {
			names = append(names, id+" "+n)
		}
	}
	return names
}

// identities are UUIDs and EK certificates' serials by node.
func identities(s lab.Status) (uuids, serials map[string]string) {
	uuids, serials = map[string]string{}, map[string]string{}
	for _, n := range s.Nodes {
		uuids[n.Name], serials[n.Name] = n.UUID, n.EKSerial
	}
	return uuids, serials
}

// attested wants every node of a running lab in order.
func attested(t *testing.T, l *lab.Lab, nodes int) {
	t.Helper()
	s := status(t, l)
	if s.State != "running" || len(s.Nodes) != nodes {
		t.Errorf("lab %s is %s with %d nodes, want running with %d", l.Name(), s.State, len(s.Nodes), nodes)
	}
	for _, n := range s.Nodes {
		if n.State != "attested" || n.AttestationCount < 1 || n.LastSuccess == nil || n.Hostname != plan.ContactHostname(n.UUID, "agents."+l.Name()+".test") {
			t.Errorf("lab %s: %+v", l.Name(), n)
		}
	}
	uuids, serials := identities(s)
	for what, m := range map[string]map[string]string{"UUID": uuids, "EK serial": serials} {
		owner := map[string]string{}
		for node, value := range m {
			if other, taken := owner[value]; taken || value == "" {
				t.Errorf("lab %s: %s of %s is %q, that of %s", l.Name(), what, node, value, other)
			}
			owner[value] = node
		}
	}
}

func wantSame(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s changed (-before +after):\n%s", what, d)
	}
}
