package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// NV indices and handles of the TCG EK Credential Profile 2.5, section 2.2.1,
// and the TCG handle registry.
const (
	nvRSACertificate  tpm2.TPMHandle = 0x01c00002
	nvECCCertificate  tpm2.TPMHandle = 0x01c0000a
	nvChainFirst      tpm2.TPMHandle = 0x01c00100
	nvChainLast       tpm2.TPMHandle = 0x01c001ff
	persistentEKFirst tpm2.TPMHandle = 0x81010000
	persistentEKLast  tpm2.TPMHandle = 0x8101ffff
)

// endorsement is what the TPM says about its EK.
type endorsement struct {
	public    tpm2.TPMTPublic
	publicRaw []byte // TPM2B_PUBLIC as the registrar wants it
	key       crypto.PublicKey
	pem       []byte   // SubjectPublicKeyInfo
	certs     [][]byte // DER: leaf first, then the chain; empty if there is none
}

// hash is the hash_ek identity: SHA-256, in hexadecimal, over the PEM text.
func (e *endorsement) hash() string {
	sum := sha256.Sum256(e.pem)
	return hex.EncodeToString(sum[:])
}

// certificatePEM gives the certificates for the registrar, leaf first; "" if
// the TPM holds none.
func (e *endorsement) certificatePEM() string {
	var out bytes.Buffer
	for _, der := range e.certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Buffer never fails
	}
	return out.String()
}

func ekTemplate(algorithm string) tpm2.TPMTPublic {
	if algorithm == EKECCP256 {
		return tpm2.ECCEKTemplate
	}
	return tpm2.RSAEKTemplate
}

// readEndorsement loads the EK and reads its certificate from NV.
func (a *Agent) readEndorsement(ctx context.Context) (*endorsement, error) {
	var e endorsement
	err := a.device.use(ctx, func(t transport.TPM) error {
		if err := a.loadEK(t); err != nil {
			return err
		}
		answer, err := tpm2.ReadPublic{ObjectHandle: a.device.ek.handle}.Execute(t)
		if err != nil {
			return fmt.Errorf("reading the EK's public area: %w", err)
		}
		public, err := answer.OutPublic.Contents()
		if err != nil {
			return fmt.Errorf("decoding the EK's public area: %w", err)
		}
		e.public, e.publicRaw = *public, tpm2.Marshal(answer.OutPublic)
		e.certs, err = readCertificates(t, a.cfg.EKAlgorithm)
		return err
	})
	if err != nil {
		return nil, err
	}
	if e.key, err = tpm2.Pub(e.public); err != nil {
		return nil, fmt.Errorf("converting the EK's public key: %w", err)
	}
	if e.pem, err = publicPEM(e.key); err != nil {
		return nil, fmt.Errorf("encoding the EK's public key: %w", err)
	}
	return &e, nil
}

// loadEK makes the EK available: a persistent one that follows the template if
// the TPM has it, else a new primary key, which is the same key each time as it
// is derived from the endorsement seed (Part 1, "Primary Seeds").
func (a *Agent) loadEK(t transport.TPM) error {
	if a.device.ek.loaded() {
		return nil
	}
	template := ekTemplate(a.cfg.EKAlgorithm)
	handles, err := handlesBetween(t, persistentEKFirst, persistentEKLast)
	if err != nil {
		return fmt.Errorf("listing persistent EKs: %w", err)
	}
	for _, handle := range handles {
		answer, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t)
		if err != nil {
			return fmt.Errorf("reading persistent key 0x%08x: %w", handle, err)
		}
		public, err := answer.OutPublic.Contents()
		if err == nil && follows(public, &template) {
			a.device.ek = object{handle: handle, name: answer.Name, persistent: true}
			return nil
		}
	}
	answer, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("creating the %s EK (TPM2_CreatePrimary): %w", a.cfg.EKAlgorithm, err)
	}
	a.device.ek = object{handle: answer.ObjectHandle, name: answer.Name}
	return nil
}

// follows says whether a public area differs from a template in its key only.
func follows(public, template *tpm2.TPMTPublic) bool {
	if public.Type != template.Type {
		return false
	}
	p := *public
	p.Unique = template.Unique
	return bytes.Equal(tpm2.Marshal(p), tpm2.Marshal(*template))
}

// ekSession authorises the use of the EK by its policy, TPM2_PolicySecret on the
// endorsement hierarchy (PolicyA of the EK Credential Profile).
func ekSession() tpm2.Session {
	return tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{
			AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: session,
			NonceTPM:      nonce,
		}.Execute(t)
		return err
	})
}

func (d *device) ekAuth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: d.ek.handle, Name: d.ek.name, Auth: ekSession()}
}

// handlesBetween lists the handles from first to last that exist in the TPM.
func handlesBetween(t transport.TPM, first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	var found []tpm2.TPMHandle
	for next := first; ; {
		answer, err := tpm2.GetCapability{
			Capability:    tpm2.TPMCapHandles,
			Property:      uint32(next),
			PropertyCount: 64,
		}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetCapability(handles from 0x%08x): %w", next, err)
		}
		list, err := answer.CapabilityData.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("decoding the handle list: %w", err)
		}
		for _, handle := range list.Handle {
			if handle > last {
				return found, nil
			}
			found = append(found, handle)
			next = handle + 1
		}
		if !answer.MoreData || len(list.Handle) == 0 || next > last {
			return found, nil
		}
	}
}

// readCertificates returns the EK certificate and the chain found in NV. A TPM
// without a certificate is normal; the registrar then sees an empty ekcert.
func readCertificates(t transport.TPM, algorithm string) ([][]byte, error) {
	index := nvRSACertificate
	if algorithm == EKECCP256 {
		index = nvECCCertificate
	}
	leaf, err := readNV(t, index)
	if errors.Is(err, errNoIndex) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the EK certificate: %w", err)
	}
	certs := splitDER(leaf)
	if len(certs) == 0 {
		return nil, nil
	}
	certs = certs[:1]
	indices, err := handlesBetween(t, nvChainFirst, nvChainLast)
	if err != nil {
		return nil, fmt.Errorf("listing the EK certificate chain: %w", err)
	}
	var chain []byte
	for _, index := range indices {
		part, err := readNV(t, index)
		if err != nil {
			return nil, fmt.Errorf("reading the EK certificate chain: %w", err)
		}
		chain = append(chain, part...)
	}
	issuers := splitDER(chain)
	for i := len(issuers) - 1; i >= 0; i-- { // the Rust agent's order: last first
		certs = append(certs, issuers[i])
	}
	return certs, nil
}

// splitDER cuts concatenated certificates apart and drops what follows them, as
// NV indices are often larger than what they hold.
func splitDER(data []byte) [][]byte {
	var out [][]byte
	for len(data) > 0 {
		var value asn1.RawValue
		rest, err := asn1.Unmarshal(data, &value)
		if err != nil || value.Tag != asn1.TagSequence || value.Class != asn1.ClassUniversal {
			break
		}
		out = append(out, value.FullBytes)
		data = rest
	}
	return out
}

// publicPEM encodes a public key as SubjectPublicKeyInfo in PEM.
func publicPEM(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
