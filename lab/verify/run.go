package verify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/report"
)

// The points, in the order of the report.
const (
	pointRegistration = "1 registration"
	pointEK           = "2 ek"
	pointSeparation   = "3 separation"
	pointRouting      = "4 routing"
	pointIdentity     = "4 identity"
	pointLiveness     = "5 liveness"
	pointPayload      = "6 payload"
)

// Options are the time limits of verify.
type Options struct {
	// ProbeTimeout is how long a forbidden flow may stay silent until it counts as blocked. Default 800 ms: below the
	// second after which TCP sends its SYN again, so that one probe is one packet (RFC 6298, section 2.1).
	ProbeTimeout time.Duration
	// Liveness is how long an attestation may take to arrive. Default: ten quote intervals, at least 30 s: a verifier whose one connection fell into a change of
	// the network notices that after the 20 s that its HTTP client (tornado) gives a connection, and then asks again.
	Liveness time.Duration
}

// check is one claim: run returns its evidence, or why the claim does not hold.
type check struct {
	id, point, subject string
	run                func(ctx context.Context) (evidence string, err error)
}

// run carries out the checks, a few at once, and keeps their order in the result.
func runChecks(ctx context.Context, checks []check) []report.Check {
	results := make([]report.Check, len(checks))
	slots := make(chan struct{}, parallelChecks)
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			results[i] = c.result(ctx)
		}()
	}
	wg.Wait()
	return results
}

// parallelChecks bounds how many checks run at once; they mostly wait.
const parallelChecks = 16

func (c check) result(ctx context.Context) report.Check {
	start := time.Now()
	r := report.Check{ID: c.id, Point: c.point, Subject: c.subject, Status: report.Pass}
	evidence, err := c.run(ctx)
	r.Evidence, r.Duration = evidence, time.Since(start)
	if err != nil {
		r.Status, r.Error = report.Fail, err.Error()
	}
	return r
}

// Run carries out all checks against a running lab. The proofs run one after the other where one would disturb
// another's counters: separation before routing; liveness, which mostly waits, beside them.
func Run(ctx context.Context, t Target, o Options) report.Result {
	p := t.Plan()
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = 800 * time.Millisecond
	}
	if o.Liveness == 0 {
		o.Liveness = max(30*time.Second, 10*time.Duration(p.Keylime.QuoteInterval))
	}
	result := report.Result{Lab: p.Lab, Started: time.Now()}
	v := &verification{target: t, plan: p, options: o, nodes: t.Nodes()}

	live := make(chan []report.Check, 1)
	go func() { live <- runChecks(ctx, v.liveness()) }()
	v.records = v.fetchRecords(ctx)
	result.Checks = append(result.Checks, runChecks(ctx, v.registration())...)
	result.Checks = append(result.Checks, runChecks(ctx, v.endorsement())...)
	result.Checks = append(result.Checks, v.separation(ctx)...)
	if p.Keylime.Push() {
		result.Checks = append(result.Checks, runChecks(ctx, v.identity())...)
	} else {
		result.Checks = append(result.Checks, runChecks(ctx, v.routing())...)
	}
	result.Checks = append(result.Checks, runChecks(ctx, v.measurements())...)
	result.Checks = append(result.Checks, <-live...)
	result.Checks = append(result.Checks, runChecks(ctx, v.payloads())...)
	result.Duration = time.Since(result.Started)
	return result
}

// verification is one run.
type verification struct {
	target  Target
	plan    plan.Plan
	options Options
	nodes   []Node
	records records
}

// records are the registrar's answers, asked for once.
type records struct {
	all    []string
	allErr error
	agents map[string]*keylime.RegistrarAgent // by UUID
	errs   map[string]error
}

func (v *verification) fetchRecords(ctx context.Context) records {
	r := records{agents: map[string]*keylime.RegistrarAgent{}, errs: map[string]error{}}
	r.all, r.allErr = v.target.Registrar().Agents(ctx)
	for _, n := range v.nodes {
		a, err := v.target.Registrar().Agent(ctx, n.UUID)
		if err != nil {
			r.errs[n.UUID] = fmt.Errorf("ask the registrar for agent %s: %w", n.UUID, err)
			continue
		}
		r.agents[n.UUID] = a
	}
	return r
}

// of is the registrar's record of a node.
func (r records) of(n Node) (*keylime.RegistrarAgent, error) {
	if n.UUID == "" {
		return nil, fmt.Errorf("node %s has no UUID: its TPM or its agent never started", n.Name)
	}
	if err := r.errs[n.UUID]; err != nil {
		return nil, err
	}
	return r.agents[n.UUID], nil
}

// perNode makes one check for each node.
func (v *verification) perNode(id, point string, run func(ctx context.Context, n Node) (string, error)) []check {
	checks := make([]check, len(v.nodes))
	for i, n := range v.nodes {
		checks[i] = check{id, point, n.Name, func(ctx context.Context) (string, error) { return run(ctx, n) }}
	}
	return checks
}
