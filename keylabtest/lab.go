package keylabtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

// Lab is a running lab of one test. Its methods fail that test; those of the lab.Lab in it return errors.
type Lab struct {
	*lab.Lab
	t      testing.TB
	ctx    context.Context
	within time.Duration // for what has to happen
}

// New brings a lab up, with every node attested, and wipes it when the test ends. An empty Spec is a lab of three nodes. The name is the specification's, or
// the test's, with something behind it that no other lab has.
//
// It stops the test when the lab does not come up. The end of the test binary's time (-timeout) counts: a lab that would not be up before is given up, so
// that the test can still say how far it came.
func New(t testing.TB, s lab.Spec) *Lab {
	t.Helper()
	prepare(t)
	named(t, &s)
	ctx := untilDeadline(t)
	began := time.Now()
	l, err := lab.Up(ctx, s, lab.UpOptions{})
	if err != nil {
		left, _ := lab.Open(s.Name)
		if left != nil {
			left := &Lab{Lab: left, t: t}
			left.keep()
			left.wipe()
		}
		t.Fatalf("bring lab %s up: %v%s", s.Name, err, diagnosis(s.Substrate))
	}
	own := &Lab{Lab: l, t: t, ctx: ctx, within: s.Timeouts.Ready.Std()}
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			own.keep()
		}
		own.wipe()
	})
	t.Logf("lab %s is up after %s", l.Name(), time.Since(began).Round(time.Millisecond))
	return own
}

// With is the same lab for a subtest: what fails there fails the subtest. It is wiped when the test ends that brought it up.
func (l *Lab) With(t testing.TB) *Lab {
	return &Lab{Lab: l.Lab, t: t, ctx: untilDeadline(t), within: l.within}
}

// Spec reads a lab's file (docs/spec.md). A file that is none stops the test.
func Spec(t testing.TB, file string) lab.Spec {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read the lab's file: %v", err)
	}
	s, err := spec.Decode(file, data)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

// prepare sees that labs can be brought up in this test binary.
func prepare(t testing.TB) {
	t.Helper()
	if !began {
		t.Fatal("keylabtest.Main was not called; this package needs: func TestMain(m *testing.M) { keylabtest.Main(m) }")
	}
	if err := labs.open(); err != nil {
		t.Fatalf("keylabtest: %v", err)
	}
}

// noLabel is what cannot be in a lab's name.
var noLabel = regexp.MustCompile(`[^a-z0-9]+`)

// named gives the lab a name that no other has, and what follows from it.
func named(t testing.TB, s *lab.Spec) {
	t.Helper()
	b := make([]byte, 3)
	if _, err := rand.Read(b); err != nil {
		t.Fatalf("name the lab: %v", err)
	}
	name := s.Name
	if name == "" {
		name = noLabel.ReplaceAllString(strings.ToLower(t.Name()), "-")
	}
	name = strings.Trim(name[:min(len(name), 24)], "-")
	if s.Networks.Domain == "agents."+s.Name+".test" {
		s.Networks.Domain = "" // follows from the new name
	}
	s.Name = name + "-" + hex.EncodeToString(b)
	s.SetDefaults()
}

// untilDeadline is a context that ends a moment before the test binary's time is over, so that there is time to say what was awaited and to clean up.
func untilDeadline(t testing.TB) context.Context {
	ctx := t.Context()
	d, ok := t.(interface{ Deadline() (time.Time, bool) })
	if !ok {
		return ctx
	}
	end, ok := d.Deadline()
	if !ok {
		return ctx
	}
	spare := min(time.Until(end)/10, 30*time.Second)
	ctx, cancel := context.WithDeadlineCause(ctx, end.Add(-spare), errors.New("the time of the test binary (-timeout) is nearly over"))
	t.Cleanup(cancel)
	return ctx
}

// diagnosis is what the machine lacks, for the end of an error.
func diagnosis(substrate spec.Substrate) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var b strings.Builder
	for _, f := range lab.Doctor(ctx) {
		if f.OK || f.Optional && substrate != spec.SubstrateKind {
			continue
		}
		fmt.Fprintf(&b, "\nkeylab doctor: %s: %s", f.What, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(&b, "\n    %s", f.Fix)
		}
	}
	return b.String()
}

// wipeTimeout is how long the end of a lab may take.
const wipeTimeout = 2 * time.Minute

func (l *Lab) wipe() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wipeTimeout)
	defer cancel()
	if _, err := l.Wipe(ctx); err != nil {
		l.t.Errorf("wipe lab %s: %v", l.Name(), err)
	}
}

// Verify proves what the lab claims, as `keylab verify` does. Without names every check must pass; with some, these must fail, and no others. A name is a
// check's ID and what it is about ("quote node-1"); * stands for any text. Each check that is not as it must be is a failure of the test, which goes on.
func (l *Lab) Verify(fails ...string) report.Result {
	l.t.Helper()
	result, err := l.Lab.Verify(l.ctx)
	if err != nil {
		l.t.Fatalf("verify lab %s: %v", l.Name(), err)
	}
	if len(result.Checks) == 0 {
		l.t.Errorf("verify lab %s: no check ran", l.Name())
	}
	missing := slices.Clone(fails)
	for _, c := range result.Checks {
		if c.Passed() {
			continue
		}
		is := func(pattern string) bool { return matches(pattern, c.Name()) }
		if !slices.ContainsFunc(fails, is) {
			l.t.Errorf("lab %s: check %s failed: %s", l.Name(), c.Name(), c.Error)
		}
		missing = slices.DeleteFunc(missing, is)
	}
	for _, m := range missing {
		l.t.Errorf("lab %s: check %s should have failed, and did not", l.Name(), m)
	}
	return result
}

// matches tells whether a name is one that the pattern stands for, in which * is any text.
func matches(pattern, name string) bool {
	ok, _ := regexp.MatchString("^"+strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")+"$", name)
	return ok
}

// Now is the lab at this moment.
func (l *Lab) Now() lab.Status {
	l.t.Helper()
	s, err := l.Status(l.ctx)
	if err != nil {
		l.t.Fatalf("ask lab %s how it is: %v", l.Name(), err)
	}
	return s
}

// Node is one node at this moment.
func (l *Lab) Node(name string) control.Node {
	l.t.Helper()
	var names []string
	for _, n := range l.Now().Nodes {
		if n.Name == name {
			return n
		}
		names = append(names, n.Name)
	}
	l.t.Fatalf("lab %s has no node %q; it has %s", l.Name(), name, strings.Join(names, ", "))
	return control.Node{}
}

// Exec runs a program on one of the lab's hosts (a node, registrar, verifier, tenant, …), as `keylab exec` does, and returns what it prints. It must end
// with 0.
func (l *Lab) Exec(host string, argv ...string) string {
	l.t.Helper()
	c, err := l.Command(l.ctx, host, argv...)
	if err != nil {
		l.t.Fatalf("run %s on %s of lab %s: %v", strings.Join(argv, " "), host, l.Name(), err)
	}
	out, err := c.CombinedOutput()
	if err != nil {
		l.t.Fatalf("run %s on %s of lab %s: %v\n%s", strings.Join(argv, " "), host, l.Name(), err, out)
	}
	return string(out)
}

// Do does one thing to a node, as `keylab node` does: stop, start, reboot, crash, replace-tpm, reactivate, enrol.
func (l *Lab) Do(action, node string) {
	l.t.Helper()
	if _, err := l.Act(l.ctx, control.Action{Kind: action, Node: node}); err != nil {
		l.t.Fatalf("%s %s of lab %s: %v", action, node, l.Name(), err)
	}
}

// Break inflicts a fault, as `keylab fault` does, and returns when it was seen to be in effect. The fault lasts until mend is called; it need not be.
func (l *Lab) Break(f control.Fault) (mend func()) {
	l.t.Helper()
	what := strings.TrimSpace(f.Kind + " " + strings.Join(f.Nodes, " ") + " " + f.Component)
	mark, err := l.Mark(l.ctx)
	if err == nil {
		_, err = l.Fault(l.ctx, f)
	}
	if err != nil {
		l.t.Fatalf("fault %s of lab %s: %v", what, l.Name(), err)
	}
	l.wait("fault "+what+" to fire", func() (bool, string) {
		proof, err := l.Fired(l.ctx, f, mark)
		if err != nil {
			return false, err.Error()
		}
		return proof.Fired, proof.Evidence
	})
	return func() {
		l.t.Helper()
		f.Clear = true
		if _, err := l.Fault(l.ctx, f); err != nil {
			l.t.Fatalf("mend fault %s of lab %s: %v", what, l.Name(), err)
		}
	}
}

func (l *Lab) keep() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.CollectLogs(ctx); err != nil {
		l.t.Logf("collect the logs of lab %s: %v", l.Name(), err)
	}
	files, _ := filepath.Glob(filepath.Join(l.Dir().Logs(), "*.log"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			l.t.Logf("the log %s: %v", file, err)
			continue
		}
		showLog(l.t, l.Name(), strings.TrimSuffix(filepath.Base(file), ".log"), string(data))
	}
	dir := artifacts(l.t)
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, l.Name())
	if _, err := l.Export(ctx, dir); err != nil {
		l.t.Logf("keep lab %s: %v", l.Name(), err)
		return
	}
	l.t.Logf("what there was of lab %s is in %s", l.Name(), dir)
}
