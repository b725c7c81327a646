// Package state is where labs live on disk: one folder per lab, which outlives the running lab until `wipe`.
//
//	<base>/labs/<name>/
//	    lab.yaml            the specification as the user gave it, completed by defaults, with the nodes that the lab has now
//	    plan.json           the plan that was carried out last, with these nodes
//	    identity            what the TPMs and the EK CA were made from; another one needs another lab or a wipe
//	    logs/               one file per component
//	    ekca/, stranger/    the lab's EK CA and the CA that nobody trusts
//	    ekcas/              EK CAs that were made while the lab ran, and which of all is active and trusted
//	    tpm_cert_store/     the CA certificates which Keylime's tenant trusts
//	    tpm/<node>/         the state of one simulated TPM
//	    agent/<node>/       the keys of one agent
//	    measured/<node>/    the IMA list and the boot log of one node
//	    ima-keys/           by which files are signed that nodes measure
//	    policies/           by which the verifier judges them
//	    payload/            what Keylime delivers to nodes, as it was read when the lab was last brought up
//	    revocation/         the CA of Keylime's tenant for packages with the revocation certificate
//	    pki/, keylime/      the services' certificates, configuration and databases
//
// Folders are 0700: private keys are in there.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// EnvBase is the environment variable that names another base folder.
const EnvBase = "KEYLAB_STATE_DIR"

// EnvCache is the environment variable that names another cache folder.
const EnvCache = "KEYLAB_CACHE_DIR"

// Base is the folder of all labs of this user: $KEYLAB_STATE_DIR, else $XDG_STATE_HOME/keylab, else
// ~/.local/state/keylab (XDG Base Directory Specification 0.8).
func Base() (string, error) {
	if dir := os.Getenv(EnvBase); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" && filepath.IsAbs(dir) {
		return filepath.Join(dir, "keylab"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home folder for the labs' state: %w (set %s)", err, EnvBase)
	}
	return filepath.Join(home, ".local", "state", "keylab"), nil
}

// CacheBase is the folder of what can be made again: $KEYLAB_CACHE_DIR, else the user's cache folder.
func CacheBase() (string, error) {
	if dir := os.Getenv(EnvCache); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w (set %s)", err, EnvCache)
	}
	return filepath.Join(dir, "keylab"), nil
}

// Dir is the folder of one lab.
type Dir struct {
	Lab  string
	Path string // absolute
}

// For is the folder of the lab of that name, whether it exists or not.
func For(lab string) (Dir, error) {
	base, err := Base()
	if err != nil {
		return Dir{}, err
	}
	return Dir{Lab: lab, Path: filepath.Join(base, "labs", lab)}, nil
}

// List is every lab that has a folder, by name, if only with logs.
func List() ([]Dir, error) {
	base, err := Base()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(base, "labs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the labs: %w", err)
	}
	var dirs []Dir
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, Dir{Lab: e.Name(), Path: filepath.Join(base, "labs", e.Name())})
		}
	}
	sort.Slice(dirs, func(i, j int) bool { return dirs[i].Lab < dirs[j].Lab })
	return dirs, nil
}

// Made tells whether the lab's folder holds a lab, and not only the logs of a first `up` that failed.
func (d Dir) Made() bool {
	_, err := os.Stat(d.Spec())
	return err == nil
}

// Forget deletes all of the lab but its logs, after a first `up` that failed: what was wrong may have been what the CA and the TPMs
// were made from.
func (d Dir) Forget() error {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete what is left of lab %s: %w", d.Lab, err)
	}
	var errs []error
	for _, e := range entries {
		if path := filepath.Join(d.Path, e.Name()); path != d.Logs() {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete what is left of lab %s: %w", d.Lab, err)
	}
	return nil
}

// Exists tells whether the lab has a folder, if only with logs.
func (d Dir) Exists() bool {
	_, err := os.Stat(d.Path)
	return err == nil
}

// Create makes the folder and those below it that every lab has.
func (d Dir) Create() error {
	for _, p := range []string{d.Path, d.Logs(), d.TPM(""), d.Agent(""), d.Keylime()} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return fmt.Errorf("make the lab's folder: %w", err)
		}
	}
	return nil
}

// Remove deletes the lab's folder; one that is not there is no error.
func (d Dir) Remove() error {
	if err := os.RemoveAll(d.Path); err != nil {
		return fmt.Errorf("delete the lab's folder: %w", err)
	}
	return nil
}

// Key is the lab's name in places where labs of all users and folders meet: short, and different for every folder.
func (d Dir) Key() string {
	sum := sha256.Sum256([]byte(d.Path))
	return d.Lab + "-" + hex.EncodeToString(sum[:6])
}

// The folders and files of a lab.
func (d Dir) Spec() string                { return filepath.Join(d.Path, "lab.yaml") }
func (d Dir) Plan() string                { return filepath.Join(d.Path, "plan.json") }
func (d Dir) Identity() string            { return filepath.Join(d.Path, "identity") }
func (d Dir) Logs() string                { return filepath.Join(d.Path, "logs") }
func (d Dir) Log(c string) string         { return filepath.Join(d.Logs(), c+".log") }
func (d Dir) EKCA() string                { return filepath.Join(d.Path, "ekca") }
func (d Dir) EKCAs() string               { return filepath.Join(d.Path, "ekcas") }
func (d Dir) StrangerCA() string          { return filepath.Join(d.Path, "stranger") }
func (d Dir) CertStore() string           { return filepath.Join(d.Path, "tpm_cert_store") }
func (d Dir) TPM(node string) string      { return filepath.Join(d.Path, "tpm", node) }
func (d Dir) Agent(node string) string    { return filepath.Join(d.Path, "agent", node) }
func (d Dir) Measured(node string) string { return filepath.Join(d.Path, "measured", node) }
func (d Dir) Policies() string            { return filepath.Join(d.Path, "policies") }
func (d Dir) IMAKeys() string             { return filepath.Join(d.Path, "ima-keys") }
func (d Dir) PKI() string                 { return filepath.Join(d.Path, "pki") }
func (d Dir) Keylime() string             { return filepath.Join(d.Path, "keylime") }
func (d Dir) Payloads() string            { return filepath.Join(d.Path, "payload") }
func (d Dir) Payload(n string) string     { return filepath.Join(d.Payloads(), n, "payload") }
func (d Dir) Action(n string) string      { return filepath.Join(d.Payloads(), "actions", n) }
func (d Dir) Revocation() string          { return filepath.Join(d.Path, "revocation") }

// tailLines is how much of a log an error shows.
const tailLines = 15

// LogTail is the end of a log, from a byte offset on at the earliest, indented, for an error to show.
func LogTail(path string, from int64) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	if from <= int64(len(data)) {
		data = data[from:]
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-tailLines):], "\n  ")
}
