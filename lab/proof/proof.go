// Package proof tells whether a fault that was inflicted on a running lab had its effect: an experiment in which nothing happened proves nothing.
//
// A proof is something seen, such as a probe that stays without an answer while a like one is answered, or a counter that rose since a [Mark]
// was taken, which nothing but the fault explains. Wherever possible it is looked for now, so that a fault which was mended is no longer seen.
// It is written once, against what every substrate can show of itself ([Target]).
package proof

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
)

// Target is a running lab, as proofs need it.
type Target interface {
	verify.Target
	// DNSAnswers counts the answers of the lab's DNS servers, by code.
	DNSAnswers(ctx context.Context) (map[string]uint64, error)
	// AgentAddress is where a node's agent listens, as the ingress reaches it. In the push model no agent listens.
	AgentAddress(ctx context.Context, node string) (netip.AddrPort, error)
	// AgentProcess is a node's agent, and ServiceProcess the registrar, the verifier or the ingress, as a process.
	AgentProcess(ctx context.Context, node string) (Process, error)
	ServiceProcess(ctx context.Context, component string) (Process, error)
}

// Process is an agent or a service, as its substrate runs it.
type Process struct {
	Running bool
	ID      string // another one after each start
	End     End    // of one that does not run
	Detail  string // likewise: how it came to that
}

// End is how a process came to its end.
type End string

// The ways for a process to end on purpose. One that ended by itself has none of them.
const (
	EndStopped End = "stopped" // in order; frozen counts as that where it is the best a substrate can do
	EndKilled  End = "killed"
)

// silence is how long something has to stay without an answer to be called silent. What is probed answers within milliseconds, from the kernel, however
// busy programs are; and the whole proof has to come within about two seconds.
const silence = time.Second

// prover finds the proof of one kind of fault. An error is about looking; a fault that is not seen is no error.
type prover func(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error)

var provers = map[string]prover{
	control.FaultFlatNetwork:    flatNetwork,
	control.FaultOpenRouter:     openRouter,
	control.FaultSwappedRoute:   swappedRoute,
	control.FaultDeadAgent:      deadAgent,
	control.FaultPartition:      partition,
	control.FaultDeadTPM:        deadTPM,
	control.FaultAgentKilled:    agentKilled,
	control.FaultAgentRestart:   agentRestart,
	control.FaultServiceDown:    serviceDown,
	control.FaultServiceKilled:  serviceKilled,
	control.FaultServiceRestart: serviceRestart,
	control.FaultDNSFailure:     dnsFailure,
	control.FaultUnknownName:    unknownName,
	control.FaultIngressDown:    ingressDown,
	control.FaultIngressRestart: ingressRestart,
	control.FaultMovedAddress:   movedAddress,
	control.FaultDatabaseFull:   databaseFull,
	control.FaultClockSkew:      clockSkew,
	control.FaultLatency:        twice(latency),
	control.FaultLoss:           twice(loss),
	control.FaultNAT:            nat,
}

// twice believes what is seen by the time that answers take only when it is seen again: a machine that stands still for a moment looks like that, once.
func twice(prove prover) prover {
	return func(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
		if p, err := prove(ctx, t, f, since); err != nil || !p.Fired {
			return p, err
		}
		return prove(ctx, t, f, since)
	}
}

// Fired looks for the proof of a fault; whether f is to be cleared does not matter. It takes about two seconds at most.
func Fired(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
	if err := f.Check(); err != nil {
		return control.Proof{}, err
	}
	for _, name := range f.Nodes {
		if _, err := findNode(t, name); err != nil {
			return control.Proof{}, err
		}
	}
	prove, ok := provers[f.Kind]
	if !ok {
		return control.Proof{}, fmt.Errorf("nothing is known by which fault %s could be seen", f.Kind)
	}
	p, err := prove(ctx, t, f, since)
	if err != nil {
		return control.Proof{}, fmt.Errorf("look for the effect of fault %s: %w", f.Kind, err)
	}
	return p, nil
}

// markTimeout bounds each question to a service; one that is down must not hold a mark up. processTimeout bounds what the substrate itself is asked: without an
// answer no restart could be proved later, so that a busy machine gets its time.
const (
	markTimeout    = 2 * time.Second
	processTimeout = 20 * time.Second
)

// Mark counts what later proofs compare with. What cannot be asked now, such as a verifier that is down, is left out.
func Mark(ctx context.Context, t Target) control.Mark {
	long, cancelLong := context.WithTimeout(ctx, processTimeout)
	defer cancelLong()
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	m := control.Mark{Time: time.Now(), Ingress: t.Plan().Keylime.Ingress, Arrivals: map[string]uint64{}, Processes: map[string]string{}, Logs: map[string]int64{}}
	nodes := t.Nodes()
	var wait sync.WaitGroup
	var mu sync.Mutex
	ask := func(what func() (store func(), err error)) {
		wait.Go(func() {
			store, err := what()
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			store()
		})
	}
	ask(func() (func(), error) {
		c, err := t.RouterCounters(ctx)
		return func() { m.Router = c }, err
	})
	ask(func() (func(), error) {
		c, err := t.Ingress(ctx)
		return func() { m.Forwarded, m.Refused = c.Forwarded, c.Refused }, err
	})
	ask(func() (func(), error) {
		c, err := t.DNSAnswers(ctx)
		return func() { m.DNS = c }, err
	})
	ask(func() (func(), error) {
		agents, err := t.Verifier().Agents(ctx)
		counts := map[string]int{}
		for _, n := range nodes {
			if a, ok := agents[n.UUID]; ok {
				counts[n.Name] = a.AttestationCount
			}
		}
		return func() { m.Attestations = counts }, err
	})
	for _, name := range []string{plan.Registrar, plan.Verifier, plan.Ingress} {
		ask(func() (func(), error) {
			p, err := t.ServiceProcess(long, name)
			return func() { m.Processes[name] = p.ID }, err
		})
	}
	if disks, ok := t.(Disks); ok {
		for _, name := range []string{plan.Registrar, plan.Verifier} {
			ask(func() (func(), error) {
				end, err := disks.LogEnd(ctx, name)
				return func() { m.Logs[name] = end }, err
			})
		}
	}
	for _, n := range nodes {
		ask(func() (func(), error) {
			p, err := t.AgentProcess(long, n.Name)
			return func() { m.Processes[n.Name] = p.ID }, err
		})
		ask(func() (func(), error) {
			count, err := n.Arrived()
			return func() { m.Arrivals[n.Name] = count }, err
		})
	}
	wait.Wait()
	return m
}

func findNode(t Target, name string) (verify.Node, error) {
	for _, n := range t.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return verify.Node{}, fmt.Errorf("the lab has no node %q; it has %s", name, t.Plan().NodeNames())
}

// another is a node of the lab that is well and is none of these, to compare with.
func another(t Target, not ...string) (verify.Node, bool) {
	for _, n := range t.Nodes() {
		well := n.Fault == ""
		for _, name := range not {
			well = well && n.Name != name
		}
		if well {
			return n, true
		}
	}
	return verify.Node{}, false
}

// off tells whether a node is switched off: what it then does not do is no fault's effect.
func off(n verify.Node) bool { return strings.HasPrefix(n.Fault, fleet.StateOff) }

func tpmDead(n verify.Node) bool { return strings.HasPrefix(n.Fault, fleet.StateTPMDead) }

func seen(format string, args ...any) (control.Proof, error) {
	return control.Proof{Fired: true, Evidence: fmt.Sprintf(format, args...)}, nil
}

func unseen(format string, args ...any) (control.Proof, error) {
	return control.Proof{Evidence: fmt.Sprintf(format, args...)}, nil
}

// answered tells whether anything came back from the other side: a refusal too does.
func answered(r netlab.ProbeResult) bool {
	return r.Outcome == netlab.OutcomeOpen || r.Outcome == netlab.OutcomeRefused
}

// aim is one probe.
type aim struct {
	from, protocol string
	to             netip.AddrPort
}

func (a aim) String() string { return fmt.Sprintf("%s → %s/%s", a.from, a.to, a.protocol) }

// probeAll makes all probes at once.
func probeAll(ctx context.Context, t Target, aims []aim) []netlab.ProbeResult {
	return probeFor(ctx, t, aims, silence)
}

func probeFor(ctx context.Context, t Target, aims []aim, timeout time.Duration) []netlab.ProbeResult {
	results := make([]netlab.ProbeResult, len(aims))
	var wait sync.WaitGroup
	for i, a := range aims {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout) // of each one's own: on a busy machine they do not all begin at once
			defer cancel()
			results[i] = t.Probe(ctx, a.from, a.protocol, a.to)
		})
	}
	wait.Wait()
	return results
}

// outcomes says what probes found.
func outcomes(aims []aim, results []netlab.ProbeResult) string {
	var parts []string
	for i, a := range aims {
		parts = append(parts, fmt.Sprintf("%s: %s", a, results[i].Outcome))
	}
	return strings.Join(parts, ", ")
}
