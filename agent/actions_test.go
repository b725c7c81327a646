package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestParseActions(t *testing.T) {
	for text, want := range map[string][]string{
		"":                    nil,
		" \n":                 nil,
		"a":                   {"a"},
		"a\nb.sh\n":           {"a", "b.sh"},
		"a b\tc":              {"a", "b", "c"},
		"a, b,c,":             {"a", "b", "c"},
		"a b, c":              {"a", "b", "c"},
		",a":                  {"a"},
		`'with space' "b,c"`:  {"with space", "b,c"},
		`'open`:               {"'open"},
		`""`:                  nil,
		"[a, b]":              {"a", "b"},
		"[]":                  nil,
		"[ 'x y',\n\"z\" , ]": {"x y", "z"},
	} {
		if got, err := ParseActions(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"a,,b": "nothing is between two commas", ",,": "nothing is between", "a, b c": `a comma is missing before "c"`, "[a": "bracket is not closed"} {
		if got, err := ParseActions(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

// acting is an agent that may run actions, and what became of them, by notice.
type acting struct {
	*fixture
	notifier
	dir, secure string
	log         *lockedBuffer
	mu          sync.Mutex
	ended       map[uint64][]ActionRun
	notices     uint64
}

func newActing(t *testing.T, change func(*Config)) *acting {
	a := &acting{notifier: newNotifier(t), dir: t.TempDir(), ended: map[uint64][]ActionRun{}}
	a.fixture, a.secure, a.log = secure(t, func(cfg *Config) {
		cfg.ExtractPayload, cfg.PayloadActions, cfg.StateDir = true, true, a.dir
		cfg.OnActions = func(n Revocation, runs []ActionRun) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.ended[n.Number] = runs
		}
		if change != nil {
			change(cfg)
		}
	})
	return a
}

// deliver gives the agent a payload with the notifier's certificate and these files.
func (a *acting) deliver(t *testing.T, files ...string) {
	t.Helper()
	a.deliverTo(t, zipOf(t, append([]string{NotifierCertificate, a.pem()}, files...)...))
	a.payloads.idle.Wait()
}

// tell sends a notice, and gives what became of its actions, once all of them are through.
func (a *acting) tell(t *testing.T, message, signature string) []ActionRun {
	t.Helper()
	if status, e := a.post(t, "/v2.6/notifications/revocation", map[string]string{"msg": message, "signature": signature}); status != 200 {
		t.Fatalf("a notice: %d %s", status, e.Status)
	}
	a.notices++
	a.fixture.actions.idle.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended[a.notices]
}

func (a *acting) told(t *testing.T) []ActionRun {
	t.Helper()
	return a.tell(t, someNotice, a.sign(t, someNotice, 222))
}

// The actions that a payload lists are run in the agent's folder, in order, with the notice as a file, which is gone afterwards.
func TestActionsOfThePayload(t *testing.T) {
	a := newActing(t, nil)
	const note = "#!/bin/sh\ncp \"$1\" said-$(basename \"$0\")\npwd >> where\necho out\n"
	a.deliver(t, ActionList, "first.sh, second", "first.sh", note, "second", note)
	if runs := a.told(t); !reflect.DeepEqual(runs, []ActionRun{{"first.sh", nil}, {"second", nil}}) {
		t.Fatalf("%+v\n%s", runs, a.log)
	}
	for _, name := range []string{"said-first.sh", "said-second"} {
		data, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil || string(data) != someNotice {
			t.Errorf("%s was told %q, %v", name, data, err)
		}
	}
	if where, err := os.ReadFile(filepath.Join(a.dir, "where")); err != nil || string(where) != a.dir+"\n"+a.dir+"\n" {
		t.Errorf("run in %q, %v", where, err)
	}
	if left, err := filepath.Glob(filepath.Join(a.dir, "notice-*")); err != nil || left != nil {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if !strings.Contains(a.log.String(), `stdout="out\n"`) {
		t.Errorf("what it printed is not in the log:\n%s", a.log)
	}
}

// A notice whose signature is not right, or that is no JSON, makes nothing run.
func TestActionsNeedARightNotice(t *testing.T) {
	a := newActing(t, nil)
	other := newNotifier(t)
	const act = "#!/bin/sh\necho ran >> ran\n"
	early := a.told(t) // before there is a certificate
	a.deliver(t, ActionList, "act", "act", act)
	for name, runs := range map[string][]ActionRun{
		"early": early, "unsigned": a.tell(t, someNotice, ""), "forged": a.tell(t, someNotice, other.sign(t, someNotice, 222)),
		"no JSON": a.tell(t, "no JSON", a.sign(t, "no JSON", 222)),
	} {
		if runs != nil {
			t.Errorf("%s: %+v", name, runs)
		}
	}
	if _, err := os.Stat(filepath.Join(a.dir, "ran")); err == nil {
		t.Error("an action was run")
	}
	if runs := a.told(t); len(runs) != 1 || runs[0].Problem != nil {
		t.Errorf("a right notice: %+v", runs)
	}
}

// The first action that fails is the last one of its notice, and says why.
func TestActionsFail(t *testing.T) {
	for name, c := range map[string]struct {
		list, script string
		want         []string // of each action's problem
	}{
		"exit status":   {"good act good", "#!/bin/sh\necho no way >&2\nexit 3\n", []string{"", "exit status 3: no way"}},
		"killed":        {"act good", "#!/bin/sh\nkill -9 $$\n", []string{"signal: killed"}},
		"not there":     {"missing good", "", []string{"it was not found"}},
		"leads out":     {"../act good", "", []string{"its name leads out"}},
		"absolute":      {"/bin/true", "", []string{"its name leads out"}},
		"no list":       {"a,,b", "", []string{"nothing is between two commas"}},
		"still at work": {"act good", "#!/bin/sh\nsleep 600 &\n", []string{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newActing(t, nil)
			a.deliver(t, ActionList, c.list, "good", "#!/bin/sh\n", "act", c.script)
			runs := a.told(t)
			var got []string
			for i, r := range runs {
				got = append(got, fmt.Sprint(r.Problem))
				if i >= len(c.want) || (c.want[i] == "") != (r.Problem == nil) || r.Problem != nil && !strings.Contains(r.Problem.Error(), c.want[i]) {
					t.Errorf("action %d: %+v", i, r)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The configuration's actions come before those of the payload, and installed ones before the payload's; a payload brings its own only if it may.
func TestActionsOfTheConfiguration(t *testing.T) {
	installed := t.TempDir()
	for name, text := range map[string]string{"mine": "installed mine", "both": "installed both"} {
		if err := os.WriteFile(filepath.Join(installed, name), []byte("#!/bin/sh\necho "+text+" >> ran\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for allowed, want := range map[bool]string{true: "installed mine\ninstalled both\npayload own\n", false: "installed mine\ninstalled both\n"} {
		a := newActing(t, func(cfg *Config) {
			cfg.RevocationActions, cfg.RevocationActionsDir, cfg.PayloadActions = []string{"mine"}, installed, allowed
		})
		a.deliver(t, ActionList, "both own", "both", "#!/bin/sh\necho payload both >> ran\n", "own", "#!/bin/sh\necho payload own >> ran\n")
		runs := a.told(t)
		if ran, err := os.ReadFile(filepath.Join(a.dir, "ran")); err != nil || string(ran) != want || len(runs) != 3 || !allowed && (runs[2].Problem == nil || runs[2].Problem.Error() != "it was not found") {
			t.Errorf("allowed %v: %q, %v; %+v", allowed, ran, err, runs)
		}
	}
}

// An agent that may run nothing runs nothing; one that ends, ends what it runs.
func TestActionsOffAndEnded(t *testing.T) {
	off := newActing(t, func(cfg *Config) { cfg.PayloadActions = false })
	off.deliver(t, ActionList, "act", "act", "#!/bin/sh\n")
	if runs := off.told(t); runs != nil {
		t.Errorf("%+v", runs)
	}
	a := newActing(t, nil)
	a.deliver(t, ActionList, "act", "act", "#!/bin/sh\ntouch started\nsleep 600\n")
	if status, _ := a.post(t, "/v2.6/notifications/revocation", map[string]string{"msg": someNotice, "signature": a.sign(t, someNotice, 222)}); status != 200 {
		t.Fatal(status)
	}
	await(t, "the action to start", func() bool { _, err := os.Stat(filepath.Join(a.dir, "started")); return err == nil })
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if runs := a.ended[1]; len(runs) != 1 || runs[0].Problem == nil {
		t.Errorf("an action that was ended: %+v", runs)
	}
}

// Notices are numbered from 1, and a number is no part of what a verifier posts.
func TestNoticesAreNumbered(t *testing.T) {
	a := newActing(t, nil)
	a.told(t)
	a.told(t)
	for i, n := range a.Revocations() {
		data, err := json.Marshal(n)
		if n.Number != uint64(i+1) || err != nil || strings.Contains(string(data), "umber") || !errors.Is(n.Problem, ErrNoNotifier) {
			t.Errorf("%+v, %s, %v", n, data, err)
		}
	}
}

// FuzzParseActions: whatever a payload lists, names are parts of it that can be written as a list again.
func FuzzParseActions(f *testing.F) {
	for _, text := range []string{"a\nb", "[a, 'b c']", "a,,b", `"x`, "a b, c", "[", "''"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names, err := ParseActions(text)
		if err != nil {
			return
		}
		for _, n := range names {
			if n == "" || !strings.Contains(text, n) {
				t.Fatalf("%q gives %q", text, names)
			}
			if strings.Contains(n, "'") {
				return
			}
		}
		if len(names) == 0 {
			return
		}
		list := "['" + strings.Join(names, "', '") + "']"
		if again, err := ParseActions(list); err != nil || !slices.Equal(again, names) {
			t.Fatalf("%q gives %q, which as %s gives %q, %v", text, names, list, again, err)
		}
	})
}
