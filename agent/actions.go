package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ActionList is the file of an unpacked payload that names the programs in it which
// are to be run when the verifier tells of an agent that it no longer trusts.
const ActionList = "action_list"

// maxActionOutput is how much of what an action prints is kept, in bytes: the end.
const maxActionOutput = 4096

// actionGrace is how long the output of an action is read on once it has ended.
const actionGrace = time.Second

// ActionRun is how a revocation action ended.
type ActionRun struct {
	Action string // its name
	// Problem is why it did not run, or how it failed; nil: it ended with 0.
	Problem error
}

// startActions has the actions of a notice run, after those of the notices before
// it, apart from the request that brought it. It is for notices whose signature is
// right alone.
func (a *Agent) startActions(n Revocation) {
	if !a.cfg.PayloadActions && len(a.cfg.RevocationActions) == 0 {
		return
	}
	if !json.Valid([]byte(n.Message)) {
		a.log.Error("a revocation notice is no JSON: no action is run")
		return
	}
	a.actions.add(func(ctx context.Context) {
		runs := a.runActions(ctx, n)
		if a.cfg.OnActions != nil && len(runs) > 0 {
			a.cfg.OnActions(n, runs)
		}
	})
}

// runActions does what the Rust agent does (rust-keylime 0.2.9, revocation.rs): it
// runs the actions of the configuration and then those of the payload, one after
// the other, each with a file of the notice's message as its only argument. The
// first that fails is the last.
func (a *Agent) runActions(ctx context.Context, n Revocation) (runs []ActionRun) {
	payload := filepath.Join(a.cfg.SecureDir, PayloadDir)
	listed, err := readActionList(payload)
	if err != nil {
		a.log.Error("the payload's revocation actions", "error", err)
		return []ActionRun{{Action: ActionList, Problem: err}}
	}
	for _, name := range append(append([]string(nil), a.cfg.RevocationActions...), listed...) {
		err := a.runAction(ctx, payload, name, n.Message)
		runs = append(runs, ActionRun{Action: name, Problem: err})
		if err != nil {
			a.log.Error("revocation action", "action", name, "error", err)
			return runs
		}
		a.log.Info("revocation action ended", "action", name)
	}
	return runs
}

// runAction runs one of them in the agent's folder until it ends or ctx does.
func (a *Agent) runAction(ctx context.Context, payload, name, message string) (err error) {
	program, err := a.findAction(payload, name)
	if err != nil {
		return err
	}
	dir := a.cfg.StateDir
	if dir == "" {
		dir = a.cfg.SecureDir
	}
	file, err := os.CreateTemp(dir, "notice-*.json") // 0600
	if err != nil {
		return fmt.Errorf("write the notice for it: %w", err)
	}
	defer func() {
		if e := os.Remove(file.Name()); e != nil {
			err = errors.Join(err, fmt.Errorf("remove the notice that was written for it: %w", e))
		}
	}()
	_, err = file.WriteString(message)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write the notice for it: %w", err)
	}
	// The folders need not be absolute; the action is where it was found, wherever it is run.
	paths := []string{program, file.Name()}
	for i := range paths {
		if paths[i], err = filepath.Abs(paths[i]); err != nil {
			return err
		}
	}
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, paths[0], paths[1])
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = actionGrace
	if err := a.cfg.StartScript(cmd); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	err = cmd.Wait()
	a.log.Info("revocation action printed", "action", name, "stdout", stdout.String(), "stderr", stderr.String())
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, and left something behind that has its output open
	}
	if said := strings.TrimSpace(stderr.String()); err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// findAction looks where the Rust agent does: first among the installed actions,
// then in the payload, if it is allowed to bring its own. Unlike there a name
// cannot lead out of the two folders.
func (a *Agent) findAction(payload, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", errors.New("its name leads out of the folder of actions")
	}
	var folders []string
	if a.cfg.RevocationActionsDir != "" {
		folders = append(folders, a.cfg.RevocationActionsDir)
	}
	if a.cfg.PayloadActions {
		folders = append(folders, payload)
	}
	for _, folder := range folders {
		path := filepath.Join(folder, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for it: %w", err)
		}
	}
	return "", errors.New("it was not found")
}

// readActionList reads the names of a payload's actions; there need be none.
func readActionList(payload string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(payload, ActionList))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of actions: %w", err)
	}
	return ParseActions(string(data))
}

// allowActions makes a payload's actions programs: an archive made by Keylime's
// tenant has no modes.
func (a *Agent) allowActions(payload string) {
	names, err := readActionList(payload)
	if err != nil {
		a.log.Warn("the payload's revocation actions", "error", err)
		return
	}
	for _, name := range names {
		if !filepath.IsLocal(name) {
			continue // and will not be run
		}
		err := os.Chmod(filepath.Join(payload, name), 0o700)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("a revocation action of the payload", "action", name, "error", err)
		}
	}
}

// ParseActions reads a list of revocation actions as the Rust agent does (its
// list.pest): names, in quotes or not, between which is white space; or, from the
// first comma on, commas; and brackets around all of it or not.
func ParseActions(text string) (names []string, err error) {
	const space = " \t\r\n"
	text = strings.Trim(text, space)
	inner, bracketed := strings.CutPrefix(text, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return nil, fmt.Errorf("list of actions %.80q: its bracket is not closed", text)
		}
	}
	commas, name := false, false // whether a comma was there, and whether a name is since the last one
	for rest := strings.TrimLeft(inner, space); rest != ""; rest = strings.TrimLeft(rest, space) {
		if rest[0] == ',' {
			if commas && !name {
				return nil, fmt.Errorf("list of actions %.80q: nothing is between two commas", text)
			}
			commas, name, rest = true, false, rest[1:]
			continue
		}
		if commas && name {
			return nil, fmt.Errorf("list of actions %.80q: a comma is missing before %.40q", text, rest)
		}
		end := strings.IndexAny(rest, ","+space)
		if end < 0 {
			end = len(rest)
		}
		found := rest[:end]
		if quote := rest[:1]; quote == "'" || quote == `"` {
			if within, _, closed := strings.Cut(rest[1:], quote); closed {
				found, end = within, len(within)+2
			}
		}
		if found != "" {
			names = append(names, found)
		}
		name, rest = true, rest[end:]
	}
	return names, nil
}

// tail keeps the end of what is written to it.
type tail struct{ data []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	t.data = t.data[max(0, len(t.data)-maxActionOutput):]
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.ToValidUTF8(t.data, []byte("?"))) }
