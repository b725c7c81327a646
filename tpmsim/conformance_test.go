package tpmsim

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// builtBackends are those that this build has; a build without cgo has one.
func builtBackends() []Backend {
	if simulatorBuilt() != nil {
		return []Backend{Swtpm()}
	}
	return []Backend{Swtpm(), Simulator()}
}

// forEachBackend runs the same test on all backends of this build.
func forEachBackend(t *testing.T, test func(t *testing.T, b Backend)) {
	for _, b := range builtBackends() {
		t.Run(b.Name(), func(t *testing.T) {
			if err := b.Available(); err != nil {
				t.Fatal(err)
			}
			t.Parallel()
			test(t, b)
		})
	}
}

// openTPM opens a TPM that is closed at the end of the test.
func openTPM(t testing.TB, o Options) *TPM {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	tpm, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pid := tpm.PID()
		if err := tpm.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if _, err := os.Stat(filepath.Join("/proc", itoa(pid))); pid != 0 && err == nil {
			t.Errorf("process %d is left after Close", pid)
		}
	})
	return tpm
}

func manufacture(t testing.TB, tpm *TPM, a Algorithm) *Identity {
	t.Helper()
	id, err := tpm.Manufacture(t.Context(), ManufactureOptions{Algorithm: a, Certificate: selfMadeCA(t)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// selfMadeCA issues small but real certificates, so that tools can parse them.
func selfMadeCA(t testing.TB) func(crypto.PublicKey, Algorithm) ([]byte, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return func(ek crypto.PublicKey, _ Algorithm) ([]byte, error) {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
			// About as long as a real EK certificate, so that it needs more than one NV write.
			DNSNames: []string{strings.Repeat("a", 600), strings.Repeat("b", 400)}}
		return x509.CreateCertificate(rand.Reader, template, template, ek, key)
	}
}

func clockInfo(t testing.TB, c transport.TPM) tpm2.TPMSClockInfo {
	t.Helper()
	r, err := tpm2.ReadClock{}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return r.CurrentTime.ClockInfo
}

func TestManufacture(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		for _, a := range Algorithms() {
			t.Run(string(a), func(t *testing.T) {
				tpm := openTPM(t, Options{Backend: b})
				if _, err := tpm.Identity(t.Context()); !errors.Is(err, ErrNotManufactured) {
					t.Fatalf("Identity of a bare TPM: %v, want ErrNotManufactured", err)
				}
				id := manufacture(t, tpm, a)
				if id.Existing {
					t.Error("a new TPM counts as existing")
				}
				cert, err := x509.ParseCertificate(id.Certificate)
				if err != nil {
					t.Fatal(err)
				}
				if !cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(id.Public) {
					t.Error("the certificate is for another key")
				}
				switch key := id.Public.(type) {
				case *rsa.PublicKey:
					if a != EKRSA2048 || key.N.BitLen() != 2048 {
						t.Errorf("%s gave an RSA key of %d bits", a, key.N.BitLen())
					}
				case *ecdsa.PublicKey:
					if a != EKECCP256 || key.Curve != elliptic.P256() {
						t.Errorf("%s gave a key on %v", a, key.Curve)
					}
				}
				again := manufacture(t, tpm, a)
				if !again.Existing || !bytes.Equal(again.Certificate, id.Certificate) || !bytes.Equal(again.TPM2BPublic, id.TPM2BPublic) {
					t.Error("a second Manufacture did not return what the first had made")
				}
				p, err := profileOf(a)
				if err != nil {
					t.Fatal(err)
				}
				c := tpm.Client()
				defer c.Close()
				r, err := tpm2.NVReadPublic{NVIndex: p.certificate}.Execute(c)
				if err != nil {
					t.Fatal(err)
				}
				public, err := r.NVPublic.Contents()
				if err != nil {
					t.Fatal(err)
				}
				// EK Credential Profile, section 2.2.1: PPWRITE, WRITEDEFINE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, WRITTEN,
				// PLATFORMCREATE.
				if got := tpm2.Marshal(public.Attributes); !bytes.Equal(got, handles(0x62072001)) {
					t.Errorf("NV attributes are %x, want 62072001", got)
				}
			})
		}
	})
}

// An interruption after the EK was persisted must not leave the TPM stuck, nor give it another EK.
func TestManufactureRepeatsAfterInterruption(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		boom := errors.New("the CA is down")
		var first crypto.PublicKey
		_, err := tpm.Manufacture(t.Context(), ManufactureOptions{Algorithm: EKECCP256, Certificate: func(ek crypto.PublicKey, _ Algorithm) ([]byte, error) {
			first = ek
			return nil, boom
		}})
		if !errors.Is(err, boom) {
			t.Fatalf("error is %v, want the CA's", err)
		}
		if id, err := tpm.Identity(t.Context()); err != nil || id.Certificate != nil {
			t.Errorf("Identity is %+v, %v; want the EK without a certificate", id, err)
		}
		id := manufacture(t, tpm, EKECCP256)
		if !id.Public.(*ecdsa.PublicKey).Equal(first) {
			t.Error("the second try made another EK")
		}
		if id.Certificate == nil {
			t.Error("the second try wrote no certificate")
		}
	})
}

// A TPM may leave the factory without an EK certificate, and stays the same TPM when it is manufactured again.
func TestManufactureWithoutCertificate(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		bare := ManufactureOptions{Algorithm: EKECCP256, WithoutCertificate: true}
		first, err := tpm.Manufacture(t.Context(), bare)
		if err != nil {
			t.Fatal(err)
		}
		again, err := tpm.Manufacture(t.Context(), bare)
		if err != nil {
			t.Fatal(err)
		}
		if first.Existing || !again.Existing || first.Certificate != nil || again.Certificate != nil {
			t.Errorf("first %+v, again %+v; want one EK without a certificate", first, again)
		}
		if !again.Public.(*ecdsa.PublicKey).Equal(first.Public) {
			t.Error("the second try made another EK")
		}
	})
}

func TestDistinctAndSeeded(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		seed := []byte("0123456789abcdef0123456789abcdef")
		open := func(seed []byte) *Identity {
			return manufacture(t, openTPM(t, Options{Backend: b, Seed: seed}), EKECCP256)
		}
		one, other := open(nil), open(nil)
		same, again := open(seed), open(seed)
		third := open([]byte("another seed of enough bytes"))
		if bytes.Equal(one.TPM2BPublic, other.TPM2BPublic) {
			t.Error("two TPMs with random seeds have one EK")
		}
		if !bytes.Equal(same.TPM2BPublic, again.TPM2BPublic) {
			t.Error("two TPMs with the same seed have different EKs")
		}
		if bytes.Equal(same.TPM2BPublic, one.TPM2BPublic) || bytes.Equal(same.TPM2BPublic, third.TPM2BPublic) {
			t.Error("TPMs with different seeds have one EK")
		}
	})
}

func TestSeedOfExistingTPMIsChecked(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		o := Options{Backend: b, Dir: t.TempDir(), Seed: []byte("0123456789abcdef")}
		tpm := openTPM(t, o)
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("opening it twice: %v, want that the directory is in use", err)
		}
		if err := tpm.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.Seed = []byte("fedcba9876543210")
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another seed") {
			t.Errorf("opening it with another seed: %v", err)
		}
		o.Seed = []byte("short")
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "at least 16") {
			t.Errorf("opening it with a short seed: %v", err)
		}
		o.Seed = nil
		openTPM(t, o)
	})
}

// A TPM must keep its EK, certificate and clock over a restart of everything, and a key made on it must load again.
func TestRestartKeepsTheTPM(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		o := Options{Backend: b, Dir: t.TempDir(), Seed: []byte("0123456789abcdef")}
		tpm := openTPM(t, o)
		id := manufacture(t, tpm, EKECCP256)
		c := tpm.Client()
		ak := createKey(t, c)
		before := clockInfo(t, c)
		if err := tpm.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Send(newCommand(ccGetRandom, []byte{0, 8})); !errors.Is(err, ErrClosed) {
			t.Errorf("a client of a closed TPM gets %v, want ErrClosed", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("closing a client of a closed TPM: %v", err)
		}

		tpm = openTPM(t, o)
		got, err := tpm.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.TPM2BPublic, id.TPM2BPublic) || !bytes.Equal(got.Certificate, id.Certificate) {
			t.Error("EK or certificate changed")
		}
		c = tpm.Client()
		defer c.Close()
		ak.load(t, c)
		after := clockInfo(t, c)
		if !after.Safe || after.ResetCount != before.ResetCount+1 || after.Clock < before.Clock {
			t.Errorf("clock before %+v, after %+v; want safe, one more reset, no step back", before, after)
		}
	})
}

func TestRebootAndCrash(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		manufacture(t, tpm, EKECCP256)
		c := tpm.Client()
		defer c.Close()
		ak := createKey(t, c)
		handle := ak.load(t, c)
		digest := bytes.Repeat([]byte{7}, 32)
		if err := tpm.ExtendPCR(t.Context(), 16, tpm2.TPMAlgSHA256, digest); err != nil {
			t.Fatal(err)
		}
		pcr := func() []byte {
			values, err := tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, 16)
			if err != nil {
				t.Fatal(err)
			}
			return values[16]
		}
		zero := make([]byte, 32)
		if bytes.Equal(pcr(), zero) {
			t.Fatal("extending PCR 16 did nothing")
		}
		done := tpm.Done()
		before := clockInfo(t, c)
		if err := tpm.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
		rebooted := clockInfo(t, c)
		if !rebooted.Safe || rebooted.ResetCount != before.ResetCount+1 || rebooted.Clock < before.Clock {
			t.Errorf("reboot: clock before %+v, after %+v; want safe, one more reset, no step back", before, rebooted)
		}
		if !bytes.Equal(pcr(), zero) {
			t.Error("reboot: PCR 16 was not reset")
		}
		if _, err := (tpm2.ReadPublic{ObjectHandle: handle}).Execute(c); !errors.Is(err, tpm2.TPMRCReferenceH0) {
			t.Errorf("reboot: a handle from before gives %v, want TPM_RC_REFERENCE_H0", err)
		}
		ak.load(t, c)
		if err := tpm.Crash(t.Context()); err != nil {
			t.Fatal(err)
		}
		crashed := clockInfo(t, c)
		if crashed.Safe || crashed.ResetCount != rebooted.ResetCount+1 {
			t.Errorf("crash: clock before %+v, after %+v; want unsafe, one more reset", rebooted, crashed)
		}
		if _, err := tpm.AwaitSafeClock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := clockInfo(t, c); !now.Safe {
			t.Errorf("clock after AwaitSafeClock: %+v", now)
		}
		ak.load(t, c)
		if _, err := tpm.Identity(t.Context()); err != nil {
			t.Errorf("crash: %v", err)
		}
		select {
		case <-done:
			t.Errorf("a reboot or a crash that was asked for counts as a death: %v", tpm.Err())
		default:
		}
	})
}

func TestSnapshotAndRestore(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		c := tpm.Client()
		defer c.Close()
		id := manufacture(t, tpm, EKECCP256)
		dir := filepath.Join(t.TempDir(), "snapshot")
		if err := tpm.Snapshot(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if err := tpm.Snapshot(t.Context(), dir); err == nil {
			t.Error("a snapshot overwrote another")
		}
		at := clockInfo(t, c)
		if err := tpm.ReplaceEKCertificate(t.Context(), []byte("not a certificate")); err != nil {
			t.Fatal(err)
		}
		changed, err := tpm.Identity(t.Context())
		if err != nil || string(changed.Certificate) != "not a certificate" {
			t.Fatalf("after ReplaceEKCertificate the certificate is %q (%v)", changed.Certificate, err)
		}
		if err := tpm.Restore(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		restored, err := tpm.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(restored.Certificate, id.Certificate) {
			t.Error("the certificate of the snapshot did not come back")
		}
		if now := clockInfo(t, c); !now.Safe || now.ResetCount != at.ResetCount+1 {
			t.Errorf("clock at the snapshot %+v, restored %+v; want safe and one more reset", at, now)
		}
		// A second TPM from the snapshot is a clone.
		clone := openTPM(t, Options{Backend: b})
		if err := clone.Restore(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		twin, err := clone.Identity(t.Context())
		if err != nil || !bytes.Equal(twin.TPM2BPublic, id.TPM2BPublic) {
			t.Errorf("the clone has another EK (%v)", err)
		}
		if err := clone.Restore(t.Context(), t.TempDir()); err == nil {
			t.Error("restored an empty directory")
		}
		if _, err := clone.Identity(t.Context()); err != nil {
			t.Errorf("a refused Restore hurt the TPM: %v", err)
		}
	})
}

func TestKillIsReported(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		manufacture(t, tpm, EKECCP256)
		c := tpm.Client()
		defer c.Close()
		if err := tpm.Err(); err != nil || !tpm.Alive() {
			t.Fatalf("a well TPM: Alive %v, Err %v", tpm.Alive(), err)
		}
		pid := tpm.PID()
		if err := tpm.Kill(); err != nil {
			t.Fatal(err)
		}
		<-tpm.Done()
		var pe *ProcessError
		if !errors.As(tpm.Err(), &pe) || pe.PID != pid || pe.Status != "signal: killed" || tpm.Alive() {
			t.Errorf("Alive %v, Err %v; want a ProcessError of pid %d, killed", tpm.Alive(), tpm.Err(), pid)
		}
		if _, err := c.Send(newCommand(ccGetRandom, []byte{0, 8})); !errors.As(err, &pe) {
			t.Errorf("a client gets %v, want a ProcessError", err)
		}
		if err := tpm.Crash(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := tpm.Identity(t.Context()); err != nil || tpm.Err() != nil || !tpm.Alive() {
			t.Errorf("after Crash: Identity %v, Err %v, Alive %v", err, tpm.Err(), tpm.Alive())
		}
	})
}

// What a process says before it dies must reach the user.
func TestBrokenStateIsReportedWithOutput(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		o := Options{Backend: b, Dir: t.TempDir()}
		tpm := openTPM(t, o)
		if err := tpm.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{swtpmStateFile, simulatorNVFile} {
			path := filepath.Join(o.Dir, stateName, name)
			if _, err := os.Stat(path); err == nil {
				if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, err := Open(t.Context(), o)
		if err == nil {
			t.Fatal("a TPM with a broken state opened")
		}
		if b.Name() == "simulator" && !strings.Contains(err.Error(), "NV memory of 7 bytes") {
			t.Errorf("error does not show the output: %v", err)
		}
		t.Log(err)
	})
}
