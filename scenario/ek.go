package scenario

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/rotate"
	"keylab.dev/keylab/report"
)

// ekAction is an action that is an order about EK CAs or EK certificates.
type ekAction struct {
	about             string
	nodes             bool // it is about nodes
	required, options []string
}

var ekActions = map[string]ekAction{
	control.EKNewCA:     {about: "make another EK CA, which nobody trusts yet", required: []string{"ca"}, options: []string{"algorithm"}},
	control.EKTrust:     {about: "put a CA's certificates into the tpm_cert_store", required: []string{"ca"}, options: []string{"level"}},
	control.EKDistrust:  {about: "take a CA's certificates out of the tpm_cert_store", required: []string{"ca"}},
	control.EKActivate:  {about: "have new TPMs get their certificates from this CA", required: []string{"ca"}},
	control.EKCrossSign: {about: "have another CA certify this CA too, and trust that certificate", required: []string{"ca", "by"}},
	control.EKLeak:      {about: "give the CA's key to a thief, who certifies a TPM of his own", required: []string{"ca"}},
	control.EKIssue: {
		about: "put another certificate for the same EK into the node's TPM", nodes: true,
		options: []string{"ca", "expired", "absent", "leaked", "supersede", "restart"},
	},
	control.EKRevoke: {about: "revoke the certificate that is in the node's TPM", nodes: true, options: []string{"reason"}},
}

func (e ekAction) action(kind string) action {
	a := action{about: e.about, required: e.required, options: e.options}
	if e.nodes {
		a.minNodes, a.maxNodes = 1, many
	}
	a.do = func(ctx context.Context, r *runner, s Step) (string, error) {
		o := control.EKOrder{
			Kind: kind, CA: s.With["ca"], By: s.With["by"], Level: s.With["level"], Algorithm: s.With["algorithm"], Reason: s.With["reason"],
			Expired: s.With["expired"] == "true", Absent: s.With["absent"] == "true", Leaked: s.With["leaked"] == "true",
			Supersede: s.With["supersede"] == "true", Restart: s.With["restart"] == "true",
		}
		if !e.nodes {
			return r.order(ctx, o)
		}
		return r.eachNode(s, func(node string) (string, error) {
			o.Node = node
			return r.order(ctx, o)
		})
	}
	return a
}

// rotateAction is `keylab ek rotate`. That the rotation is not proved to be complete is an error.
var rotateAction = action{
	about: "bring the whole lab to another EK CA, as `keylab ek rotate` does: overlap, at-once or emergency", required: []string{"strategy"}, options: []string{"to", "algorithm"},
	do: func(ctx context.Context, r *runner, s Step) (string, error) {
		result, err := rotate.Run(ctx, r.lab, rotate.Options{Strategy: rotate.Strategy(s.With["strategy"]), To: s.With["to"], Algorithm: s.With["algorithm"]})
		for _, c := range result.Commands {
			r.runbook = append(r.runbook, fmt.Sprintf("# %d. %s: %s", c.Number, c.Where, c.What))
			r.runbook = append(r.runbook, c.Run...)
		}
		if err != nil {
			return "", err
		}
		if !result.Passed() {
			return "", fmt.Errorf("the rotation to %s is not complete: %s", result.To, unproved(result))
		}
		return fmt.Sprintf("all nodes are on %s: %s, %s; %s", result.To, plural(len(result.Commands), "command"), plural(len(result.Refused), "refusal"), longestGap(result.Gaps)), nil
	},
}

// unproved says what kept a rotation from being complete.
func unproved(r rotate.Result) string {
	var why []string
	for _, c := range r.Proof.Checks {
		if !c.Passed() {
			why = append(why, c.Name()+" ("+c.Error+")")
		}
	}
	for _, n := range r.LeftOut {
		why = append(why, n.Node+" was left out: "+n.Why)
	}
	return strings.Join(why, "; ")
}

func longestGap(gaps []report.Gap) string {
	if len(gaps) == 0 {
		return "no node was attested"
	}
	g := slices.MaxFunc(gaps, func(a, b report.Gap) int { return cmp.Compare(a.Longest, b.Longest) })
	return fmt.Sprintf("the longest time without a good attestation was %s, of %s", seconds(g.Longest), g.Node)
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// order carries out one. That the registrar refuses the agent which has another certificate now is an error here.
func (r *runner) order(ctx context.Context, o control.EKOrder) (string, error) {
	done, err := r.lab.EK(ctx, o)
	if err == nil && done.Refused != "" {
		err = fmt.Errorf("%s; the registrar refused the agent: %s", done.Text, done.Refused)
	}
	return done.Text, err
}
