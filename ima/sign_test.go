package ima_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"slices"
	"testing"

	"keylab.dev/keylab/ima"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A signature has the header that the kernel gives it, and is good for this digest and this key alone.
func TestSign(t *testing.T) {
	key, other := newKey(t), newKey(t)
	for hash, number := range map[crypto.Hash]byte{crypto.SHA1: 2, crypto.SHA256: 4, crypto.SHA384: 5, crypto.SHA512: 6} {
		d := digestOf(hash, "program")
		s, err := ima.Sign(key, d)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		id := sha1.Sum(point)
		if want := slices.Concat([]byte{3, 2, number}, id[16:]); !slices.Equal(s[:7], want) || int(binary.BigEndian.Uint16(s[7:9])) != len(s)-9 || !ecdsa.VerifyASN1(&key.PublicKey, d.Sum, s[9:]) {
			t.Errorf("%v: % x, want % x first", hash, s, want)
		}
		e := ima.Entry{Template: ima.TemplateSig, Digest: d, Path: "/opt/program", Signature: s}
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		if !e.SignedBy(&key.PublicKey) || e.SignedBy(&other.PublicKey) || e.SignedBy(nil) {
			t.Errorf("%v: signed by its key: %v; by another: %v; by none: %v", hash, e.SignedBy(&key.PublicKey), e.SignedBy(&other.PublicKey), e.SignedBy(nil))
		}
		for name, change := range map[string]func(e *ima.Entry){
			"another digest": func(e *ima.Entry) { e.Digest = digestOf(hash, "another") },
			"none":           func(e *ima.Entry) { e.Signature = nil },
			"cut off":        func(e *ima.Entry) { e.Signature = e.Signature[:len(e.Signature)-1] },
			"the header":     func(e *ima.Entry) { e.Signature = e.Signature[:9] },
			"another type":   func(e *ima.Entry) { e.Signature[0] = 5 },
			"version 1":      func(e *ima.Entry) { e.Signature[1] = 1 },
			"another hash":   func(e *ima.Entry) { e.Signature[2]++ },
			"another key id": func(e *ima.Entry) { e.Signature[3]++ },
			"one bit":        func(e *ima.Entry) { e.Signature[len(e.Signature)-1] ^= 1 },
		} {
			x := e
			x.Signature = slices.Clone(s)
			if change(&x); x.SignedBy(&key.PublicKey) {
				t.Errorf("%v, %s: taken for a good signature", hash, name)
			}
		}
	}
	if _, err := ima.Sign(key, ima.Digest{Hash: crypto.SHA256, Sum: []byte{1}}); err == nil {
		t.Error("a digest of one byte was signed")
	}
	if _, err := ima.Sign(&ecdsa.PrivateKey{}, digestOf(crypto.SHA256, "x")); err == nil {
		t.Error("signed without a key")
	}
}

// FuzzSignedBy: no signature that the key did not make is taken for one of its own.
func FuzzSignedBy(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	d := digestOf(crypto.SHA256, "program")
	good, err := ima.Sign(key, d)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-1], byte(4))
	f.Add(good[:9], byte(0))
	f.Add([]byte{}, byte(2))
	other := digestOf(crypto.SHA256, "another")
	f.Add(good, byte(4))
	f.Fuzz(func(t *testing.T, signature []byte, number byte) {
		e := ima.Entry{Template: ima.TemplateSig, Digest: other, Path: "/opt/program", Signature: slices.Clone(signature)}
		if len(e.Signature) > 2 {
			e.Signature[2] = number
		}
		if e.SignedBy(&key.PublicKey) {
			t.Fatalf("taken for the key's own: % x", e.Signature)
		}
	})
}
