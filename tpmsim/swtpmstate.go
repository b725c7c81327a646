package tpmsim

import (
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

// errStateFormat is wrapped by all complaints about a state file that is not as libtpms 0.7 to 0.10 write it.
var errStateFormat = errors.New("unknown swtpm state format")

// The layout of swtpm's state file and, inside it, of libtpms' permanent state (libtpms src/tpm2/NVMarshal.c); all numbers
// are big-endian:
//
//	swtpm header    version u8, least version u8, header size u16, flags u16, total size u32
//	one TLV         tag u16 (1 = plain data), length u32
//	PERSISTENT_ALL  block header; from version 4 a profile string (u16 length, bytes)
//	constants       block header, count u32, count x u32, from version 2 a skippable block (u8 present, u16 length, bytes)
//	PERSISTENT_DATA block header, disableClear u8, 3 x algorithm u16, 3 x policy TPM2B, 3 x auth TPM2B,
//	                EPSeed, SPSeed, PPSeed, phProof, shProof, ehProof as TPM2B, totalResetCount u64, resetCount u32, ...
//
// A block header is version u16, magic u32 and, from version 2, the least version that a reader must know u16.
const (
	swtpmHeaderVersion = 2
	swtpmHeaderSize    = 10
	swtpmFlagEncrypted = 0x2 | 0x4
	swtpmTagData       = 1

	magicPersistentAll  = 0xab364723
	magicConstants      = 0xc9ea6431
	magicPersistentData = 0x12213443

	maxVersionAll       = 4
	maxVersionConstants = 3
	maxVersionData      = 5

	maxDigest   = 64   // SHA-512, the greatest TPM2B_DIGEST and TPM2B_AUTH of libtpms
	secretSize  = 64   // PRIMARY_SEED_SIZE and PROOF_SIZE of libtpms
	maxConstant = 1024 // far above the 88 and 120 known
)

// swtpmSecrets are the parts of a state file that make a TPM the one that it is; each slice lies in the file's bytes.
type swtpmSecrets struct {
	seeds  [3][]byte // endorsement, storage, platform primary seed
	proofs [3][]byte // platform, storage, endorsement proof
}

// secretLabels give each secret a derivation of its own.
var secretLabels = [6]string{"EPSeed", "SPSeed", "PPSeed", "phProof", "shProof", "ehProof"}

func (s *swtpmSecrets) all() [6][]byte {
	return [6][]byte{s.seeds[0], s.seeds[1], s.seeds[2], s.proofs[0], s.proofs[1], s.proofs[2]}
}

// derive overwrites all secrets by HKDF-SHA512 (RFC 5869) of seed.
func (s *swtpmSecrets) derive(seed []byte) error {
	for i, place := range s.all() {
		value, err := hkdf.Key(sha512.New, seed, nil, "keylab tpmsim swtpm "+secretLabels[i], len(place))
		if err != nil {
			return fmt.Errorf("tpmsim: deriving %s: %w", secretLabels[i], err)
		}
		copy(place, value)
	}
	return nil
}

// findSecrets parses a state file up to its primary seeds and proofs. It is strict: it returns an error that wraps
// errStateFormat when anything differs from the known layout, for a wrong guess would make a TPM that is broken later.
func findSecrets(file []byte) (*swtpmSecrets, error) {
	r := &stateReader{rest: file}

	version, least := r.u8("swtpm header version"), r.u8("swtpm header least version")
	size, flags, total := r.u16("swtpm header size"), r.u16("swtpm header flags"), r.u32("swtpm total size")
	r.require(version == swtpmHeaderVersion && least <= swtpmHeaderVersion, "swtpm header version %d (least %d)", version, least)
	r.require(size == swtpmHeaderSize, "swtpm header of %d bytes", size)
	r.require(flags&swtpmFlagEncrypted == 0, "state is encrypted (flags %#x)", flags)
	r.require(int(total) == len(file), "header says %d bytes, the file has %d", total, len(file))
	tag, length := r.u16("TLV tag"), r.u32("TLV length")
	r.require(tag == swtpmTagData, "TLV tag %d instead of plain data", tag)
	r.require(int64(length) == int64(len(r.rest)), "TLV of %d bytes with %d left", length, len(r.rest))

	if v := r.header("PERSISTENT_ALL", magicPersistentAll, maxVersionAll); v >= 4 {
		r.skip("profile", int(r.u16("profile length")))
	}
	v := r.header("compile constants", magicConstants, maxVersionConstants)
	n := r.u32("number of compile constants")
	r.require(n <= maxConstant, "%d compile constants", n)
	r.skip("compile constants", 4*int(min(n, maxConstant)))
	if v >= 2 {
		present := r.u8("block mark")
		r.require(present <= 1, "block mark %d", present)
		if length := int(r.u16("block length")); present == 1 {
			r.skip("block", length)
		}
	}
	r.header("PERSISTENT_DATA", magicPersistentData, maxVersionData)
	disableClear := r.u8("disableClear")
	r.require(disableClear <= 1, "disableClear %d", disableClear)
	for _, name := range []string{"ownerAlg", "endorsementAlg", "lockoutAlg"} {
		r.u16(name)
	}
	for _, name := range []string{"ownerPolicy", "endorsementPolicy", "lockoutPolicy", "ownerAuth", "endorsementAuth", "lockoutAuth"} {
		n := int(r.u16(name))
		r.require(n <= maxDigest, "%s of %d bytes", name, n)
		r.skip(name, n)
	}
	var found [6][]byte
	for i, name := range secretLabels {
		n := int(r.u16(name))
		r.require(n == secretSize, "%s of %d bytes instead of %d", name, n, secretSize)
		found[i] = r.skip(name, n)
	}
	r.skip("totalResetCount and resetCount", 8+4)
	if r.err != nil {
		return nil, r.err
	}
	s := &swtpmSecrets{seeds: [3][]byte(found[:3]), proofs: [3][]byte(found[3:])}
	for i, secret := range s.all() {
		if allZero(secret) {
			return nil, fmt.Errorf("%w: %s is all zero", errStateFormat, secretLabels[i])
		}
	}
	return s, nil
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// stateReader reads big-endian fields and keeps the first error.
type stateReader struct {
	rest   []byte
	offset int
	err    error
}

func (r *stateReader) require(ok bool, format string, args ...any) {
	if !ok && r.err == nil {
		r.err = fmt.Errorf("%w: before byte %d: %s", errStateFormat, r.offset, fmt.Sprintf(format, args...))
	}
}

func (r *stateReader) skip(what string, n int) []byte {
	r.require(n <= len(r.rest), "%s needs %d bytes and %d are left", what, n, len(r.rest))
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest, r.offset = r.rest[n:], r.offset+n
	return b
}

func (r *stateReader) u8(what string) uint8 {
	if b := r.skip(what, 1); b != nil {
		return b[0]
	}
	return 0
}

func (r *stateReader) u16(what string) uint16 {
	if b := r.skip(what, 2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *stateReader) u32(what string) uint32 {
	if b := r.skip(what, 4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *stateReader) header(what string, magic uint32, newest uint16) uint16 {
	version := r.u16(what + " version")
	got := r.u32(what + " magic")
	r.require(got == magic, "%s has magic %#x instead of %#x", what, got, magic)
	r.require(version >= 1 && version <= newest, "%s has version %d; known are 1 to %d", what, version, newest)
	if version >= 2 {
		r.u16(what + " least version")
	}
	return version
}
