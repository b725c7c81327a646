package scenario

import (
	"context"
	"fmt"

	"keylab.dev/keylab/lab/control"
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

// order carries out one. That the registrar refuses the agent which has another certificate now is an error here.
func (r *runner) order(ctx context.Context, o control.EKOrder) (string, error) {
	done, err := r.lab.EK(ctx, o)
	if err == nil && done.Refused != "" {
		err = fmt.Errorf("%s; the registrar refused the agent: %s", done.Text, done.Refused)
	}
	return done.Text, err
}
