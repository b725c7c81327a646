package agent

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// FuzzPCRBlob: what is read of a pcrblob survives being written and read again.
func FuzzPCRBlob(f *testing.F) {
	values := func(n int) (pcrs []uint, out [][]byte) {
		for i := range n {
			pcrs, out = append(pcrs, uint(i)), append(out, bytes.Repeat([]byte{byte(i)}, 32))
		}
		return pcrs, out
	}
	for _, n := range []int{0, 1, 8, 9, 24} {
		q := &Quote{Hash: tpm2.TPMAlgSHA256}
		q.PCRs, q.Values = values(n)
		f.Add(q.PCRBlob())
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		var q, again Quote
		if q.parseBlob(blob) != nil {
			return
		}
		if err := again.parseBlob(q.PCRBlob()); err != nil {
			t.Fatalf("own encoding is refused: %v", err)
		}
		if !slices.Equal(q.PCRs, again.PCRs) || q.Hash != again.Hash || !slices.EqualFunc(q.Values, again.Values, bytes.Equal) {
			t.Fatalf("%+v became %+v", q, again)
		}
	})
}

// FuzzQuoteRoundTrip: any quote that can be made can be read, and is the same.
func FuzzQuoteRoundTrip(f *testing.F) {
	f.Add([]byte("nonce"), uint16(0x000b), uint32(0x10001), []byte("some value"), uint8(32))
	f.Add([]byte{}, uint16(0x0004), uint32(0xffffff), []byte{}, uint8(20))
	f.Fuzz(func(t *testing.T, nonce []byte, hash uint16, mask uint32, seed []byte, size uint8) {
		if len(nonce) > maxNonce || size > blobDigestBuffer {
			return
		}
		var pcrs []uint
		var values [][]byte
		for i := range uint(24) {
			if mask>>i&1 == 1 {
				value := make([]byte, size)
				copy(value, seed)
				pcrs, values = append(pcrs, i), append(values, value)
			}
		}
		attest := tpm2.TPMSAttest{
			Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: nonce},
			Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
				PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}},
				PCRDigest: tpm2.TPM2BDigest{Buffer: seed[:min(len(seed), 64)]},
			}),
		}
		signature := tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
			Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: seed[:min(len(seed), 256)]},
		})}
		q := &Quote{AttestRaw: tpm2.Marshal(attest), SignatureRaw: tpm2.Marshal(signature), Hash: tpm2.TPMAlgID(hash), PCRs: pcrs, Values: values}
		got, err := ParseQuote(q.String())
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != q.String() || !slices.Equal(got.PCRs, pcrs) || !slices.EqualFunc(got.Values, values, bytes.Equal) ||
			!bytes.Equal(got.Attest.ExtraData.Buffer, nonce) {
			t.Fatalf("%+v became %+v", q, got)
		}
	})
}

// FuzzCheckAnswer: whatever an agent answers is told apart.
func FuzzCheckAnswer(f *testing.F) {
	text, ak := madeQuote(f)
	body, err := json.Marshal(map[string]any{"code": 200, "status": "Success", "results": map[string]string{"quote": text, "pubkey": "key"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body, tpm2.Marshal(tpm2.New2B(ak)), "nonce")
	f.Add(body, tpm2.Marshal(tpm2.New2B(ak)), "another")
	f.Add([]byte(`{"results":{"quote":"r::"}}`), []byte{0, 0}, "")
	f.Fuzz(func(t *testing.T, body, ak []byte, nonce string) {
		answer, err := CheckAnswer(body, ak, nonce)
		if err == nil && string(answer.Quote.Attest.ExtraData.Buffer) != nonce {
			t.Fatalf("a quote for %q passed for %q", answer.Quote.Attest.ExtraData.Buffer, nonce)
		}
	})
}

// FuzzParseTexts compares with encoding/json: what is taken is JSON and means the same there, and nothing else is refused than what serde refuses.
func FuzzParseTexts(f *testing.F) {
	for _, text := range []string{`{"auth_tag":"a","encrypted_key":"b","payload":null}`, `{"auth_tag":"\u0061","encrypted_key":"","x":[1,{}]}`,
		`{"auth_tag":"a","encrypted_key":"b"} {}`, `null`, `{"auth_tag":"a","auth_tag":"b"}`} {
		f.Add([]byte(text))
	}
	required, known := []string{"auth_tag", "encrypted_key"}, []string{"auth_tag", "encrypted_key", "payload"}
	f.Fuzz(func(t *testing.T, data []byte) {
		texts, err := parseTexts(data, required, "payload")
		var all map[string]any
		if jsonErr := json.Unmarshal(data, &all); jsonErr != nil || all == nil {
			if err == nil {
				t.Fatalf("%q was taken for %v: %v", data, texts, jsonErr)
			}
			return
		}
		if err == nil {
			for name, text := range texts {
				if all[name] != text {
					t.Fatalf("%q: %s is %q, to encoding/json %v", data, name, text, all[name])
				}
			}
			return
		}
		for _, name := range known {
			value, there := all[name]
			if _, ok := value.(string); there && !ok && value != nil {
				return // not a text
			}
			if slices.Contains(required, name) && value == nil {
				return // absent, or null
			}
		}
		if !strings.Contains(err.Error(), "duplicate field") {
			t.Fatalf("%q is refused: %v", data, err)
		}
	})
}

// FuzzCredential: what is taken of a registrar's challenge is all of it.
func FuzzCredential(f *testing.F) {
	good := []byte("\xba\xdc\xc0\xde\x00\x00\x00\x01\x00\x02id\x00\x03sec")
	if id, secret, err := parseCredential(good); err != nil || string(id) != "id" || string(secret) != "sec" {
		f.Fatalf("a good challenge is %q and %q, %v", id, secret, err)
	}
	f.Add(good)
	f.Add([]byte("\xba\xdc\xc0\xde\x00\x00\x00\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, blob []byte) {
		id, secret, err := parseCredential(blob)
		if err != nil {
			if !errors.Is(err, ErrRegistrarAnswer) {
				t.Fatalf("error %v does not match ErrRegistrarAnswer", err)
			}
			return
		}
		again := binary.BigEndian.AppendUint32(nil, credentialMagic)
		again = binary.BigEndian.AppendUint32(again, credentialVersion)
		for _, part := range [][]byte{id, secret} {
			again = append(binary.BigEndian.AppendUint16(again, uint16(len(part))), part...)
		}
		if !bytes.Equal(again, blob) {
			t.Fatalf("% x was read as % x and % x", blob, id, secret)
		}
	})
}

// FuzzDecryptPayload: no text but an authentic one is a payload, and any other is an error.
func FuzzDecryptPayload(f *testing.F) {
	f.Add(make([]byte, 32), make([]byte, 32))
	f.Add(make([]byte, 16), []byte("short"))
	f.Add([]byte{}, make([]byte, 100))
	f.Fuzz(func(t *testing.T, key, data []byte) {
		if plain, err := decryptPayload(key, data); err == nil && len(plain) != len(data)-2*gcmBlock {
			t.Fatalf("%d bytes became %d", len(data), len(plain))
		}
	})
}

// FuzzSplitDER: the pieces are the beginning of the whole, in order.
func FuzzSplitDER(f *testing.F) {
	ca := newCA(f, "some CA")
	f.Add(append(bytes.Clone(ca.cert.Raw), ca.cert.Raw...))
	f.Add(append(bytes.Clone(ca.cert.Raw), 0xff, 0xff))
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if !bytes.HasPrefix(data, bytes.Join(splitDER(data), nil)) {
			t.Fatalf("% x was cut into % x", data, splitDER(data))
		}
	})
}

// FuzzIMAList: from entry nth on, or all of it.
func FuzzIMAList(f *testing.F) {
	f.Add([]byte("10 a ima-ng sha256:b /c\n10 d ima-ng sha256:e /f\n"), uint64(1))
	f.Add([]byte("no newline"), uint64(2))
	f.Fuzz(func(t *testing.T, list []byte, nth uint64) {
		a := &Agent{cfg: Config{IMAList: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(list)), nil }}}
		text, first, err := a.imaList(nth)
		if err != nil {
			t.Fatal(err)
		}
		skipped, ok := strings.CutSuffix(string(list), text)
		if !ok || first != nth && first != 0 || uint64(strings.Count(skipped, "\n")) != first || skipped != "" && !strings.HasSuffix(skipped, "\n") {
			t.Fatalf("%q from %d: %q, first %d", list, nth, text, first)
		}
	})
}

// FuzzStateDir: files that somebody damaged are errors or are as they were, never a panic.
func FuzzStateDir(f *testing.F) {
	dir := stateDir(f.TempDir())
	key, err := serverKeyFor(f, dir)
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{fileState, fileServerKey, fileServerCert} {
		data, err := os.ReadFile(filepath.Join(string(dir), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"ak_public":"AAAA","ak_private":"AAA="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{fileState, fileServerKey, fileServerCert} {
			if err := os.WriteFile(filepath.Join(string(dir), name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if state, err := dir.readState(); err == nil && state != nil {
			if ak, err := state.key(); err == nil && !reflect.DeepEqual(tpm2.Marshal(ak.public), state.AKPublic) {
				t.Fatalf("an AK of % x was read as % x", state.AKPublic, tpm2.Marshal(ak.public))
			}
		}
		_, _ = dir.readKey(fileServerKey)
		_, _ = savedServerCertificate(dir, key)
	})
}

// serverKeyFor fills a folder as an agent does.
func serverKeyFor(f *testing.F, dir stateDir) (crypto.Signer, error) {
	f.Helper()
	cfg := baseConfig(startTPM(f), newCA(f, "cv_ca"))
	cfg.StateDir = string(dir)
	a := newAgent(f, cfg)
	key, ok := a.server.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the server's key cannot sign")
	}
	return key, nil
}
