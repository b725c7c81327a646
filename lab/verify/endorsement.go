package verify

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/authority"
)

// endorsement proves point 2: the EK certificates are the CA's, each for its node's TPM, and the tenant enforced them.
func (v *verification) endorsement() []check {
	checks := v.perNode("ek-from-tpm", pointEK, v.ekFromTPM)
	checks = append(checks, v.perNode("ek-certificate", pointEK, v.ekCertificate)...)
	checks = append(checks, v.perNode("tenant-accepted", pointEK, v.tenantAccepted)...)
	checks = append(checks, v.rotated()...)
	return append(checks,
		v.distinct("distinct-uuids", "UUIDs", func(n Node) (string, error) { return n.UUID, nil }),
		v.distinct("distinct-eks", "EKs", func(n Node) (string, error) {
			r, err := v.records.of(n)
			if err != nil {
				return "", err
			}
			return string(r.EKTPM), nil
		}),
		v.distinct("distinct-aks", "AKs", func(n Node) (string, error) {
			r, err := v.records.of(n)
			if err != nil {
				return "", err
			}
			return string(r.AIKTPM), nil
		}),
	)
}

// ekFromTPM checks that the EK which the registrar holds is the one inside the node's own TPM.
func (v *verification) ekFromTPM(ctx context.Context, n Node) (string, error) {
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	id, err := n.TPM(ctx)
	if err != nil {
		return "", fmt.Errorf("read the EK out of the TPM of %s: %w", n.Name, err)
	}
	if !bytes.Equal(record.EKTPM, id.EKPublic) {
		return "", fmt.Errorf("the registrar holds another EK for agent %s than the TPM of %s has", n.UUID, n.Name)
	}
	return "the registrar's ek_tpm equals the TPM's EK, byte for byte", nil
}

// ekCertificate checks that the registrar's EK certificate is the TPM's, is for the TPM's EK, and chains to the lab's CA.
func (v *verification) ekCertificate(ctx context.Context, n Node) (string, error) {
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	id, err := n.TPM(ctx)
	if err != nil {
		return "", fmt.Errorf("read the EK certificate out of the TPM of %s: %w", n.Name, err)
	}
	switch {
	case len(record.EKCert) == 0:
		return "", errors.New("the registrar holds no EK certificate for this agent")
	case len(id.Certificate) == 0:
		return "", errors.New("the TPM holds no EK certificate, but the registrar does")
	case !bytes.Equal(record.EKCert, id.Certificate):
		return "", errors.New("the registrar's EK certificate is not the one in the TPM's NV")
	}
	cert, err := x509.ParseCertificate(record.EKCert)
	if err != nil {
		return "", fmt.Errorf("parse the EK certificate: %w", err)
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, id.EKSPKI) {
		return "", errors.New("the EK certificate is for another key than the TPM's EK")
	}
	ca, err := v.issuer(cert)
	if err != nil {
		return "", err
	}
	if err := ca.Verify(cert, time.Now()); err != nil {
		return "", fmt.Errorf("the EK certificate does not verify against the lab's EK CA: %w", err)
	}
	issued, err := ca.Lookup(cert)
	if err != nil {
		return "", fmt.Errorf("the EK CA does not know this certificate: %w", err)
	}
	if issued.Label != n.Name {
		return "", fmt.Errorf("the EK CA issued this certificate for %s", issued.Label)
	}
	return fmt.Sprintf("serial %X, issued by %s for this TPM", cert.SerialNumber, cert.Issuer.CommonName), nil
}

// issuer is the lab's EK CA whose key signed the certificate, or, where none did, the active one, which will say so.
func (v *verification) issuer(cert *x509.Certificate) (authority.CA, error) {
	cas, err := v.target.EKCAs()
	if err != nil {
		return authority.CA{}, fmt.Errorf("open the lab's EK CAs: %w", err)
	}
	var active authority.CA
	for _, ca := range cas {
		if ca.Signed(cert) {
			return ca, nil
		}
		if ca.Active {
			active = ca
		}
	}
	if active.CA == nil {
		return active, errors.New("none of the lab's EK CAs is active")
	}
	return active, nil
}

// tenantAccepted checks that Keylime's tenant accepted the agent while it had to check the EK certificate, and that
// the certificate passes the tenant's rule with the store that the tenant has now.
func (v *verification) tenantAccepted(_ context.Context, n Node) (string, error) {
	if !n.Enrolled.Done {
		return "", errors.New("the tenant was never asked to enrol this agent")
	}
	if !n.Enrolled.OK {
		return "", fmt.Errorf("the tenant refused this agent: %s", n.Enrolled.Message)
	}
	if !v.plan.Keylime.RequireEKCert {
		return "", errors.New("the tenant did not check EK certificates: keylime.requireEKCert is false")
	}
	if !n.Enrolled.EKChecked {
		return "", errors.New("the tenant accepted the agent, but does not report that it checked the EK certificate against its tpm_cert_store")
	}
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	if len(record.EKCert) == 0 {
		return "", errors.New("the registrar holds no EK certificate for this agent")
	}
	cert, err := x509.ParseCertificate(record.EKCert)
	if err != nil {
		return "", fmt.Errorf("parse the EK certificate: %w", err)
	}
	file, err := ekca.CheckStore(v.target.CertStore(), cert)
	if err != nil {
		return "", fmt.Errorf("no CA in the tenant's tpm_cert_store issued the EK certificate: %w", err)
	}
	if ca, err := v.issuer(cert); err == nil {
		// Before 7.14 the registrar takes another certificate of a known agent, and the tenant is not asked again.
		if issued, err := ca.Lookup(cert); err == nil && issued.Issued.After(n.Enrolled.At) {
			return "", fmt.Errorf("the tenant accepted this agent before its EK certificate was issued, with another one: `keylab node enrol %s` asks it again", n.Name)
		}
	}
	by := ""
	if n.Enrolled.EKCheckedBy != "" {
		by = ", checked by " + n.Enrolled.EKCheckedBy
	}
	return fmt.Sprintf("require_ek_cert = True, trusted by %s of the tpm_cert_store%s", filepath.Base(file), by), nil
}

// distinct checks that no two nodes share a value.
func (v *verification) distinct(id, what string, value func(Node) (string, error)) check {
	return check{id, pointEK, "all nodes", func(context.Context) (string, error) {
		owner := map[string]string{}
		for _, n := range v.nodes {
			x, err := value(n)
			if err != nil {
				return "", err
			}
			if x == "" {
				return "", fmt.Errorf("node %s has none", n.Name)
			}
			if other := owner[x]; other != "" {
				return "", fmt.Errorf("nodes %s and %s share one", other, n.Name)
			}
			owner[x] = n.Name
		}
		return fmt.Sprintf("%d nodes, %d different %s", len(v.nodes), len(owner), what), nil
	}}
}
