package parity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// Options say what is compared with keylab's own agent.
type Options struct {
	Agent   string // absolute path of the other agent's program
	Version string // its version, for the report; the program cannot be asked
	Only    string // "cases" or "verdicts"; empty: both
	// Progress is told what is being done; nil: nobody is.
	Progress func(line string)
}

// The values of Options.Only.
const (
	OnlyCases    = "cases"
	OnlyVerdicts = "verdicts"
)

// Result is a whole run.
type Result struct {
	Agent    string // the other agent's version
	SHA256   string // of its program, hexadecimal
	Keylime  string // version of the services
	Cases    []Case // those that were done
	Verdicts []VerdictCase
	Own      Observations
	Other    Observations
	Judged   map[string][2]Verdict // own, other, by VerdictCase.Name
}

// labName is the lab's, in a folder of its own.
const labName = "parity"

// The kinds of agents: names of nodes, and where in its folder the agent keeps its AK.
var kinds = []struct{ name, other, akFile string }{
	{"own", "own-2", "agent.json"},
	{"real", "real-2", "agent_data.json"},
}

// labSpec is the lab: two nodes with each kind of agent, so that hostnames can be swapped among agents of one kind.
func labSpec(agent string) spec.Spec {
	binary := spec.NodeAgent{Kind: spec.AgentBinary, Path: agent}
	s := spec.Spec{Name: labName, Nodes: spec.Nodes{List: []spec.Node{
		{Name: kinds[0].name}, {Name: kinds[1].name, Agent: binary}, {Name: kinds[0].other}, {Name: kinds[1].other, Agent: binary},
	}}}
	s.Keylime.QuoteInterval = spec.Duration(500 * time.Millisecond)
	// A reboot of the machine must not be too long for the verifier, whose retries are a second apart.
	s.Keylime.Options = map[string]map[string]string{"verifier": {"max_retries": "10", "retry_interval": "1"}}
	s.SetDefaults()
	return s
}

// Run brings the lab up, does everything to both agents, and takes the lab down. It needs what a lab needs, takes some minutes, and points
// the environment variable KEYLAB_STATE_DIR of this process to a folder of its own. The error is about the run; differences are in the
// result.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Only != "" && o.Only != OnlyCases && o.Only != OnlyVerdicts {
		return nil, fmt.Errorf("only %q: want %s or %s", o.Only, OnlyCases, OnlyVerdicts)
	}
	program, err := os.ReadFile(o.Agent)
	if err != nil {
		return nil, fmt.Errorf("the other agent: %w", err)
	}
	sum := sha256.Sum256(program)
	dir, err := os.MkdirTemp("", "keylab-parity-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the lab: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Setenv(state.EnvBase, filepath.Join(dir, "state")); err != nil {
		return nil, fmt.Errorf("the folder of labs: %w", err)
	}
	s := labSpec(o.Agent)
	p, err := lab.Plan(s)
	if err != nil {
		return nil, err
	}
	o.Progress("bringing a lab up")
	l, err := lab.Up(ctx, s, lab.UpOptions{})
	if err != nil {
		return nil, fmt.Errorf("bring the lab up: %w", err)
	}
	defer func() {
		_, e := l.Wipe(context.WithoutCancel(ctx))
		err = errors.Join(err, e)
	}()
	result = &Result{Agent: o.Version, SHA256: hex.EncodeToString(sum[:]), Keylime: p.Keylime.Version, Judged: map[string][2]Verdict{}}
	var both [2]*machine
	for i, k := range kinds {
		both[i] = &machine{lab: l, plan: p, name: k.name, other: k.other, akFile: k.akFile}
		if err := both[i].look(ctx); err != nil {
			return nil, err
		}
	}
	if o.Only != OnlyVerdicts {
		o.Progress("asking both agents")
		if err := result.ask(ctx, both); err != nil {
			return result, err
		}
	}
	if o.Only != OnlyCases {
		return result, result.judge(ctx, both, o.Progress)
	}
	return result, nil
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
func (r *Result) judge(ctx context.Context, both [2]*machine, progress func(string)) error {
	for _, c := range VerdictCases() {
		progress("verdict: " + c.Name)
		var mu sync.Mutex
		var verdicts [2]Verdict
		group, ctx := errgroup.WithContext(ctx)
		for i, m := range both {
			group.Go(func() error {
				v, err := m.judge(ctx, c)
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
		r.Judged[c.Name] = verdicts
	}
	return nil
}
