package tpmsim

import (
	"strconv"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func itoa(n int) string { return strconv.Itoa(n) }

// savedKey is a child of the ECC storage root key, as an agent keeps its AK on disk.
type savedKey struct {
	private tpm2.TPM2BPrivate
	public  tpm2.TPM2BPublic
}

func createSRK(t testing.TB, c transport.TPM) *tpm2.CreatePrimaryResponse {
	t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func flush(t testing.TB, c transport.TPM, h tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c); err != nil {
		t.Fatal(err)
	}
}

func createKey(t testing.TB, c transport.TPM) *savedKey {
	t.Helper()
	srk := createSRK(t, c)
	defer flush(t, c, srk.ObjectHandle)
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.Decrypt, template.ObjectAttributes.SignEncrypt = false, true
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
	})
	r, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     tpm2.New2B(template),
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return &savedKey{r.OutPrivate, r.OutPublic}
}

func (k *savedKey) load(t testing.TB, c transport.TPM) tpm2.TPMHandle {
	t.Helper()
	srk := createSRK(t, c)
	defer flush(t, c, srk.ObjectHandle)
	r, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    k.private, InPublic: k.public,
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return r.ObjectHandle
}

// quote signs PCR 16 by the key and checks nothing but that it can be done.
func (k *savedKey) quote(c transport.TPM, h tpm2.TPMHandle) error {
	name, err := tpm2.ObjectName(mustContents(&k.public))
	if err != nil {
		return err
	}
	_, err = tpm2.Quote{
		SignHandle: tpm2.AuthHandle{Handle: h, Name: *name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16)},
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(16)}}},
	}.Execute(c)
	return err
}

func mustContents(p *tpm2.TPM2BPublic) *tpm2.TPMTPublic {
	area, err := p.Contents()
	if err != nil {
		panic(err)
	}
	return area
}
