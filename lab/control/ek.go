package control

import (
	"context"
	"time"
)

// EKOrder asks the lab to do one thing with its EK CAs, its tpm_cert_store, or a node's EK certificate.
type EKOrder struct {
	Kind string `json:"kind"`           // one of the kinds below
	CA   string `json:"ca,omitempty"`   // a CA's name; for EKIssue "" is the active one
	By   string `json:"by,omitempty"`   // EKCrossSign: the CA that signs
	Node string `json:"node,omitempty"` // EKIssue, EKRevoke
	// Level is what of the CA is trusted, for EKTrust: all, issuer or root; "" is all.
	Level string `json:"level,omitempty"`
	// Algorithm is that of the new CA's keys, for EKNewCA; "" is the first CA's.
	Algorithm string `json:"algorithm,omitempty"`
	// Expired, Absent and Leaked say what EKIssue puts into the TPM: a certificate that has expired, none at all, or one that a thief of the CA's key made, which
	// no record holds.
	Expired bool `json:"expired,omitempty"`
	Absent  bool `json:"absent,omitempty"`
	Leaked  bool `json:"leaked,omitempty"`
	// Supersede has EKIssue revoke the certificate that was there, as superseded.
	Supersede bool `json:"supersede,omitempty"`
	// Restart has EKIssue start the node's agent again, so that it reads the new certificate and registers with it.
	Restart bool `json:"restart,omitempty"`
	// Reason is that of EKRevoke, in the words of RFC 5280, section 5.3.1; "" is keyCompromise.
	Reason string `json:"reason,omitempty"`
}

// The kinds of EKOrder.
const (
	EKNewCA     = "new-ca"     // make another CA, which nobody trusts yet
	EKTrust     = "trust"      // put a CA's certificates into the tpm_cert_store
	EKDistrust  = "distrust"   // take them out
	EKActivate  = "activate"   // new TPMs get their certificates from it from now on
	EKCrossSign = "cross-sign" // have another CA certify it too, and trust that certificate
	EKLeak      = "leak"       // somebody gets a CA's key, and certifies a TPM of his own with it
	EKIssue     = "issue"      // put another certificate for the same EK into a node's TPM
	EKRevoke    = "revoke"     // revoke the certificate that is in a node's TPM
	EKSurvey    = "survey"     // look at the certificate of every node
)

// EKOrders are all kinds of EKOrder.
var EKOrders = []string{EKNewCA, EKTrust, EKDistrust, EKActivate, EKCrossSign, EKLeak, EKIssue, EKRevoke, EKSurvey}

// AboutNodes tells whether the order needs the nodes, and so a lab that runs: the others are about files of its folder.
func (o EKOrder) AboutNodes() bool {
	return o.Kind == EKIssue || o.Kind == EKRevoke || o.Kind == EKSurvey
}

// EKDone is what came of an EKOrder.
type EKDone struct {
	Text        string   `json:"text"`                  // what was done, for the user
	Hint        string   `json:"hint,omitempty"`        // what the user should know or do then
	CA          string   `json:"ca,omitempty"`          // that it was about
	Serial      string   `json:"serial,omitempty"`      // of the certificate that was made or revoked, hexadecimal
	Certificate []byte   `json:"certificate,omitempty"` // that was made, DER
	Files       []string `json:"files,omitempty"`       // in the tpm_cert_store: of the CA, after EKTrust and EKCrossSign; that vouch for the thief, after EKLeak
	// Refused is what the registrar said when it refused the agent with its new certificate, after EKIssue with Restart.
	Refused string   `json:"refused,omitempty"`
	Nodes   []EKNode `json:"nodes,omitempty"` // EKSurvey
}

// EKNode is the EK certificate of one node.
type EKNode struct {
	Node   string `json:"node"`
	Serial string `json:"serial,omitempty"` // of the certificate in the TPM, hexadecimal; "": there is none
	CA     string `json:"ca,omitempty"`     // whose key signed it; "": none that the lab knows
	// Standing is what the CA's record and the certificate's dates say of it.
	Standing string    `json:"standing,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	// TrustedBy is the file of the tpm_cert_store that vouches for it, by the rule of Keylime's tenant; "": none does.
	TrustedBy string `json:"trusted_by,omitempty"`
	// Registered compares it with what the registrar holds of the agent.
	Registered string `json:"registered,omitempty"`
	// Accepted says that the tenant accepted the agent since the certificate was issued.
	Accepted bool `json:"accepted"`
	// Certificate is that in the TPM, DER.
	Certificate []byte `json:"certificate,omitempty"`
	Error       string `json:"error,omitempty"` // why the node could not be looked at
}

// What an EKNode's Standing can be.
const (
	EKValid      = "valid"
	EKRevoked    = "revoked"
	EKSuperseded = "superseded"
	EKUnrecorded = "unrecorded" // the CA's key signed it, and its record does not hold it
	EKExpired    = "expired"
	EKForeign    = "foreign" // no CA of the lab signed it, but the stranger's or one that the lab does not know
)

// What an EKNode's Registered can be.
const (
	EKSame    = "same"
	EKAnother = "another"
	EKNone    = "none"
	EKUnknown = "unknown" // the registrar does not know the agent
)

// EK does one thing with the lab's EK CAs or EK certificates.
func (c *Client) EK(ctx context.Context, o EKOrder) (done EKDone, err error) {
	err = c.call(ctx, "POST", "ek", o, &done)
	return done, err
}
