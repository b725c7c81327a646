package push

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/tpmsim"
)

// imaList is an IMA measurement list with its PCR.
type imaList struct {
	mu    sync.Mutex
	lines []string
}

// measure adds an entry of template ima-ng (Linux, Documentation/security/IMA-templates.rst) for a file and extends PCR 10 by it.
func (l *imaList) measure(t *testing.T, tpm *tpmsim.TPM, path string, digest [32]byte) {
	t.Helper()
	field := func(data []byte, value string) []byte {
		return append(binary.LittleEndian.AppendUint32(data, uint32(len(value))), value...)
	}
	data := field(field(nil, "sha256:\x00"+string(digest[:])), path+"\x00")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("10 %x ima-ng sha256:%x %s\n", sha1.Sum(data), digest, path))
	sum := sha256.Sum256(data)
	if err := tpm.ExtendPCR(t.Context(), 10, tpm2.TPMAlgSHA256, sum[:]); err != nil {
		t.Error(err)
	}
}

// from is Config.IMA.
func (l *imaList) from(n int) (string, int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines[min(n, len(l.lines)):], ""), len(l.lines), nil
}

// separatorLog is the log of a start that measured only separators (PC Client Platform Firmware Profile, section 10.4.1), and their extensions.
func separatorLog(t *testing.T, tpm *tpmsim.TPM) []byte {
	t.Helper()
	le := binary.LittleEndian
	log := bootLog(0)
	separator := make([]byte, 4)
	short, long := sha1.Sum(separator), sha256.Sum256(separator)
	for pcr := range 8 {
		log = le.AppendUint32(le.AppendUint32(le.AppendUint32(log, uint32(pcr)), 4), 2)
		log = append(le.AppendUint16(log, 0x0004), short[:]...)
		log = append(le.AppendUint16(log, 0x000b), long[:]...)
		log = append(le.AppendUint32(log, 4), separator...)
		if err := tpm.ExtendPCR(t.Context(), pcr, tpm2.TPMAlgSHA256, long[:]); err != nil {
			t.Fatal(err)
		}
	}
	return log
}

// Logs as the real verifier judges them: a boot log, and an IMA list that grows and is sent from where the last attestation left off.
func TestRealLogs(t *testing.T) {
	s := startStack(t, nil)
	list := &imaList{}
	var mu sync.Mutex
	var log []byte
	var asked []int
	n := startNode(t, s, func(cfg *Config) {
		cfg.IMA = func(from int) (string, int, error) {
			mu.Lock()
			asked = append(asked, from)
			mu.Unlock()
			return list.from(from)
		}
		cfg.BootLog = func() ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			return log, nil
		}
	})
	mu.Lock()
	log = separatorLog(t, n.tpm)
	mu.Unlock()
	known := sha256.Sum256([]byte("a program"))
	list.measure(t, n.tpm, "/usr/bin/known", known)

	policy := filepath.Join(t.TempDir(), "runtime-policy.json")
	text := fmt.Sprintf(`{"meta": {"version": 1, "generator": 2}, "release": 0, "digests": {"/usr/bin/known": [%q]}, "excludes": [], "keyrings": {},
		"ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}`, hex.EncodeToString(known[:]))
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	reference := filepath.Join(t.TempDir(), "mb-policy.json")
	if err := os.WriteFile(reference, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := s.enroller.Enroll(t.Context(), keylime.Request{UUID: n.UUID(), PushModel: true, RuntimePolicyFile: policy, MBPolicyFile: reference})
	if err != nil || res.Err() != nil {
		t.Fatalf("%v, %v", err, res.Err())
	}
	passed := func(count int) func(a *keylime.VerifierAgent) bool {
		return func(a *keylime.VerifierAgent) bool {
			return a.AttestationStatus == "PASS" && a.AttestationCount >= count
		}
	}
	first := s.at(t, n.UUID(), "an attestation with logs", passed(1))
	record := n.find(t, "its record", func(a *Attestation) bool { return a.Verdict == Accepted })
	if want := 16; len(record.PCRs) != want {
		t.Errorf("quoted PCRs %v, want the %d of boot log and IMA", record.PCRs, want)
	}
	list.measure(t, n.tpm, "/usr/bin/known", known)
	list.measure(t, n.tpm, "/usr/bin/known", known)
	s.at(t, n.UUID(), "attestations with a list that grew", passed(first.AttestationCount+2))
	eventually(t, "a request for the list from the third entry on", func() string { return fmt.Sprint(asked) }, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(asked) > 0 && asked[len(asked)-1] == 3
	})
	list.measure(t, n.tpm, "/usr/bin/unknown", sha256.Sum256([]byte("another program")))
	s.at(t, n.UUID(), "the failure for an unknown program", func(a *keylime.VerifierAgent) bool { return a.AttestationStatus == "FAIL" })

	if res, err := s.enroller.Delete(t.Context(), n.UUID()); err != nil || res.Err() != nil {
		t.Fatalf("%v, %v", err, res.Err())
	}
	n.find(t, "an attempt after the agent was deleted", func(a *Attestation) bool { return errors.Is(a.Err, ErrNotEnrolled) && a.Status(StepNegotiate) == 404 })
}
