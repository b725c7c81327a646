package fleet

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/lab/verify"
)

// Endorsements is what a substrate can do to its nodes' EK certificates. N is its node.
type Endorsements[N any] interface {
	Machines[N]
	// Nodes are all nodes, in the plan's order.
	Nodes() []N
	// UUID is that of a node's agent.
	UUID(n N) string
	// Enrolment is what the tenant said last of a node.
	Enrolment(n N) verify.Enrolment
	// Endorsement reads EK and EK certificate out of a node's TPM.
	Endorsement(ctx context.Context, n N) (verify.TPMIdentity, error)
	// Endorse puts another certificate (DER) for the same EK into a node's TPM, or, without one, takes out that which is there.
	Endorse(ctx context.Context, n N, der []byte) error
}

// EKLab is what orders about EK certificates need of a lab.
type EKLab struct {
	Dir         state.Dir
	Authorities *authority.Set
	Registrar   *keylime.RegistrarClient
}

// OrderEK carries out any order about EK CAs and EK certificates.
func OrderEK[N any](ctx context.Context, l EKLab, m Endorsements[N], o control.EKOrder) (control.EKDone, error) {
	if !o.AboutNodes() {
		return OrderCA(l.Dir, l.Authorities, o)
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if o.Kind == control.EKSurvey {
		return survey(ctx, l, m), nil
	}
	n, err := m.Find(o.Node)
	if err != nil {
		return control.EKDone{}, err
	}
	on, err := m.Running(ctx, n)
	if err == nil && !on {
		err = fmt.Errorf("it is off: `keylab node start %s` starts it", o.Node)
	}
	done := control.EKDone{}
	if err == nil && o.Kind == control.EKIssue {
		done, err = issue(ctx, l, m, n, o)
	} else if err == nil {
		done, err = revoke(ctx, l, m, n, o)
	}
	if err != nil {
		return control.EKDone{}, fmt.Errorf("ek %s %s: %w", o.Kind, o.Node, err)
	}
	return done, nil
}

// issue puts another certificate for the same EK into a node's TPM, or takes out that which is there.
func issue[N any](ctx context.Context, l EKLab, m Endorsements[N], n N, o control.EKOrder) (control.EKDone, error) {
	if o.Absent && (o.Expired || o.Leaked || o.CA != "") {
		return control.EKDone{}, errors.New("a certificate that is not there has no CA, and can neither be expired nor a thief's")
	}
	id, err := m.Endorsement(ctx, n)
	if err != nil {
		return control.EKDone{}, err
	}
	done := control.EKDone{Text: "its TPM has no EK certificate any more"}
	var cert *x509.Certificate
	if !o.Absent {
		if cert, done, err = certify(l, m.Planned(n), id, o); err != nil {
			return control.EKDone{}, err
		}
	}
	// What has been begun in the TPM is brought to its end, whoever asked for it is still there or not.
	write := context.WithoutCancel(ctx)
	if err := m.Endorse(write, n, done.Certificate); err != nil {
		return control.EKDone{}, err
	}
	if err := noteEKAbsent(l.Dir, m.Planned(n), o.Absent); err != nil {
		return control.EKDone{}, err
	}
	if o.Supersede {
		what, err := supersede(l, id.Certificate, cert)
		if err != nil {
			return control.EKDone{}, err
		}
		done.Text += what
	}
	if !o.Restart {
		done.Hint = fmt.Sprintf("its agent shows the old one until `keylab node enrol %s` has it registered anew", o.Node)
		return done, nil
	}
	if err := m.RestartAgent(ctx, n); err != nil {
		stale, staleErr := m.Stale(ctx, n)
		if ctx.Err() != nil || staleErr != nil || !stale {
			return control.EKDone{}, err
		}
		done.Refused = refusal(err)
		done.Text += fmt.Sprintf("; its agent was started again, and could not register: %s", done.Refused)
		done.Hint = fmt.Sprintf("`keylab node enrol %s` has the registrar forget it first", o.Node)
		return done, nil
	}
	done.Text += "; its agent was started again, and has registered with it"
	return done, nil
}

// refusal is what the registrar said, or, of an agent that keeps that to itself, how it ended.
func refusal(err error) string {
	var refused *agent.RegistrarError
	if errors.As(err, &refused) {
		return fmt.Sprintf("%d %s", refused.Status, refused.Message)
	}
	return err.Error()
}

func certify(l EKLab, n plan.Node, id verify.TPMIdentity, o control.EKOrder) (*x509.Certificate, control.EKDone, error) {
	none := control.EKDone{}
	ca, err := l.Authorities.Active()
	if o.CA != "" {
		ca, err = l.Authorities.Get(o.CA)
	}
	if err != nil {
		return nil, none, err
	}
	ek, err := x509.ParsePKIXPublicKey(id.EKSPKI)
	if err != nil {
		return nil, none, fmt.Errorf("read the EK: %w", err)
	}
	request := ekRequest(n, ek)
	request.Unrecorded = o.Leaked
	if o.Expired {
		expire(&request)
	}
	cert, err := ca.Issue(request)
	if err != nil {
		return nil, none, err
	}
	what := "by " + ca.Name
	if o.Leaked {
		if err := errors.Join(l.Authorities.MarkLeaked(ca.Name), l.Authorities.KeepLeaked(cert)); err != nil {
			return nil, none, err
		}
		what = "made with the stolen key of " + ca.Name + " and in no record"
	}
	if o.Expired {
		what += ", which has expired"
	}
	return cert, control.EKDone{
		Text: fmt.Sprintf("its TPM has another certificate for the same EK, serial %s %s", serial(cert), what),
		CA:   ca.Name, Serial: serial(cert), Certificate: cert.Raw,
	}, nil
}

// supersede revokes the certificate that was there, as superseded (RFC 5280, section 5.3.1), and says so.
func supersede(l EKLab, old []byte, now *x509.Certificate) (string, error) {
	if len(old) == 0 {
		return "", nil
	}
	cert, err := x509.ParseCertificate(old)
	if err != nil {
		return "", fmt.Errorf("parse the certificate that was there: %w", err)
	}
	if now != nil && bytes.Equal(now.Raw, cert.Raw) {
		return "", nil
	}
	ca, err := revokeAt(l, cert, reasons["superseded"])
	if errors.Is(err, ekca.ErrNotIssued) {
		return fmt.Sprintf("; no CA's record holds the old one, serial %s: it cannot be superseded", serial(cert)), nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("; %s has superseded the old one, serial %s", ca, serial(cert)), nil
}

// reasons are those of RFC 5280, section 5.3.1, which a CA of TPMs may give.
var reasons = map[string]int{
	"unspecified": 0, "keyCompromise": 1, "cACompromise": 2, "affiliationChanged": 3, "superseded": 4, "cessationOfOperation": 5,
	"certificateHold": 6, "privilegeWithdrawn": 9, "aACompromise": 10,
}

func revoke[N any](ctx context.Context, l EKLab, m Endorsements[N], n N, o control.EKOrder) (control.EKDone, error) {
	word := o.Reason
	if word == "" {
		word = "keyCompromise"
	}
	reason, ok := reasons[word]
	if !ok {
		return control.EKDone{}, fmt.Errorf("%q is no reason; there are %s (RFC 5280, section 5.3.1)", word, strings.Join(slices.Sorted(maps.Keys(reasons)), ", "))
	}
	id, err := m.Endorsement(ctx, n)
	if err != nil {
		return control.EKDone{}, err
	}
	if len(id.Certificate) == 0 {
		return control.EKDone{}, errors.New("its TPM has no EK certificate")
	}
	cert, err := x509.ParseCertificate(id.Certificate)
	if err != nil {
		return control.EKDone{}, fmt.Errorf("parse the EK certificate: %w", err)
	}
	ca, err := revokeAt(l, cert, reason)
	if err != nil {
		return control.EKDone{}, err
	}
	return control.EKDone{
		Text: fmt.Sprintf("%s has revoked its certificate, serial %s, for %s, and its CRL says so", ca, serial(cert), word),
		Hint: "Keylime looks at no CRL",
		CA:   ca, Serial: serial(cert),
	}, nil
}

// revokeAt revokes a certificate at the CA that issued it, and makes its CRL anew. The error wraps ekca.ErrNotIssued when no CA's record holds it.
func revokeAt(l EKLab, cert *x509.Certificate, reason int) (string, error) {
	ca, ok, err := l.Authorities.Of(cert)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("%w: no CA of the lab signed serial %s", ekca.ErrNotIssued, serial(cert))
	}
	if _, err := ca.Lookup(cert); err != nil {
		return "", err
	}
	if err := ca.Revoke(cert.SerialNumber, reason); err != nil {
		return "", err
	}
	_, err = ca.CRL()
	return ca.Name, err
}

func survey[N any](ctx context.Context, l EKLab, m Endorsements[N]) control.EKDone {
	var done control.EKDone
	for _, n := range m.Nodes() {
		e, err := look(ctx, l, m, n)
		e.Node = m.Planned(n).Name
		if err != nil {
			e.Error = err.Error()
		}
		done.Nodes = append(done.Nodes, e)
	}
	done.Text = fmt.Sprintf("%d TPMs were looked at", len(done.Nodes))
	return done
}

// look finds out about one node's certificate.
func look[N any](ctx context.Context, l EKLab, m Endorsements[N], n N) (e control.EKNode, err error) {
	id, err := m.Endorsement(ctx, n)
	if err != nil {
		return e, err
	}
	e.Certificate = id.Certificate
	if e.Registered, err = registered(ctx, l.Registrar, m.UUID(n), id.Certificate); err != nil || len(id.Certificate) == 0 {
		return e, err
	}
	cert, err := x509.ParseCertificate(id.Certificate)
	if err != nil {
		return e, fmt.Errorf("parse the EK certificate: %w", err)
	}
	e.Serial, e.NotAfter = serial(cert), cert.NotAfter
	ca, ok, err := l.Authorities.Of(cert)
	if err != nil {
		return e, err
	}
	e.Standing, e.CA = control.EKForeign, ca.Name
	if ok && ca.Name != authority.Stranger {
		if e.Standing, err = Standing(ca, cert); err != nil {
			return e, err
		}
		if r, err := ca.Lookup(cert); err == nil {
			said := m.Enrolment(n)
			e.Accepted = said.Done && said.OK && !r.Issued.After(said.At)
		}
	}
	file, err := ekca.CheckStore(l.Dir.CertStore(), cert)
	if errors.Is(err, ekca.ErrNotInStore) {
		return e, nil
	}
	e.TrustedBy = filepath.Base(file)
	return e, err
}

// refusedByOrder says for which order about EK CAs or EK certificates the tenant must refuse a node; empty when for none.
func refusedByOrder(l EKLab, n plan.Node, certificate []byte) string {
	if without, err := WithoutEK(l.Dir, n); err == nil && without && !n.EK.Absent {
		return "its EK certificate was taken out of its TPM (ek issue --absent)"
	}
	cert, err := x509.ParseCertificate(certificate)
	if err != nil || !l.Authorities.Changed() {
		return ""
	}
	if _, err := ekca.CheckStore(l.Dir.CertStore(), cert); errors.Is(err, ekca.ErrNotInStore) {
		return "the tpm_cert_store has not, or has no more, what would vouch for its EK certificate (ek trust, ek distrust)"
	}
	return ""
}

// Standing is what a CA's record and the dates say of a certificate that its key signed.
func Standing(ca authority.CA, cert *x509.Certificate) (string, error) {
	r, err := ca.Lookup(cert)
	switch {
	case errors.Is(err, ekca.ErrNotIssued):
		return control.EKUnrecorded, nil
	case err != nil:
		return "", err
	case r.Status == ekca.Revoked && r.Reason == reasons["superseded"]:
		return control.EKSuperseded, nil
	case r.Status == ekca.Revoked:
		return control.EKRevoked, nil
	case time.Now().After(cert.NotAfter):
		return control.EKExpired, nil
	}
	return control.EKValid, nil
}

// registered compares what the registrar holds of an agent with the certificate in its TPM.
func registered(ctx context.Context, r *keylime.RegistrarClient, uuid string, certificate []byte) (string, error) {
	record, err := r.Agent(ctx, uuid)
	switch {
	case errors.Is(err, keylime.ErrNotFound):
		return control.EKUnknown, nil
	case err != nil:
		return "", fmt.Errorf("ask the registrar for agent %s: %w", uuid, err)
	case bytes.Equal(record.EKCert, certificate):
		return control.EKSame, nil
	case len(record.EKCert) == 0:
		return control.EKNone, nil
	}
	return control.EKAnother, nil
}

// Stale tells whether the registrar does not know an agent with the EK certificate that its TPM has now.
func Stale(ctx context.Context, r *keylime.RegistrarClient, uuid string, certificate []byte) (bool, error) {
	held, err := registered(ctx, r, uuid, certificate)
	return held != control.EKSame, err
}
