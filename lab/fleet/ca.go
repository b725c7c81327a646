package fleet

import (
	"crypto"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// CAs are the lab's EK CA and, where a node is to have a stranger's certificate, one that nobody trusts.
type CAs struct {
	Lab      *ekca.CA
	Stranger *ekca.CA // nil unless the plan needs it
}

// OpenCAs opens the lab's CAs, or makes them, and exports the tpm_cert_store.
func OpenCAs(dir state.Dir, c plan.EKCA) (CAs, error) {
	config := ekca.Config{
		Algorithm: ekca.KeyAlgorithm(c.Algorithm), Intermediates: c.Intermediates,
		Organization: c.Organization, RootName: c.RootName, IntermediateName: c.IntermediateName,
		Validity: time.Duration(c.Validity), EKValidity: time.Duration(c.EKValidity), CRLURL: c.CRLURL, AIAURL: c.AIAURL,
	}
	ca, _, err := ekca.OpenOrCreate(dir.EKCA(), config)
	if err != nil {
		return CAs{}, err
	}
	if _, err := ca.ExportStore(dir.CertStore()); err != nil || !c.Stranger {
		return CAs{Lab: ca}, err
	}
	config.RootName, config.IntermediateName, config.Organization = "Stranger's Root CA", "Stranger's Intermediate CA", "not the lab's TPM maker"
	stranger, _, err := ekca.OpenOrCreate(dir.StrangerCA(), config)
	return CAs{ca, stranger}, err
}

// ReopenCAs opens the CAs of a lab that has been up, and touches nothing.
func ReopenCAs(dir state.Dir, c plan.EKCA) (CAs, error) {
	ca, err := ekca.Open(dir.EKCA())
	if err != nil || !c.Stranger {
		return CAs{Lab: ca}, err
	}
	stranger, err := ekca.Open(dir.StrangerCA())
	return CAs{ca, stranger}, err
}

// IssueEK is the TPM maker's part: a certificate (DER) for a node's EK by the CA that the plan names.
func (c CAs) IssueEK(n plan.Node, ek crypto.PublicKey) ([]byte, error) {
	ca := c.Lab
	if n.EK.Stranger {
		ca = c.Stranger
	}
	request := ekca.Request{
		Public: ek, Label: n.Name,
		TPM: ekca.Model{Manufacturer: n.TPM.Manufacturer, Model: n.TPM.Model, Version: n.TPM.Version},
	}
	if n.EK.NotAfter != nil {
		request.NotAfter = *n.EK.NotAfter
	}
	if n.EK.Expired {
		request.NotBefore, request.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	}
	cert, err := ca.Issue(request)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}
