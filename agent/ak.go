package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// attestationKey holds the AK's two halves as the TPM gave them out: without the
// TPM that made them they are worthless.
type attestationKey struct {
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
	area    tpm2.TPMTPublic // the contents of public
}

func newAttestationKey(public tpm2.TPM2BPublic, private tpm2.TPM2BPrivate) (*attestationKey, error) {
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("decoding the AK's public area: %w", err)
	}
	return &attestationKey{public: public, private: private, area: *area}, nil
}

// akTemplate describes a restricted signing key of the wanted scheme. Restricted
// means: it signs only what the TPM itself produced (Part 1, "Object Attributes").
func akTemplate(algorithm string, hash tpm2.TPMAlgID) tpm2.TPMTPublic {
	template := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgRSA,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			Restricted:          true,
			SignEncrypt:         true,
		},
	}
	none := tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}
	switch algorithm {
	case AKECDSA:
		template.Type = tpm2.TPMAlgECC
		template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: none,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
			},
			CurveID: tpm2.TPMECCNistP256,
			KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		})
	case AKRSAPSS:
		template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: none,
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSAPSS,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash}),
			},
			KeyBits: 2048,
		})
	default:
		template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: none,
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash}),
			},
			KeyBits: 2048,
		})
	}
	return template
}

// createAK makes a new AK below the EK.
func (a *Agent) createAK(ctx context.Context) (*attestationKey, error) {
	var key *attestationKey
	err := a.device.use(ctx, func(t transport.TPM) error {
		if err := a.loadEK(t); err != nil {
			return err
		}
		answer, err := tpm2.Create{
			ParentHandle: a.device.ekAuth(),
			InPublic:     tpm2.New2B(akTemplate(a.cfg.AKAlgorithm, a.hash)),
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("creating the %s AK (TPM2_Create): %w", a.cfg.AKAlgorithm, err)
		}
		key, err = newAttestationKey(answer.OutPublic, answer.OutPrivate)
		return err
	})
	return key, err
}

// tryAK loads the current AK once.
func (a *Agent) tryAK(ctx context.Context) error {
	return a.device.use(ctx, a.loadAK)
}

// loadAK makes the AK available for signing. It needs the EK only while loading;
// an EK that was loaded just for that is unloaded again, because a TPM has room
// for as few as three keys.
func (a *Agent) loadAK(t transport.TPM) error {
	if a.device.ak.loaded() {
		return nil
	}
	had := a.device.ek.loaded()
	if err := a.loadEK(t); err != nil {
		return err
	}
	if !had && a.settled {
		defer flush(t, &a.device.ek)
	}
	answer, err := tpm2.Load{
		ParentHandle: a.device.ekAuth(),
		InPrivate:    a.ak.private,
		InPublic:     a.ak.public,
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("loading the AK (TPM2_Load): %w", err)
	}
	loaded := object{handle: answer.ObjectHandle, name: answer.Name}
	public, err := tpm2.ReadPublic{ObjectHandle: loaded.handle}.Execute(t)
	if err != nil {
		flush(t, &loaded)
		return fmt.Errorf("reading the AK's qualified name: %w", err)
	}
	loaded.qualified = public.QualifiedName.Buffer
	a.device.ak = loaded
	return nil
}

// foreignAK says whether a failure to load the AK means that this TPM did not
// make it, in contrast to a TPM that is out of order or out of memory.
func foreignAK(err error) bool {
	var rc tpm2.TPMRC
	return errors.As(err, &rc) && !rc.IsWarning() && !errors.Is(rc, tpm2.TPMRCInitialize) && !errors.Is(rc, tpm2.TPMRCFailure)
}

// activate proves to the registrar that AK and EK live in one TPM: it recovers
// the secret of a credential (TPM2_ActivateCredential, Part 3, section 12.5).
func (a *Agent) activate(ctx context.Context, idObject, encryptedSecret []byte) ([]byte, error) {
	var secret []byte
	err := a.device.use(ctx, func(t transport.TPM) error {
		if err := a.loadEK(t); err != nil {
			return err
		}
		if err := a.loadAK(t); err != nil {
			return err
		}
		answer, err := tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: a.device.ak.handle, Name: a.device.ak.name, Auth: tpm2.PasswordAuth(nil)},
			KeyHandle:      a.device.ekAuth(),
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: idObject},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encryptedSecret},
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("recovering the registrar's challenge (TPM2_ActivateCredential): %w", err)
		}
		secret = answer.CertInfo.Buffer
		return nil
	})
	return secret, err
}

// settle unloads the EK once registration no longer needs it.
func (a *Agent) settle(ctx context.Context) {
	_ = a.device.use(ctx, func(t transport.TPM) error { // nothing depends on it
		a.settled = true
		flush(t, &a.device.ek)
		return nil
	})
}
