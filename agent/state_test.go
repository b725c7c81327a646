package agent

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer collects a log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestRestartKeepsTheIdentity: after a restart of agent and TPM the registrar and
// the verifier still know the agent.
func TestRestartKeepsTheIdentity(t *testing.T) {
	tpm, registrar := startTPM(t), startRegistrar(t)
	cfg := baseConfig(tpm, newCA(t, "cv_ca"))
	cfg.Registrar, cfg.UUID, cfg.PayloadKey = registrar.addr(), UUIDGenerate, nil
	cfg.StateDir = filepath.Join(t.TempDir(), "deep", "state")
	first := newAgent(t, cfg)
	if err := first.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	tpm.restart()
	second := newAgent(t, cfg)
	if err := second.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.UUID() != second.UUID() || first.PayloadPublicPEM() != second.PayloadPublicPEM() {
		t.Error("UUID or payload key changed")
	}
	if !first.ServerCertificate().Equal(second.ServerCertificate()) {
		t.Error("the server certificate changed: the verifier would not accept it")
	}

	info, err := os.Stat(cfg.StateDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state folder %v %v, want 0700", info.Mode(), err)
	}
	entries, err := os.ReadDir(cfg.StateDir)
	if err != nil || len(entries) != 4 {
		t.Errorf("%d files, %v, want 4", len(entries), err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want 0600", entry.Name(), info.Mode(), err)
		}
	}
}

// TestSwappedTPM: with the state of one TPM and another TPM the agent is another.
func TestSwappedTPM(t *testing.T) {
	cfg := baseConfig(startTPM(t), newCA(t, "cv_ca"))
	cfg.StateDir = t.TempDir()
	first := newAgent(t, cfg)
	var out lockedBuffer
	cfg.OpenTPM, cfg.Logger = startTPM(t).open, out.logger()
	second := newAgent(t, cfg)
	if first.UUID() == second.UUID() {
		t.Error("two TPMs with one hash_ek")
	}
	if !strings.Contains(out.String(), "another EK") {
		t.Errorf("log %q does not tell why there is a new AK", out.String())
	}
}

func TestDamagedState(t *testing.T) {
	tpm := startTPM(t)
	for _, name := range []string{fileState, filePayloadKey, fileServerKey, fileServerCert} {
		cfg := baseConfig(tpm, newCA(t, "cv_ca"))
		cfg.StateDir, cfg.PayloadKey = t.TempDir(), nil
		if name == fileServerCert { // is read only if there is a key
			a := newAgent(t, cfg)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(cfg.StateDir, name)
		if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := New(t.Context(), cfg)
		if err == nil {
			_ = a.Close()
			t.Errorf("%s: damaged and accepted", name)
			continue
		}
		if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%s: error %v, want the file and what to do", name, err)
		}
	}
}

func TestServerCertificateIsRenewedWhenItNoLongerFits(t *testing.T) {
	dir := stateDir(t.TempDir())
	now := time.Now()
	cfg := &Config{Hostnames: []string{"a.test", "198.18.20.7"}}
	first, err := serverCertificate(cfg, dir, "id", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Leaf.VerifyHostname("a.test"); err != nil {
		t.Error(err)
	}
	if err := first.Leaf.VerifyHostname("198.18.20.7"); err != nil {
		t.Error(err)
	}
	same := func(cfg *Config, uuid string, at time.Time) bool {
		t.Helper()
		cert, err := serverCertificate(cfg, dir, uuid, at)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.Equal(first.Leaf)
	}
	if !same(cfg, "id", now.Add(300*24*time.Hour)) {
		t.Error("renewed without need")
	}
	for _, c := range []struct {
		why  string
		cfg  *Config
		uuid string
		at   time.Time
	}{
		{"almost expired", cfg, "id", now.Add(340 * 24 * time.Hour)},
		{"another name", &Config{Hostnames: []string{"b.test"}}, "id", now},
		{"another agent", cfg, "id2", now},
	} {
		if same(c.cfg, c.uuid, c.at) {
			t.Errorf("%s: not renewed", c.why)
		}
		if _, err := serverCertificate(cfg, dir, "id", now); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigReportsEveryProblem(t *testing.T) {
	_, err := New(t.Context(), Config{
		UUID: "a b", EKAlgorithm: "ek?", AKAlgorithm: "ak?", HashAlgorithm: "md5",
		ContactAddress: strings.Repeat("a", 64) + ".test", ContactPort: 70000,
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"OpenTPM", "ClientCAs", `"a b"`, `"ek?"`, `"ak?"`, `"md5"`, "63", "70000"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not mention %s: %v", want, err)
		}
	}
}
