package agent

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha1" // for quotes over the SHA-1 bank
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Layout of the "pcrblob", a little-endian memory image of two TSS structures as
// old tpm2-tools wrote it: TPML_PCR_SELECTION (132 bytes), a count, and that many
// TPML_DIGEST (532 bytes each, up to eight digests of up to 64 bytes).
const (
	blobSelections    = 16
	blobSelectionSize = 8
	blobHeader        = 4 + blobSelections*blobSelectionSize + 4
	blobDigests       = 8
	blobDigestBuffer  = 64
	blobDigestList    = 4 + blobDigests*(2+blobDigestBuffer)
)

// ErrQuoteFormat is matched by every error of ParseQuote.
var ErrQuoteFormat = errors.New("malformed quote")

// ErrQuoteInvalid is matched by every error of Quote.Verify.
var ErrQuoteInvalid = errors.New("invalid quote")

// Quote is a TPM quote with the PCR values it attests, as it travels between
// agent and verifier.
type Quote struct {
	Attest       tpm2.TPMSAttest    // decoded AttestRaw
	AttestRaw    []byte             // TPMS_ATTEST, what the AK signed
	Signature    tpm2.TPMTSignature // decoded SignatureRaw
	SignatureRaw []byte             // TPMT_SIGNATURE
	Hash         tpm2.TPMAlgID      // PCR bank
	PCRs         []uint             // quoted PCRs, ascending
	Values       [][]byte           // their values, in the same order
}

// PCR returns the value of PCR n, and whether the quote covers it.
func (q *Quote) PCR(n uint) ([]byte, bool) {
	for i, pcr := range q.PCRs {
		if pcr == n && i < len(q.Values) {
			return q.Values[i], true
		}
	}
	return nil, false
}

// String encodes the quote as Keylime expects it:
// "r" + base64(TPMS_ATTEST) + ":" + base64(TPMT_SIGNATURE) + ":" + base64(pcrblob).
func (q *Quote) String() string {
	var out strings.Builder
	out.WriteByte('r')
	for i, part := range [][]byte{q.AttestRaw, q.SignatureRaw, q.PCRBlob()} {
		if i > 0 {
			out.WriteByte(':')
		}
		out.WriteString(base64.StdEncoding.EncodeToString(part))
	}
	return out.String()
}

// PCRBlob encodes the PCR values as the last part of String, before base64.
func (q *Quote) PCRBlob() []byte {
	lists := (len(q.Values) + blobDigests - 1) / blobDigests
	blob := make([]byte, blobHeader+lists*blobDigestList)
	binary.LittleEndian.PutUint32(blob, 1)
	binary.LittleEndian.PutUint16(blob[4:], uint16(q.Hash))
	blob[6] = 3
	copy(blob[7:10], tpm2.PCClientCompatible.PCRs(q.PCRs...))
	binary.LittleEndian.PutUint32(blob[blobHeader-4:], uint32(lists))
	for i := range lists {
		list := blob[blobHeader+i*blobDigestList:]
		values := q.Values[i*blobDigests : min((i+1)*blobDigests, len(q.Values))]
		binary.LittleEndian.PutUint32(list, uint32(len(values)))
		for j, value := range values {
			entry := list[4+j*(2+blobDigestBuffer):]
			binary.LittleEndian.PutUint16(entry, uint16(len(value)))
			copy(entry[2:2+blobDigestBuffer], value)
		}
	}
	return blob
}

// ParseQuote decodes a quote text. It checks the form only; see Quote.Verify.
func ParseQuote(text string) (*Quote, error) {
	body, ok := strings.CutPrefix(text, "r")
	if !ok {
		return nil, fmt.Errorf("%w: does not begin with 'r'", ErrQuoteFormat)
	}
	parts := strings.Split(body, ":")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: %d parts, want attestation:signature:PCRs", ErrQuoteFormat, len(parts))
	}
	var raw [3][]byte
	for i, name := range []string{"attestation", "signature", "PCRs"} {
		var err error
		if raw[i], err = base64.StdEncoding.Strict().DecodeString(parts[i]); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrQuoteFormat, name, err)
		}
	}
	q := &Quote{AttestRaw: raw[0], SignatureRaw: raw[1]}
	attest, err := unmarshalExactly[tpm2.TPMSAttest](raw[0])
	if err != nil {
		return nil, fmt.Errorf("%w: TPMS_ATTEST: %w", ErrQuoteFormat, err)
	}
	signature, err := unmarshalExactly[tpm2.TPMTSignature](raw[1])
	if err != nil {
		return nil, fmt.Errorf("%w: TPMT_SIGNATURE: %w", ErrQuoteFormat, err)
	}
	q.Attest, q.Signature = *attest, *signature
	if err := q.parseBlob(raw[2]); err != nil {
		return nil, fmt.Errorf("%w: PCRs: %w", ErrQuoteFormat, err)
	}
	return q, nil
}

// unmarshalExactly decodes a TPM structure and refuses surplus bytes.
func unmarshalExactly[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](data []byte) (*T, error) {
	value, err := tpm2.Unmarshal[T, P](data)
	if err != nil {
		return nil, err
	}
	if n := len(tpm2.Marshal(*value)); n != len(data) {
		return nil, fmt.Errorf("%d bytes hold a structure of %d", len(data), n)
	}
	return value, nil
}

func (q *Quote) parseBlob(blob []byte) error {
	if len(blob) < blobHeader {
		return fmt.Errorf("%d bytes, want at least %d", len(blob), blobHeader)
	}
	if n := binary.LittleEndian.Uint32(blob); n != 1 {
		return fmt.Errorf("%d PCR banks selected, want 1", n)
	}
	q.Hash = tpm2.TPMAlgID(binary.LittleEndian.Uint16(blob[4:]))
	if blob[6] != 3 {
		return fmt.Errorf("selection of %d bytes, want 3", blob[6])
	}
	q.PCRs = nil
	for i := range uint(24) {
		if blob[7+i/8]>>(i%8)&1 == 1 {
			q.PCRs = append(q.PCRs, i)
		}
	}
	lists := int64(binary.LittleEndian.Uint32(blob[blobHeader-4:]))
	if want := blobHeader + lists*blobDigestList; int64(len(blob)) != want {
		return fmt.Errorf("%d bytes, want %d for %d digest lists", len(blob), want, lists)
	}
	q.Values = nil
	for rest := blob[blobHeader:]; len(rest) > 0; rest = rest[blobDigestList:] {
		count := binary.LittleEndian.Uint32(rest)
		if count > blobDigests {
			return fmt.Errorf("digest list of %d entries, want at most %d", count, blobDigests)
		}
		for i := range int(count) {
			entry := rest[4+i*(2+blobDigestBuffer):]
			size := binary.LittleEndian.Uint16(entry)
			if size > blobDigestBuffer {
				return fmt.Errorf("digest of %d bytes, want at most %d", size, blobDigestBuffer)
			}
			q.Values = append(q.Values, bytes.Clone(entry[2:2+size]))
		}
	}
	if len(q.Values) != len(q.PCRs) {
		return fmt.Errorf("%d values for %d selected PCRs", len(q.Values), len(q.PCRs))
	}
	return nil
}

// Verify checks that the AK with public area ak signed this quote for nonce, that
// it is a quote made by a TPM, and that the PCR values are the quoted ones.
// Errors match ErrQuoteInvalid.
func (q *Quote) Verify(ak *tpm2.TPMTPublic, nonce []byte) error {
	if q.Attest.Magic != tpm2.TPMGeneratedValue || q.Attest.Type != tpm2.TPMSTAttestQuote {
		return fmt.Errorf("%w: not a TPM quote (magic 0x%x, type 0x%x)", ErrQuoteInvalid, q.Attest.Magic, q.Attest.Type)
	}
	if !bytes.Equal(q.Attest.ExtraData.Buffer, nonce) {
		return fmt.Errorf("%w: made for nonce %q, want %q", ErrQuoteInvalid, q.Attest.ExtraData.Buffer, nonce)
	}
	if err := q.checkSignature(ak); err != nil {
		return fmt.Errorf("%w: %w", ErrQuoteInvalid, err)
	}
	if err := q.checkDigest(); err != nil {
		return fmt.Errorf("%w: %w", ErrQuoteInvalid, err)
	}
	return nil
}

func (q *Quote) checkSignature(ak *tpm2.TPMTPublic) error {
	public, err := tpm2.Pub(*ak)
	if err != nil {
		return fmt.Errorf("public key of the AK: %w", err)
	}
	switch key := public.(type) {
	case *rsa.PublicKey:
		return q.checkRSA(key)
	case *ecdsa.PublicKey:
		signature, err := q.Signature.Signature.ECDSA()
		if err != nil {
			return fmt.Errorf("AK is an ECC key, but the signature is not ECDSA: %w", err)
		}
		sum, _, err := digest(signature.Hash, q.AttestRaw)
		if err != nil {
			return err
		}
		r := new(big.Int).SetBytes(signature.SignatureR.Buffer)
		s := new(big.Int).SetBytes(signature.SignatureS.Buffer)
		if !ecdsa.Verify(key, sum, r, s) {
			return errors.New("the ECDSA signature is not by this AK")
		}
		return nil
	default:
		return fmt.Errorf("AK of type %T cannot sign quotes", public)
	}
}

func (q *Quote) checkRSA(key *rsa.PublicKey) error {
	var signature *tpm2.TPMSSignatureRSA
	var err error
	pss := q.Signature.SigAlg == tpm2.TPMAlgRSAPSS
	if pss {
		signature, err = q.Signature.Signature.RSAPSS()
	} else {
		signature, err = q.Signature.Signature.RSASSA()
	}
	if err != nil {
		return fmt.Errorf("AK is an RSA key, but the signature is neither RSASSA nor RSAPSS: %w", err)
	}
	sum, hash, err := digest(signature.Hash, q.AttestRaw)
	if err != nil {
		return err
	}
	if pss {
		err = rsa.VerifyPSS(key, hash, sum, signature.Sig.Buffer, nil)
	} else {
		err = rsa.VerifyPKCS1v15(key, hash, sum, signature.Sig.Buffer)
	}
	if err != nil {
		return fmt.Errorf("the RSA signature is not by this AK: %w", err)
	}
	return nil
}

// checkDigest compares the PCR values with the digest in the attestation, which
// is made with the hash of the signature scheme (Part 3, section 18.4).
func (q *Quote) checkDigest() error {
	info, err := q.Attest.Attested.Quote()
	if err != nil {
		return fmt.Errorf("the attestation holds no quote: %w", err)
	}
	selections := info.PCRSelect.PCRSelections
	if len(selections) != 1 || selections[0].Hash != q.Hash || !bytes.Equal(selections[0].PCRSelect, tpm2.PCClientCompatible.PCRs(q.PCRs...)) {
		return errors.New("the quote covers other PCRs than those sent with it")
	}
	sum, _, err := digest(q.signatureHash(), q.Values...)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, info.PCRDigest.Buffer) {
		return errors.New("the PCR values do not have the quoted digest")
	}
	return nil
}

// signatureHash is the hash algorithm of the signature, TPMAlgNull if unknown.
func (q *Quote) signatureHash() tpm2.TPMAlgID {
	if s, err := q.Signature.Signature.RSASSA(); err == nil {
		return s.Hash
	}
	if s, err := q.Signature.Signature.RSAPSS(); err == nil {
		return s.Hash
	}
	if s, err := q.Signature.Signature.ECDSA(); err == nil {
		return s.Hash
	}
	return tpm2.TPMAlgNull
}

// digest hashes data with a TPM hash algorithm.
func digest(algorithm tpm2.TPMAlgID, data ...[]byte) ([]byte, crypto.Hash, error) {
	hash, err := algorithm.Hash()
	if err != nil || !hash.Available() {
		return nil, 0, fmt.Errorf("hash algorithm 0x%04x is not supported", algorithm)
	}
	h := hash.New()
	for _, part := range data {
		h.Write(part)
	}
	return h.Sum(nil), hash, nil
}
