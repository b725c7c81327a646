package agent

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// zipOf packs texts; a name that ends in / is a folder, one that begins with -> a link.
func zipOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &zip.FileHeader{Name: strings.TrimPrefix(files[i], "->"), Method: zip.Deflate}
		if h.Name != files[i] {
			h.SetMode(fs.ModeSymlink | 0o777)
		}
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// secure is an agent with a folder for payloads.
func secure(t testing.TB, change func(*Config)) (*fixture, string, *lockedBuffer) {
	t.Helper()
	dir, log := t.TempDir(), &lockedBuffer{}
	f := startAgent(t, func(cfg *Config) {
		cfg.SecureDir, cfg.Logger = dir, log.logger()
		if change != nil {
			change(cfg)
		}
	})
	return f, dir, log
}

// send delivers a payload as tenant and verifier do.
func (f *fixture) deliverTo(t testing.TB, payload []byte) tenantKeys {
	t.Helper()
	key := newTenantKeys()
	f.postU(t, key, key.seal(t, payload))
	f.postV(t, key)
	return key
}

func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func awaitFile(t testing.TB, path, text string) {
	t.Helper()
	await(t, path+" to hold "+text, func() bool {
		got, err := os.ReadFile(path)
		return err == nil && string(got) == text
	})
}

func wantMode(t testing.TB, path string, mode fs.FileMode) {
	t.Helper()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
		t.Errorf("%s: %v, %v; want mode %o", path, info, err, mode)
	}
}

// A payload is put where the Rust agent puts it, with its key, for the user alone; the next one takes its place. An archive is left as it is unless
// unpacking is asked for.
func TestPayloadIsStored(t *testing.T) {
	f, dir, log := secure(t, nil)
	if found, err := FindPayload(dir, PayloadFile); found != nil || err != nil {
		t.Errorf("before anything came: %+v, %v", found, err)
	}
	archive := zipOf(t, "autorun.sh", "touch ran")
	key := f.deliverTo(t, archive)
	file := filepath.Join(dir, "unzipped", "decrypted_payload")
	awaitFile(t, file, string(archive))
	awaitFile(t, filepath.Join(dir, "unzipped", "derived_tci_key"), string(key.k))
	wantMode(t, file, 0o600)
	wantMode(t, filepath.Join(dir, "unzipped", "derived_tci_key"), 0o600)
	wantMode(t, filepath.Join(dir, "unzipped"), 0o700)
	if err := os.WriteFile(filepath.Join(dir, "unzipped", "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.deliverTo(t, []byte("second"))
	awaitFile(t, file, "second")
	entries, err := os.ReadDir(filepath.Join(dir, "unzipped"))
	if err != nil || len(entries) != 2 {
		t.Errorf("beside the second payload: %v, %v", entries, err)
	}

	sum := sha256.Sum256([]byte("second"))
	found, err := FindPayload(dir, PayloadFile)
	if err != nil || found.SHA256 != hex.EncodeToString(sum[:]) || found.Size != 6 || !found.Private {
		t.Errorf("found %+v, %v", found, err)
	}
	f.deliverTo(t, []byte("third")) // after which whatever was done with the first is over
	awaitFile(t, file, "third")
	if strings.Contains(log.String(), "unpacking") {
		t.Errorf("payloads were unpacked:\n%s", log)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil || found.Tmpfs != (disk.Type == unix.TMPFS_MAGIC) {
		t.Errorf("%s is a tmpfs: %v, %v", dir, found.Tmpfs, err)
	}
}

// Whoever can come to a payload is told by all modes on the way.
func TestPayloadThatOthersCanRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, PayloadFile)
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		folder, file fs.FileMode
		private      bool
	}{{0o755, 0o644, false}, {0o755, 0o640, true}, {0o750, 0o644, true}} {
		if err := os.Chmod(dir, c.folder); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.file); err != nil {
			t.Fatal(err)
		}
		if got, err := private(file, dir); err != nil || got != c.private {
			t.Errorf("folder %o, file %o: private %v, %v", c.folder, c.file, got, err)
		}
	}
}

// Both halves make a key that is for one UUID: what was meant for another agent is not even decrypted.
func TestPayloadForAnotherAgent(t *testing.T) {
	f, dir, log := secure(t, nil)
	key := newTenantKeys()
	status, e := f.post(t, "/v2.6/keys/ukey", map[string]string{
		"encrypted_key": f.encrypt(t, key.u), "payload": key.seal(t, []byte("not for you")), "auth_tag": hex.EncodeToString(hmacSHA384(key.k, "another")),
	})
	if status != 200 {
		t.Fatalf("ukey: %d %s", status, e.Status)
	}
	f.postV(t, key)
	f.deliverTo(t, []byte("for you")) // one that is meant for it comes through, after the other
	awaitFile(t, filepath.Join(dir, "unzipped", "decrypted_payload"), "for you")
	if n := strings.Count(log.String(), "payload stored"); n != 1 {
		t.Errorf("%d payloads were stored:\n%s", n, log)
	}
}

// An archive's script runs in its folder, on the agent's machine; neither what is in the archive nor what the script prints is in the log.
func TestPayloadScript(t *testing.T) {
	var started []string
	f, dir, log := secure(t, func(cfg *Config) {
		cfg.ExtractPayload, cfg.PayloadScript = true, "autorun.sh"
		cfg.StartScript = func(cmd *exec.Cmd) error {
			started = append(started, cmd.Dir)
			return cmd.Start()
		}
	})
	f.deliverTo(t, zipOf(t, "sub/", "", "sub/note", "topsecret", "autorun.sh", "cat sub/note; pwd > where; exit 3"))
	unzipped := filepath.Join(dir, "unzipped")
	await(t, "the script's end in the log", func() bool { return strings.Contains(log.String(), "exit status 3") })
	awaitFile(t, filepath.Join(unzipped, "where"), unzipped+"\n")
	wantMode(t, filepath.Join(unzipped, "autorun.sh"), 0o700)
	wantMode(t, filepath.Join(unzipped, "sub"), 0o700)
	wantMode(t, filepath.Join(unzipped, "sub", "note"), 0o600)
	if len(started) != 1 || started[0] != unzipped {
		t.Errorf("started in %v", started)
	}
	if strings.Contains(log.String(), "topsecret") {
		t.Errorf("the log holds what was delivered:\n%s", log)
	}

	f.deliverTo(t, zipOf(t, "note", "no script"))
	await(t, "word that there is no script", func() bool { return strings.Contains(log.String(), "the payload has no script") })
	f.deliverTo(t, []byte("no archive"))
	await(t, "word that it is no archive", func() bool { return strings.Contains(log.String(), "unpacking the payload") })
	awaitFile(t, filepath.Join(unzipped, "decrypted_payload"), "no archive")
}

// The agent's end is the end of what its payload runs.
func TestScriptEndsWithTheAgent(t *testing.T) {
	f, dir, _ := secure(t, func(cfg *Config) { cfg.ExtractPayload, cfg.PayloadScript = true, "autorun.sh" })
	f.deliverTo(t, zipOf(t, "autorun.sh", "mkfifo pipe; echo started > started; cat pipe"))
	awaitFile(t, filepath.Join(dir, "unzipped", "started"), "started\n")
	ended := make(chan error, 1)
	go func() { ended <- f.Close() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the agent waits for its payload's script, which waits for ever")
	}
	f.payloads.add(func(context.Context) { t.Error("a payload is handled after the agent's end") })
	f.payloads.idle.Wait()
}

// What an archive cannot do.
func TestArchivesThatAreRefused(t *testing.T) {
	outside := t.TempDir()
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"out of its folder": {zipOf(t, "../escaped", "x"), "outside of it"},
		"an absolute path":  {zipOf(t, outside+"/escaped", "x"), "outside of it"},
		"a link":            {zipOf(t, "->link", outside, "link/escaped", "x"), "neither a file nor a folder"},
		"a bomb":            {zipOf(t, "a", strings.Repeat("0", maxUnzipped/2), "b", strings.Repeat("0", maxUnzipped/2+1)), "more than 16 MiB"},
		"a file in a file":  {zipOf(t, "a", "x", "a/b", "x"), "not a directory"},
		"no archive":        {[]byte("PK"), "not a valid zip file"},
	} {
		dir := filepath.Join(t.TempDir(), "unzipped")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unzip(dir, c.archive); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		for _, path := range []string{filepath.Join(dir, "../escaped"), filepath.Join(outside, "escaped")} {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s: %s is there", name, path)
			}
		}
	}
}
