package agent

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where a payload is, below Config.SecureDir; the names are the Rust agent's
// defaults (rust-keylime 0.2.9, keylime-agent.conf: dec_payload_file, enc_keyname).
const (
	PayloadDir  = "unzipped"
	PayloadFile = "decrypted_payload"
	payloadKeys = "derived_tci_key"
)

// maxUnzipped bounds what an archive may unpack to, in bytes; the tmpfs that it
// goes to is commonly smaller still.
const maxUnzipped = 16 << 20

// runPayload does what the Rust agent does with a payload (payloads.rs): it
// replaces an earlier one, and unpacks and runs it where that is asked for. What
// goes wrong is in the log alone, as there; neither content nor key ever is.
func (a *Agent) runPayload(ctx context.Context, key, payload []byte) {
	dir := filepath.Join(a.cfg.SecureDir, PayloadDir)
	if err := storePayload(dir, key, payload); err != nil {
		a.log.Error("storing the payload", "error", err)
		return
	}
	a.log.Info("payload stored", "folder", dir, "bytes", len(payload))
	defer a.loadNotifier(dir)
	if !a.cfg.ExtractPayload {
		return
	}
	if err := unzip(dir, payload); err != nil {
		a.log.Warn("unpacking the payload", "error", err)
		return
	}
	if a.cfg.PayloadActions {
		a.allowActions(dir)
	}
	if a.cfg.PayloadScript == "" {
		return
	}
	script := filepath.Join(dir, a.cfg.PayloadScript)
	if _, err := os.Stat(script); err != nil {
		a.log.Info("the payload has no script", "script", a.cfg.PayloadScript)
		return
	}
	if err := a.runScript(ctx, script); err != nil {
		a.log.Warn("running the payload's script", "script", a.cfg.PayloadScript, "error", err)
		return
	}
	a.log.Info("payload script ended", "script", a.cfg.PayloadScript)
}

// storePayload puts payload and key into a folder of their own, in place of what
// was there.
func storePayload(dir string, key, payload []byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the last payload: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the payload's folder: %w", err)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, payloadKeys), key, 0o600),
		os.WriteFile(filepath.Join(dir, PayloadFile), payload, 0o600),
	)
}

// unzip unpacks an archive: files and folders that lie inside of dir, for the
// user alone.
func unzip(dir string, archive []byte) error {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	left := int64(maxUnzipped)
	for _, f := range z.File {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("the archive holds %q, which is outside of it", f.Name)
		}
		path := filepath.Join(dir, f.Name)
		switch {
		case f.Mode().IsDir():
			err = os.MkdirAll(path, 0o700)
		case f.Mode().IsRegular():
			var n int64
			n, err = unzipFile(path, f, left)
			left -= n
		default:
			err = errors.New("neither a file nor a folder")
		}
		if err != nil {
			return fmt.Errorf("unpack %q: %w", f.Name, err)
		}
	}
	return nil
}

func unzipFile(path string, f *zip.File, limit int64) (int64, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, err
	}
	in, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600|f.Mode()&0o700)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, io.LimitReader(in, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("the archive unpacks to more than %d MiB", maxUnzipped>>20)
	}
	return n, errors.Join(err, out.Close())
}

// runScript runs a script in its own folder until it ends or ctx does. What it
// prints is dropped, as by the Rust agent: it may be a secret.
func (a *Agent) runScript(ctx context.Context, script string) error {
	if err := os.Chmod(script, 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir = filepath.Dir(script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := a.cfg.StartScript(cmd); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	return cmd.Wait()
}

// worker does one thing after the other, apart from the requests that brought them:
// payloads, or the actions of notices.
type worker struct {
	mu      sync.Mutex
	queue   []func(context.Context)
	running bool
	closed  bool
	cancel  context.CancelFunc
	idle    sync.WaitGroup
}

func (w *worker) add(work func(context.Context)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, work)
	if w.running {
		return
	}
	w.running = true
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.idle.Add(1)
	go func() {
		defer w.idle.Done()
		defer cancel()
		for work := w.next(); work != nil; work = w.next() {
			work(ctx)
		}
	}()
}

// next is nil when nothing is left to do.
func (w *worker) next() func(context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 || w.closed {
		w.running = false
		return nil
	}
	work := w.queue[0]
	w.queue = w.queue[1:]
	return work
}

// close ends what runs, and waits for it.
func (w *worker) close() {
	w.mu.Lock()
	w.closed = true
	if w.cancel != nil {
		w.cancel()
	}
	w.mu.Unlock()
	w.idle.Wait()
}

// StoredPayload is what an agent, this one or the Rust agent, has put into its
// SecureDir.
type StoredPayload struct {
	SHA256 string // hexadecimal
	Size   int64  // bytes
	Tmpfs  bool   // it is in memory, not on a disk
	// Private tells whether other users are shut out, by the mode of the file or of
	// any folder on the way to it.
	Private bool
}

// FindPayload looks at what has arrived in an agent's SecureDir; nil when nothing
// has. The file is PayloadFile, or one in an archive that was unpacked. Its content is
// hashed, and goes nowhere.
func FindPayload(secureDir, file string) (*StoredPayload, error) {
	f, err := os.Open(filepath.Join(secureDir, PayloadDir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a payload: %w", err)
	}
	defer f.Close()
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &disk); err != nil {
		return nil, fmt.Errorf("look at the payload's file system: %w", err)
	}
	found := &StoredPayload{Tmpfs: disk.Type == unix.TMPFS_MAGIC}
	hash := sha256.New()
	if found.Size, err = io.Copy(hash, f); err != nil {
		return nil, fmt.Errorf("read the payload: %w", err)
	}
	found.SHA256 = hex.EncodeToString(hash.Sum(nil))
	found.Private, err = private(f.Name(), "/")
	return found, err
}

// private tells whether other users cannot come to a file, by its mode and those
// of the folders on the way to it, from top on.
func private(path, top string) (bool, error) {
	for ; ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			return false, fmt.Errorf("look at the payload's mode: %w", err)
		}
		if info.Mode()&0o007 == 0 {
			return true, nil
		}
		if path == top || path == filepath.Dir(path) {
			return false, nil
		}
	}
}
