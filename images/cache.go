package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/internal/atomicfile"
)

// layoutVersion is part of every artifact's key: raise it whenever the code that builds changes what it makes.
const layoutVersion = "1"

const manifestName = "manifest.json"

// manifest says what went into an artifact. It is written last: a folder without one is not complete.
type manifest struct {
	Artifact string            `json:"artifact"`
	Key      string            `json:"key"`
	Built    time.Time         `json:"built"`
	Seconds  float64           `json:"seconds"`
	Size     int64             `json:"size"`             // bytes, of all files
	Inputs   []string          `json:"inputs"`           // what the key was made from
	Contents map[string]string `json:"contents"`         // modules, packages: name to version
	Labels   map[string]string `json:"labels,omitempty"` // what the builder wants to remember
}

// artifact is one thing in the cache: how it is made, and from what.
type artifact struct {
	name    string
	version string   // for people
	inputs  []string // all that its content depends on
	build   func(ctx context.Context, dir string, m *manifest) error
}

func (a artifact) key() string {
	h := sha256.New()
	for _, in := range append([]string{layoutVersion, a.name, a.version}, a.inputs...) {
		fmt.Fprintf(h, "%d:%s", len(in), in)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// store is a cache of artifacts.
type store struct {
	dir string
	log func(string)
}

func (s *store) folder(a artifact) string { return filepath.Join(s.dir, a.name+"-"+a.key()) }

// manifest of an artifact that is complete.
func (s *store) manifest(a artifact) (manifest, bool) {
	var m manifest
	data, err := os.ReadFile(filepath.Join(s.folder(a), manifestName))
	if err != nil || json.Unmarshal(data, &m) != nil {
		return m, false
	}
	return m, true
}

// ensure returns the artifact's folder, and makes it first if it is not there. Of two at once the second waits.
func (s *store) ensure(ctx context.Context, a artifact) (string, error) {
	dir := s.folder(a)
	if _, ok := s.manifest(a); ok {
		return dir, nil
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache of images: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock", func() { s.log(a.name + ": waiting for another build of it") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, ok := s.manifest(a); ok {
		return dir, nil
	}
	start := time.Now()
	s.log(fmt.Sprintf("%s %s: building", a.name, a.version))
	work := dir + ".new"
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("remove the remains of an interrupted build: %w", err)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", a.name, err)
	}
	defer os.RemoveAll(work)
	m := manifest{Artifact: a.name + " " + a.version, Key: a.key(), Inputs: a.inputs, Contents: map[string]string{}}
	if err := a.build(ctx, work, &m); err != nil {
		return "", fmt.Errorf("build %s %s: %w", a.name, a.version, err)
	}
	if m.Size == 0 {
		if m.Size, err = sizeOf(work); err != nil {
			return "", err
		}
	}
	m.Built, m.Seconds = time.Now().UTC(), time.Since(start).Seconds()
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return "", fmt.Errorf("describe %s: %w", a.name, err)
	}
	if err := atomicfile.Write(filepath.Join(work, manifestName), append(data, '\n'), 0o644); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("replace %s: %w", dir, err)
	}
	if err := os.Rename(work, dir); err != nil {
		return "", fmt.Errorf("put %s in place: %w", a.name, err)
	}
	s.log(fmt.Sprintf("%s %s: built in %.0f s, %d MB", a.name, a.version, m.Seconds, m.Size/1e6))
	return dir, nil
}

func sizeOf(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return size, nil
}

// lock holds a lock file until it is released; the kernel releases it when this process ends.
func lock(ctx context.Context, path string, waiting func()) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
