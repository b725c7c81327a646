package keylime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/internal/atomicfile"
)

// installLayout is part of an installation's name: raise it whenever the steps below change what they leave on disk.
const installLayout = "3"

// InstallOptions says which Keylime to install, where, and with which Python.
type InstallOptions struct {
	Version  string            // one of Versions; default DefaultVersion
	CacheDir string            // default: "keylab" in the user's cache folder, usually ~/.cache/keylab
	Python   string            // base interpreter, 3.11 or newer; default /usr/bin/python3, which has Debian's module gpg
	Log      func(line string) // told each line that the installation's commands print; may be nil
}

func (o InstallOptions) withDefaults() (InstallOptions, error) {
	if o.Version == "" {
		o.Version = DefaultVersion
	}
	if o.Python == "" {
		o.Python = "/usr/bin/python3"
	}
	if o.CacheDir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no place to install Keylime to: %w (set the cache folder, or HOME)", err)
		}
		o.CacheDir = filepath.Join(base, "keylab")
	}
	abs, err := filepath.Abs(o.CacheDir)
	if err != nil {
		return o, fmt.Errorf("cache folder %s: %w", o.CacheDir, err)
	}
	o.CacheDir = abs
	if o.Log == nil {
		o.Log = func(string) {}
	}
	return o, nil
}

// Installation is a Keylime that is ready to run. It is never changed once complete, and any number of labs share it.
type Installation struct {
	Version   string // Keylime's version
	Dir       string // everything below is in here
	Python    string // the virtual environment's interpreter
	Scripts   string // folder of keylime_verifier, keylime_registrar, keylime_tenant, ...
	Templates string // configuration templates of Keylime's source distribution
	Config    string // the .conf files that keylime_upgrade_config renders from Templates, with Keylime's own defaults
	Libraries string // the names of all modules that Keylime's services and tenant import and that are not its own, for [StartForkServer]
	Databases string // empty SQLite databases at the newest schema, made by Keylime's own migrations
}

// completeMarker is written last; a folder without it is the remains of an interrupted installation.
type completeMarker struct {
	Version string    `json:"version"`
	Python  string    `json:"python"`
	Digest  string    `json:"requirements_sha256"`
	Built   time.Time `json:"built"`
}

const markerName = "complete.json"

// EnsureInstalled returns the installation that the options describe, and makes it first when it is not there yet: a virtual environment with
// every package pinned by hash, Keylime's configuration templates, default configuration and empty databases. Two at once are fine: the second waits
// for the first. It fails with an [*InstallError] when a command fails, and with the list of [Problem]s when something is missing
// that only the system's package manager can bring.
func EnsureInstalled(ctx context.Context, opts InstallOptions) (*Installation, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	req, err := readRequirements(opts.Version)
	if err != nil {
		return nil, err
	}
	pyTag, err := pythonTag(ctx, opts.Python)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(opts.CacheDir, "keylime")
	name := fmt.Sprintf("%s-%s-%s-%s", opts.Version, pyTag, req.digest[:12], installLayout)
	inst := layoutOf(opts.Version, filepath.Join(base, name))
	if inst.complete() {
		return inst, nil
	}
	if err := fatalProblems(Check(ctx, opts)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("make folder for Keylime installations: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(base, "."+name+".lock"), func() {
		opts.Log("waiting for another installation of Keylime " + opts.Version + " to finish")
	})
	if err != nil {
		return nil, err
	}
	defer unlock()
	if inst.complete() { // somebody else made it while we waited
		return inst, nil
	}
	b := &builder{opts: opts, req: req, inst: inst}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	return inst, nil
}

func layoutOf(version, dir string) *Installation {
	return &Installation{
		Version:   version,
		Dir:       dir,
		Python:    filepath.Join(dir, "venv", "bin", "python"),
		Scripts:   filepath.Join(dir, "venv", "bin"),
		Templates: filepath.Join(dir, "templates"),
		Config:    filepath.Join(dir, "config"),
		Libraries: filepath.Join(dir, "libraries.txt"),
		Databases: filepath.Join(dir, "databases"),
	}
}

// complete tells whether the installation is finished and its interpreter still there (a system upgrade may have taken it away).
func (i *Installation) complete() bool {
	if _, err := os.Stat(filepath.Join(i.Dir, markerName)); err != nil {
		return false
	}
	_, err := os.Stat(i.Python)
	return err == nil
}

// script is the path of one of Keylime's console scripts.
func (i *Installation) script(name string) string { return filepath.Join(i.Scripts, name) }

func writeMarker(inst *Installation, digest, python string) error {
	data, err := json.MarshalIndent(completeMarker{Version: inst.Version, Python: python, Digest: digest, Built: time.Now().UTC()}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", markerName, err)
	}
	return atomicfile.Write(filepath.Join(inst.Dir, markerName), append(data, '\n'), 0o644)
}

var versionedPython = regexp.MustCompile(`^python(3\.\d+)$`)

// pythonTag names the interpreter's minor version ("py3.11"). It reads it off the file that /usr/bin/python3 links to, since starting an
// interpreter would cost more than all the rest of a warm start, and asks the interpreter only when the name does not tell.
func pythonTag(ctx context.Context, python string) (string, error) {
	path, err := exec.LookPath(python)
	if err != nil {
		return "", fmt.Errorf("python interpreter for Keylime: %w (on Debian: apt-get install python3 python3-venv python3-gpg)", err)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("python interpreter %s: %w", python, err)
	}
	if m := versionedPython.FindStringSubmatch(filepath.Base(real)); m != nil {
		return "py" + m[1], nil
	}
	out, err := exec.CommandContext(ctx, path, "-c", `import sys; print("py%d.%d" % sys.version_info[:2])`).Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// lockFile takes an advisory lock (flock(2)) that the kernel releases when this process ends, however it ends.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open installation lock: %w", err)
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	told := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			told = true
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the installation lock %s, held by another process: %w", path, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
