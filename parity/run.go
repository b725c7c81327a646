package parity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// Options say what is compared with keylab's own agent.
type Options struct {
	Agent     string // absolute path of the other agent's program, of the pull model; empty: nothing is done in that model
	PushAgent string // likewise, of the push model
	Version   string // the version of both, for the report; programs cannot be asked
	Only      string // "cases", "verdicts" or "push"; empty: all
	Case      string // a regular expression: only verdicts of such names; empty: all
	// Progress is told what is being done; nil: nobody is.
	Progress func(line string)
}

// The values of Options.Only.
const (
	OnlyCases    = "cases"
	OnlyVerdicts = "verdicts" // of the pull model
	OnlyPush     = "push"     // the verdicts of the push model
)

func (o Options) check() error {
	if _, err := regexp.Compile(o.Case); err != nil {
		return fmt.Errorf("case: %w", err)
	}
	switch o.Only {
	case "", OnlyCases, OnlyVerdicts, OnlyPush:
	default:
		return fmt.Errorf("only %q: want %s, %s or %s", o.Only, OnlyCases, OnlyVerdicts, OnlyPush)
	}
	for _, agent := range []string{o.Agent, o.PushAgent} {
		if agent == "" {
			continue
		}
		if _, err := os.Stat(agent); err != nil {
			return fmt.Errorf("the other agent: %w", err)
		}
	}
	if o.Agent == "" && o.Only != "" && o.Only != OnlyPush {
		return fmt.Errorf("only %s: this needs an agent of the pull model", o.Only)
	}
	if o.PushAgent == "" && (o.Only == OnlyPush || o.Agent == "") {
		return errors.New("no agent of the push model is given")
	}
	return nil
}

// Result is a whole run.
type Result struct {
	Agent    string   // the other agents' version
	Models   []string // in which they were compared
	Keylime  string   // version of the services
	Cases    []Case   // those that were done
	Verdicts []VerdictCase
	Own      Observations
	Other    Observations
	Judged   map[string][2]Verdict // own, other, by VerdictCase.ID
}

// Run brings a lab up for each stage, does everything to both agents, and takes the lab down. It needs what a lab needs, takes some minutes, and points
// the environment variable KEYLAB_STATE_DIR of this process to a folder of its own. The error is about the run; differences are in the
// result.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "keylab-parity-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the lab: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Setenv(state.EnvBase, filepath.Join(dir, "state")); err != nil {
		return nil, fmt.Errorf("the folder of labs: %w", err)
	}
	tell := o.Progress
	var telling sync.Mutex
	o.Progress = func(line string) {
		telling.Lock()
		defer telling.Unlock()
		tell(line)
	}
	// Side by side: most of the time both wait for the verifier.
	results := make([]Result, len(stages))
	group, ctx := errgroup.WithContext(ctx)
	for i, s := range stages {
		if o.wants(s) {
			group.Go(func() error { return results[i].compare(ctx, o, s) })
		}
	}
	err = group.Wait()
	return merge(o.Version, results), err
}

// wants tells whether a stage's lab is needed.
func (o Options) wants(s stage) bool {
	if s.mode == spec.ModePush {
		return o.PushAgent != "" && (o.Only == "" || o.Only == OnlyPush)
	}
	return o.Agent != "" && o.Only != OnlyPush && (!s.told || o.Only != OnlyCases)
}

// merge makes one result of those of all stages.
func merge(version string, results []Result) *Result {
	all := &Result{Agent: version, Judged: map[string][2]Verdict{}}
	for _, r := range results {
		for _, m := range r.Models {
			if !slices.Contains(all.Models, m) {
				all.Models = append(all.Models, m)
			}
		}
		if len(r.Cases) > 0 { // of one stage alone
			all.Cases, all.Own, all.Other = r.Cases, r.Own, r.Other
		}
		all.Verdicts = append(all.Verdicts, r.Verdicts...)
		maps.Copy(all.Judged, r.Judged)
		if r.Keylime != "" {
			all.Keylime = r.Keylime
		}
	}
	return all
}

// compare does everything of one stage, in a lab of its own.
func (r *Result) compare(ctx context.Context, o Options, on stage) (err error) {
	chosen := regexp.MustCompile(o.Case) // check has seen it
	cases := slices.DeleteFunc(on.cases(), func(c VerdictCase) bool { return !chosen.MatchString(c.Name) })
	asks := on == pullStage && o.Only != OnlyVerdicts
	if len(cases) == 0 && !asks {
		return nil
	}
	agent := o.Agent
	if on.mode == spec.ModePush {
		agent = o.PushAgent
	}
	s, err := on.spec(agent)
	if err != nil {
		return err
	}
	p, err := lab.Plan(s)
	if err != nil {
		return err
	}
	o.Progress(fmt.Sprintf("bringing the lab %s up", s.Name))
	l, err := lab.Up(ctx, s, lab.UpOptions{})
	if err != nil {
		return fmt.Errorf("bring the lab up: %w", err)
	}
	defer func() {
		_, e := l.Wipe(context.WithoutCancel(ctx))
		err = errors.Join(err, e)
	}()
	r.Judged = map[string][2]Verdict{}
	r.Models, r.Keylime = append(r.Models, string(on.mode)), p.Keylime.Version
	both := [2]machines{}
	for i, k := range kinds {
		if both[i], err = k.machines(ctx, l, p); err != nil {
			return err
		}
	}
	if asks {
		o.Progress("asking both agents")
		if err := r.ask(ctx, [2]*machine{both[0].plain, both[1].plain}); err != nil {
			return err
		}
	}
	if o.Only == OnlyCases {
		return nil
	}
	return r.judge(ctx, cases, both, o.Progress)
}

// ask does all cases to both agents, at the same time.
func (r *Result) ask(ctx context.Context, both [2]*machine) error {
	var seen [2]Observations
	group, ctx := errgroup.WithContext(ctx)
	for i, m := range both {
		group.Go(func() (err error) {
			seen[i], err = m.observe(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	r.Cases, r.Own, r.Other = Cases(), seen[0], seen[1]
	return nil
}

// observe does all cases to one agent: first by way of the ingress, from the tenant's host, and then on the agent's own host.
func (m *machine) observe(ctx context.Context) (Observations, error) {
	o := m.order(doCases)
	o.Address = fmt.Sprintf("%s:%d", m.host, plan.IngressPort)
	var all, direct Observations
	if err := onHost(ctx, m.lab, plan.Tenant, o, &all); err != nil {
		return nil, err
	}
	n, ok := m.plan.Node(m.name)
	if !ok {
		return nil, fmt.Errorf("the plan has no node %s", m.name)
	}
	o.Direct, o.Address = true, netip.AddrPortFrom(n.Address, n.Agent.Port).String()
	if err := onHost(ctx, m.lab, m.name, o, &direct); err != nil {
		return nil, err
	}
	maps.Copy(all, direct)
	return all, nil
}

// judge has the verifier's verdicts on both agents, case by case.
func (r *Result) judge(ctx context.Context, cases []VerdictCase, both [2]machines, progress func(string)) error {
	for _, c := range cases {
		progress(c.ID())
		var mu sync.Mutex
		var verdicts [2]Verdict
		group, ctx := errgroup.WithContext(ctx)
		for i, m := range both {
			group.Go(func() error {
				v, err := m.of(c).judge(ctx, c)
				mu.Lock()
				defer mu.Unlock()
				verdicts[i] = v
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		r.Verdicts = append(r.Verdicts, c)
		r.Judged[c.ID()] = verdicts
	}
	return nil
}
