package ima

import (
	"bytes"
	"crypto"
	_ "crypto/sha1"   // for crypto.SHA1.New
	_ "crypto/sha256" // for crypto.SHA256.New
	_ "crypto/sha512" // for crypto.SHA384.New and crypto.SHA512.New
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// algorithms are the hashes of files and of PCR banks, with the kernel's names (crypto/hash_info.c, hash_algo_name).
var algorithms = []struct {
	hash crypto.Hash
	name string
}{
	{crypto.SHA1, "sha1"},
	{crypto.SHA256, "sha256"},
	{crypto.SHA384, "sha384"},
	{crypto.SHA512, "sha512"},
}

// violationDigestSize is how many zero bytes stand for the file digest of a violation, whatever the algorithm, in older kernels
// (IMA_DIGEST_SIZE in ima_eventdigest_init_common). Newer ones write as many as the algorithm has.
const violationDigestSize = 20

// Digest is the digest of a file, or the boot aggregate. In text it is "sha256:" and the bytes of Sum in lower-case hexadecimal.
type Digest struct {
	Hash crypto.Hash // crypto.SHA1, SHA256, SHA384 or SHA512
	Sum  []byte      // Hash.Size() bytes; in a violation 20 zero bytes are good too
}

// ParseDigest reads the text of a digest. It fails for an algorithm other than sha1, sha256, sha384 and sha512, and for anything
// but lower-case hexadecimal digits. How many there are is checked where the digest is used: that depends on the entry.
func ParseDigest(text string) (Digest, error) {
	name, sum, found := strings.Cut(text, ":")
	if !found {
		return Digest{}, fmt.Errorf("file digest %s has no algorithm: write it as sha256:<hex>", quote(text))
	}
	for _, a := range algorithms {
		if a.name != name {
			continue
		}
		decoded, err := parseHex(sum)
		if err != nil {
			return Digest{}, fmt.Errorf("file digest %s: %w", quote(text), err)
		}
		return Digest{Hash: a.hash, Sum: decoded}, nil
	}
	return Digest{}, fmt.Errorf("file digest %s: algorithm %s is not known: use sha1, sha256, sha384 or sha512", quote(text), quote(name))
}

// String gives the text of the digest; an algorithm that this package does not know is "unknown".
func (d Digest) String() string {
	name, err := d.name()
	if err != nil {
		name = "unknown"
	}
	return name + ":" + hex.EncodeToString(d.Sum)
}

// name is the kernel's name of the algorithm.
func (d Digest) name() (string, error) {
	for _, a := range algorithms {
		if a.hash == d.Hash {
			return a.name, nil
		}
	}
	return "", fmt.Errorf("file digest by %v: use SHA-1, SHA-256, SHA-384 or SHA-512", d.Hash)
}

// check says whether an entry, which is a violation or not, can have the digest.
func (d Digest) check(violation bool) error {
	name, err := d.name()
	if err != nil {
		return err
	}
	n := len(d.Sum)
	if n != d.Hash.Size() && (!violation || n != violationDigestSize) {
		return fmt.Errorf("file digest has %d bytes, %s has %d: give the digest whole", n, name, d.Hash.Size())
	}
	if violation && !isZero(d.Sum) {
		return errors.New("violation has a file digest: the kernel measures none, so give zeros")
	}
	return nil
}

// checkBank says whether PCRs of the bank can be computed.
func checkBank(bank crypto.Hash) error {
	for _, a := range algorithms {
		if a.hash == bank {
			return nil
		}
	}
	return fmt.Errorf("no PCR bank by %v: use SHA-1, SHA-256, SHA-384 or SHA-512", bank)
}

// parseHex decodes hexadecimal digits as the kernel prints them. Upper case would be lost when the list is written again.
func parseHex(text string) ([]byte, error) {
	if strings.ToLower(text) != text {
		return nil, errors.New("hexadecimal digits are in upper case: the kernel prints them in lower case")
	}
	data, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("give pairs of hexadecimal digits: %w", err)
	}
	return data, nil
}

func isZero(data []byte) bool {
	return len(bytes.TrimLeft(data, "\x00")) == 0
}

// quote makes text from outside fit for an error: printable and not longer than a line.
func quote(text string) string {
	const most = 80
	if len(text) > most {
		return fmt.Sprintf("%q...", text[:most])
	}
	return fmt.Sprintf("%q", text)
}
