package rotate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/report"
)

// fake is a lab without TPMs and without Keylime, whose CAs are real. It follows Keylime's rules: a registrar that refuses other certificates of agents that it
// knows, and a tenant that looks at the store when it adds one.
type fake struct {
	t    *testing.T
	dir  state.Dir
	plan plan.Plan
	set  *authority.Set

	mu    sync.Mutex
	nodes []*machine
	fail  func(what, node string) error // nil: nothing fails
	calls []string
	limit int // the most calls at once
	busy  int
}

type machine struct {
	name, ca, standing   string // of the certificate in its TPM
	registered, enrolled string // CA of the certificate at the registrar, and of that with which the tenant accepted it; "": it is not known there
	refused, off         bool
	count                int
}

func newFake(t *testing.T, names ...string) *fake {
	t.Helper()
	s := spec.Default()
	s.EKCA.Algorithm = spec.CAECCP256
	s.Nodes = spec.Nodes{}
	for _, n := range names {
		s.Nodes.List = append(s.Nodes.List, spec.Node{Name: n})
	}
	s.SetDefaults()
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, plan: p, dir: state.Dir{Lab: "fake", Path: t.TempDir()}}
	f.set = authority.Open(f.dir, p.EKCA)
	if err := f.set.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		f.nodes = append(f.nodes, &machine{name: n, ca: authority.First, standing: control.EKValid, registered: authority.First, enrolled: authority.First, count: 1})
	}
	return f
}

func (f *fake) node(name string) *machine {
	return f.nodes[slices.IndexFunc(f.nodes, func(m *machine) bool { return m.name == name })]
}

func (f *fake) Name() string                   { return "fake" }
func (f *fake) Planned() (plan.Plan, error)    { return f.plan, nil }
func (f *fake) EKCAs() (*authority.Set, error) { return f.set, nil }

// begin counts a call, and fails it where the test wants that.
func (f *fake) begin(ctx context.Context, what, node string) (func(), error) {
	f.mu.Lock()
	f.calls = append(f.calls, what+" "+node)
	f.busy++
	f.limit = max(f.limit, f.busy)
	fail := f.fail
	f.mu.Unlock()
	done := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.busy--
	}
	err := ctx.Err()
	if err == nil && fail != nil {
		err = fail(what, node)
	}
	return done, err
}

// Status also has the verifier attest every node that it knows.
func (f *fake) Status(context.Context) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s control.Status
	for _, m := range f.nodes {
		n := control.Node{Name: m.name, UUID: "uuid-of-" + m.name, State: fleet.StateRegistered}
		switch {
		case m.off:
			n.State = fleet.StateOff
		case m.refused:
			n.State, n.Detail = fleet.StateRefused, "No Root CA matched"
		case m.enrolled != "":
			m.count++
			n.State, n.AttestationCount = fleet.StateAttested, m.count
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s, nil
}

func (f *fake) trusts(name string) bool {
	ca, err := f.set.Get(name)
	return err == nil && ca.Trusted()
}

func (f *fake) Act(ctx context.Context, a control.Action) (string, error) {
	done, err := f.begin(ctx, a.Kind, a.Node)
	defer done()
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.node(a.Node)
	if m.off && a.Kind != control.ActionForget {
		return "", errors.New("it is off")
	}
	switch a.Kind {
	case control.ActionForget:
		m.registered, m.enrolled, m.refused, m.count = "", "", false, 0
	case control.ActionRestartAgent:
		if m.registered != "" && m.registered != m.ca {
			return "", errors.New("register: answered 403")
		}
		m.registered = m.ca
	case control.ActionEnrol:
		m.enrolled, m.count, m.refused = "", 0, !f.trusts(m.registered)
		if m.refused {
			return "", errors.New("the tenant refused it")
		}
		m.enrolled = m.registered
	}
	return a.Kind + "ed", nil
}

func (f *fake) EK(ctx context.Context, o control.EKOrder) (control.EKDone, error) {
	if o.Kind != control.EKSurvey {
		done, err := f.begin(ctx, o.Kind, o.CA+o.Node)
		defer done()
		if err != nil {
			return control.EKDone{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o.Kind {
	case control.EKSurvey:
		var d control.EKDone
		for _, m := range f.nodes {
			e := control.EKNode{Node: m.name, CA: m.ca, Serial: "1", Standing: m.standing, Registered: control.EKAnother, Accepted: m.enrolled == m.ca}
			switch {
			case m.off:
				e = control.EKNode{Node: m.name, Error: "the TPM is off"}
			case m.registered == "":
				e.Registered = control.EKUnknown
			case m.registered == m.ca:
				e.Registered = control.EKSame
			}
			d.Nodes = append(d.Nodes, e)
		}
		return d, nil
	case control.EKIssue:
		m := f.node(o.Node)
		if m.off {
			return control.EKDone{}, errors.New("it is off")
		}
		m.ca, m.standing = o.CA, control.EKValid
		return control.EKDone{Text: "issued"}, nil
	}
	return fleet.OrderCA(f.dir, f.set, o)
}

func (f *fake) Verify(context.Context) (report.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := report.Result{Lab: "fake", Started: time.Now()}
	for _, m := range f.nodes {
		for _, point := range []string{"1 registration", "2 ek", "4 routing", "5 liveness"} {
			c := report.Check{ID: "of", Point: point, Subject: m.name, Status: report.Pass}
			if active, err := f.set.Active(); err != nil || m.enrolled != active.Name || m.ca != active.Name || m.off {
				c.Status, c.Error = report.Fail, fmt.Sprintf("%+v", m)
			}
			r.Checks = append(r.Checks, c)
		}
	}
	cas, err := f.set.List()
	if err != nil {
		return r, err
	}
	for _, ca := range cas {
		if ca.Retired {
			c := report.Check{ID: "retired-ca", Point: "2 ek", Subject: ca.Name, Status: report.Pass}
			if ca.Trusted() {
				c.Status, c.Error = report.Fail, "still trusted"
			}
			r.Checks = append(r.Checks, c)
		}
	}
	return r, nil
}
