package rotate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/report"
)

// Lab is what a rotation needs of a lab; *lab.Lab has it.
type Lab interface {
	Name() string
	Planned() (plan.Plan, error)
	EKCAs() (*authority.Set, error)
	Status(ctx context.Context) (control.Status, error)
	Act(ctx context.Context, a control.Action) (string, error)
	EK(ctx context.Context, o control.EKOrder) (control.EKDone, error)
	Verify(ctx context.Context) (report.Result, error)
}

// Strategy is a way to rotate.
type Strategy string

// The strategies.
const (
	Overlap   Strategy = "overlap"
	AtOnce    Strategy = "at-once"
	Emergency Strategy = "emergency"
)

// Strategies are all of them.
var Strategies = []Strategy{Overlap, AtOnce, Emergency}

// Options say how to rotate.
type Options struct {
	Strategy Strategy // "": Overlap
	// To is the new CA's name; it is made unless it is there. "": that of a rotation which was interrupted, one that was made and never used, or a new one.
	To        string
	Algorithm string        // of the keys of a CA that is made; "": as the first one's
	Pause     time.Duration // between two nodes, with Overlap
	Parallel  int           // how many nodes at once, with AtOnce and Emergency; 0: as many as the substrate bears
	Poll      time.Duration // how often the lab is asked how its nodes are: the error of every gap; 0: 200 ms
	DryRun    bool          // write the runbook, and do nothing
	// OnCommand receives every command when it is over, or, with DryRun, when it is planned; one after the other. nil: nobody does.
	OnCommand func(Command)
}

// Status is how a command ended.
type Status string

// The statuses.
const (
	Planned Status = "planned"
	Done    Status = "done"
	Failed  Status = "failed"
)

// Command is one step of the runbook: what an operator would run, and what came of it in the lab.
type Command struct {
	Number int      `json:"number"`
	Where  string   `json:"where"` // who runs it, or where
	What   string   `json:"what"`
	Node   string   `json:"node,omitempty"`
	Run    []string `json:"run"` // lines for a shell
	Status Status   `json:"status"`
	Did    string   `json:"did,omitempty"`   // what came of it
	Error  string   `json:"error,omitempty"` // why it failed
	// At is when it began, from the start of the rotation.
	At       time.Duration `json:"at_ns"`
	Duration time.Duration `json:"duration_ns"`
}

// Refusal is one that a rotation met.
type Refusal struct {
	Node    string `json:"node"`
	By      string `json:"by"`      // "registrar" or "tenant"
	Message string `json:"message"` // in Keylime's words
}

// LeftOut is a node that got no new certificate, on purpose.
type LeftOut struct {
	Node string `json:"node"`
	Why  string `json:"why"`
	// Expelled says that verifier and registrar were told to forget it.
	Expelled bool `json:"expelled"`
}

// Result is what came of a rotation.
type Result struct {
	Lab      string   `json:"lab"`
	Strategy Strategy `json:"strategy"`
	From     []string `json:"from"` // CAs that the rotation leaves
	To       string   `json:"to"`
	DryRun   bool     `json:"dry_run,omitempty"`
	// ProofDue says that an earlier rotation to this CA had done all but, perhaps, prove it.
	ProofDue bool          `json:"proof_due,omitempty"`
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration_ns"`
	Commands []Command     `json:"commands"`
	// Gaps are how long each node went without a good attestation, as seen by asking again and again.
	Gaps    []report.Gap `json:"gaps"`
	Refused []Refusal    `json:"refused"`
	LeftOut []LeftOut    `json:"left_out"`
	// StillTrusted are nodes that the verifier attested again when no CA of the tpm_cert_store vouched for them any more (Emergency).
	StillTrusted []string `json:"still_trusted,omitempty"`
	// Proof are the lab's own checks of registration, EK certificates and liveness afterwards, of all nodes but those that were left out, of which it is
	// checked that the verifier does not trust them.
	Proof report.Result `json:"-"`
}

// Passed tells whether the rotation was proved to be complete.
func (r Result) Passed() bool { return r.Proof.Passed() }

// MarshalJSON writes the proof in the form of report.WriteJSON, as "proof", which is not there before there is one.
func (r Result) MarshalJSON() ([]byte, error) {
	type plain Result
	out := struct {
		plain
		Passed bool            `json:"passed"`
		Proof  json.RawMessage `json:"proof,omitempty"`
	}{plain: plain(r), Passed: r.Passed()}
	if len(r.Proof.Checks) > 0 {
		var b bytes.Buffer
		if err := report.WriteJSON(&b, r.Proof); err != nil {
			return nil, err
		}
		out.Proof = b.Bytes()
	}
	return json.Marshal(out)
}

// Run rotates. The error says what kept the rotation from coming to its end; the Result then has what was done until then, and another Run goes on from
// there. That the rotation came to its end and is not complete, as when a node is off, is no error: see Result.Passed.
func Run(ctx context.Context, l Lab, o Options) (Result, error) {
	if o.Strategy == "" {
		o.Strategy = Overlap
	}
	if !slices.Contains(Strategies, o.Strategy) {
		return Result{}, fmt.Errorf("there is no strategy %q; there are %v", o.Strategy, Strategies)
	}
	r, err := prepare(ctx, l, o)
	if err != nil {
		return Result{}, err
	}
	if !o.DryRun {
		r.watch = newWatch(l, r.status, r.started, cmp.Or(o.Poll, defaultPoll))
		defer r.watch.stop()
	}
	switch o.Strategy {
	case Overlap:
		err = r.overlap(ctx)
	case AtOnce:
		err = r.atOnce(ctx)
	case Emergency:
		err = r.emergency(ctx)
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && !o.DryRun {
		if r.result.Proof, err = r.proof(ctx); err == nil && r.result.Passed() {
			err = r.set.MarkProved(r.target.Name)
		}
	}
	r.result.Duration = time.Since(r.started)
	if !o.DryRun {
		r.result.Gaps = r.watch.gaps(r.result.Refused)
	}
	return r.result, err
}
