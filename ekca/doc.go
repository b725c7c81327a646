// Package ekca is a certification authority for the endorsement keys (EK) of simulated TPMs: what a TPM vendor's EK CA is to real ones.
//
// A [CA] lives in one folder: a root, up to four levels of intermediates below it, their private keys, and a record of every EK
// certificate issued. The lowest level issues. Create one, certify an EK, check what comes back from the field:
//
//	ca, err := ekca.Create(dir, ekca.DefaultConfig())
//	cert, err := ca.Issue(ekca.Request{Public: ek, Label: "node-1"})
//	err = ca.Verify(cert, time.Now()) // nil, or ErrWrongCA, ErrExpired, ErrRevoked, ErrNotEK, ...
//
// Certificates follow the TCG EK Credential Profile for TPM Family 2.0, section 3.2: empty subject; the TPM's manufacturer, model and
// version as a directoryName in a critical subjectAltName; the TPM specification in subjectDirectoryAttributes; key usage
// keyEncipherment (RSA) or keyAgreement (ECC); extended key usage tcg-kp-EKCertificate. They are strict DER.
//
// What Keylime trusts is written by [CA.ExportStore] as a tpm_cert_store; [CheckStore] applies the rule of Keylime's tenant to such a
// folder, which is laxer than [CA.Verify]: one level, no dates, no revocation. [CA.InStore] tells what such a folder trusts of a CA, and
// [CA.CrossSign] makes a certificate by which those who trust one CA accept what another issues.
//
// For experiments: certificates that are expired or not valid yet come from Request.NotBefore and NotAfter, one for the wrong key from
// another Request.Public, a stranger's from a CA in another folder, a thief's from Request.Unrecorded, and [CA.Revoke] feeds [CA.CRL].
//
// The folder:
//
//	ca.json                          configuration
//	root.pem, intermediate-1.pem     CA certificates, top down
//	keys/                            their private keys, PKCS #8, mode 0600 in a folder of mode 0700
//	issued/<serial>.json, .pem       one record and one certificate per serial number (40 hex digits at most)
//	crl.der, crl-number, lock        the last CRL, its number, and the lock of those who change revocations
//
// Several goroutines and several processes may use one folder at once.
package ekca
