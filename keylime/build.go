package keylime

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

// PhasePrefix begins the lines by which an installation tells of its phases; the others are its commands' output. A phase has a
// line for its start, and one for its end, in which its name is followed by PhaseDone and the time it took.
const (
	PhasePrefix = "== "
	PhaseDone   = ": done in "
)

// InstallError is a failed step of an installation.
type InstallError struct {
	Step   string   // what was being done, e.g. "install the pinned packages"
	Argv   []string // the command that failed, if it was one
	Output string   // the last lines that it printed
	Hint   string   // what to do about it
	Err    error
}

func (e *InstallError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "install Keylime: %s: %v", e.Step, e.Err)
	if len(e.Argv) > 0 {
		fmt.Fprintf(&b, "\ncommand: %s", strings.Join(e.Argv, " "))
	}
	if e.Output != "" {
		fmt.Fprintf(&b, "\noutput:\n%s", indent(e.Output))
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\nhint: %s", e.Hint)
	}
	return b.String()
}

func (e *InstallError) Unwrap() error { return e.Err }

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}

// builder makes one installation. It builds in place, since a virtual environment holds its own path in many files.
type builder struct {
	opts InstallOptions
	req  *requirements
	inst *Installation
}

func (b *builder) build(ctx context.Context) error {
	i := b.inst
	if err := os.RemoveAll(i.Dir); err != nil {
		return fmt.Errorf("remove the remains of an interrupted installation: %w", err)
	}
	for _, d := range []string{i.Dir, i.Config, i.Databases} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make installation folder: %w", err)
		}
	}
	reqPath := filepath.Join(i.Dir, "requirements.txt")
	sdistReq := filepath.Join(i.Dir, "sdist.txt")
	for path, text := range map[string]string{reqPath: b.req.text, sdistReq: b.req.sdist} {
		if err := atomicfile.Write(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	venv := filepath.Join(i.Dir, "venv")
	pip := []string{i.Python, "-m", "pip", "--disable-pip-version-check", "--no-input"}
	sdistDir := filepath.Join(i.Dir, "sdist")
	steps := []struct {
		what string
		argv []string
		then func() error
	}{
		{what: "make a virtual environment", argv: []string{b.opts.Python, "-m", "venv", venv}},
		{what: "make the system's module gpg visible", then: func() error { return b.linkGPG(ctx) }},
		// The environment is cut off from the system's packages, and nothing but wheels is taken, so that what runs is what is pinned.
		{what: "install the pinned packages", argv: slices.Concat(pip, []string{"install", "--progress-bar=off", "--no-deps",
			"--only-binary=:all:", "--no-compile", "--require-hashes", "-r", reqPath})},
		// The templates of the configuration are only in the source distribution.
		{what: "fetch Keylime's source distribution", argv: slices.Concat(pip, []string{"download", "--progress-bar=off", "--no-deps",
			"--no-binary=:all:", "--no-build-isolation", "--require-hashes", "-r", sdistReq, "-d", sdistDir})},
		{what: "unpack the configuration templates", then: func() error { return unpackTemplates(sdistDir, i.Templates) }},
		{what: "compile Python bytecode", argv: []string{i.Python, "-m", "compileall", "-q", "-j", "0", filepath.Join(venv, "lib")}},
		{what: "render the default configuration", argv: []string{i.Python, i.script("keylime_upgrade_config"), "--defaults",
			"--templates", i.Templates, "--out", i.Config}},
		{what: "make empty databases", then: func() error { return b.makeDatabases(ctx) }},
		{what: "list the libraries", then: func() error { return b.listLibraries(ctx) }},
	}
	for _, s := range steps {
		start := time.Now()
		b.opts.Log(PhasePrefix + s.what)
		var err error
		if len(s.argv) > 0 {
			err = b.run(ctx, s.what, nil, s.argv...)
		}
		if err == nil && s.then != nil {
			err = s.then()
		}
		if err != nil {
			var ie *InstallError
			if !errors.As(err, &ie) {
				err = &InstallError{Step: s.what, Err: err}
			}
			return err
		}
		b.opts.Log(fmt.Sprintf("%s%s%s%.1f s", PhasePrefix, s.what, PhaseDone, time.Since(start).Seconds()))
	}
	if err := os.RemoveAll(sdistDir); err != nil {
		return fmt.Errorf("remove the unpacked source distribution: %w", err)
	}
	return writeMarker(i, b.req.digest, b.opts.Python)
}

// run runs one command, hands its output on line by line, and keeps the last lines for an error.
func (b *builder) run(ctx context.Context, step string, env []string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(pipEnv(os.Environ()), env...)
	cmd.WaitDelay = 5 * time.Second
	// A command must not go on writing when this process is killed and the lock is free. The signal comes when the thread that started
	// the command ends, hence the locked thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pr, pw := io.Pipe()
	cmd.Stdout, cmd.Stderr = pw, pw
	tail := make(chan []string)
	go func() {
		var last []string
		sc := bufio.NewScanner(pr)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			b.opts.Log(sc.Text())
			if last = append(last, sc.Text()); len(last) > 12 {
				last = last[1:]
			}
		}
		io.Copy(io.Discard, pr) // a line beyond the limit must not block the command
		tail <- last
	}()
	err := cmd.Run()
	pw.Close()
	last := strings.Join(<-tail, "\n")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	return &InstallError{Step: step, Argv: argv, Output: last, Hint: hintFor(last), Err: err}
}

// pipEnv keeps the user's environment, pip's settings and proxies included, but keeps other Python code out.
func pipEnv(environ []string) []string {
	env := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		return strings.HasPrefix(kv, "PYTHONPATH=") || strings.HasPrefix(kv, "PYTHONHOME=") || strings.HasPrefix(kv, "KEYLIME_") ||
			strings.HasPrefix(kv, "PIP_REQUIRE_VIRTUALENV=") || strings.HasPrefix(kv, "PIP_TARGET=") || strings.HasPrefix(kv, "PIP_USER=")
	})
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PIP_RETRIES=") }) {
		env = append(env, "PIP_RETRIES=2") // pip's default of five makes a machine without network wait for long
	}
	return append(env, "PYTHONNOUSERSITE=1", "PYTHONUNBUFFERED=1")
}

// hintFor turns what pip and venv print into advice.
func hintFor(output string) string {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(output, w) })
	}
	switch {
	case has("DO NOT MATCH THE HASHES"):
		return "a package differs from the one that is pinned; the package index or a cache in between serves another file"
	case has("ensurepip is not available", "No module named ensurepip", "No module named venv"):
		return "apt-get install python3-venv"
	case has("No space left on device"):
		return "an installation takes about 120 MB; free some space or choose another cache folder"
	case has("SSL", "CERTIFICATE_VERIFY_FAILED"):
		return "the package index's certificate is not trusted; set PIP_CERT or `pip config set global.cert FILE`"
	case has("NewConnectionError", "Max retries exceeded", "Temporary failure in name resolution", "ConnectTimeout", "ReadTimeout",
		"ProxyError", "from versions: none", "No matching distribution found"):
		return "the package index could not be reached; check the network, or point pip to a mirror (PIP_INDEX_URL, PIP_PROXY, PIP_CERT), and try again"
	}
	return ""
}

// linkGPG gives the environment the one package that the index does not have in a usable form.
func (b *builder) linkGPG(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, b.opts.Python, "-c", "import gpg, os; print(os.path.dirname(gpg.__file__))").Output()
	if err != nil {
		return fmt.Errorf("find module gpg: %w (apt-get install python3-gpg)", err)
	}
	site, err := filepath.Glob(filepath.Join(b.inst.Dir, "venv", "lib", "python3.*", "site-packages"))
	if err != nil || len(site) != 1 {
		return fmt.Errorf("virtual environment has %d site-packages folders, not one", len(site))
	}
	return os.Symlink(strings.TrimSpace(string(out)), filepath.Join(site[0], "gpg"))
}

// unpackTemplates takes the folder templates/ out of the source distribution.
func unpackTemplates(sdistDir, to string) error {
	archives, err := filepath.Glob(filepath.Join(sdistDir, "*.tar.gz"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("found %d source archives in %s, not one", len(archives), sdistDir)
	}
	f, err := os.Open(archives[0])
	if err != nil {
		return err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", archives[0], err)
	}
	n := 0
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", archives[0], err)
		}
		_, rel, ok := strings.Cut(h.Name, "/templates/")
		if !ok || h.Typeflag != tar.TypeReg || !filepath.IsLocal(rel) {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", archives[0], h.Name, err)
		}
		path := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("%s holds no templates", archives[0])
	}
	return nil
}

// librariesScript imports what Keylime's services and its tenant are, and writes which modules have been imported that are not Keylime's.
const librariesScript = `
import importlib, sys
from keylime.mba import mba
for name in ("registrar", "verifier", "tenant"):
    importlib.import_module("keylime.cmd." + name)
mba.load_imports(skip_custom_policies=True)
names = [n for n, m in sys.modules.items() if getattr(m, "__spec__", None) and m.__spec__.name == n and n.partition(".")[0] != "keylime"]
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write("\n".join(names) + "\n")
`

func (b *builder) listLibraries(ctx context.Context) error {
	scratch, err := os.MkdirTemp("", "keylab-keylime-") // Keylime may put things into its working folder as it is imported
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	return b.run(ctx, "list the libraries", b.keylimeEnv(scratch), b.inst.Python, "-c", librariesScript, b.inst.Libraries)
}

// keylimeEnv is the environment of Keylime with its default configuration and that working folder.
func (b *builder) keylimeEnv(dir string) []string {
	env := []string{"KEYLIME_DIR=" + dir}
	for _, c := range components {
		env = append(env, configEnv(c, filepath.Join(b.inst.Config, c+".conf")))
	}
	return env
}

// makeDatabases lets Keylime migrate fresh databases once, so that a lab's services need not do it at each start.
func (b *builder) makeDatabases(ctx context.Context) error {
	i := b.inst
	env := b.keylimeEnv(i.Databases)
	code := "from keylime.common.migrations import apply; import sys; apply(sys.argv[1])"
	for _, db := range []string{"cloud_verifier", "registrar"} {
		if err := b.run(ctx, "make an empty database for the "+db, env, i.Python, "-c", code, db); err != nil {
			return err
		}
	}
	for _, name := range []string{verifierDB, registrarDB} {
		if err := os.Chmod(filepath.Join(i.Databases, name), 0o644); err != nil {
			return fmt.Errorf("keylime's migrations made no database %s: %w", name, err)
		}
	}
	return nil
}
