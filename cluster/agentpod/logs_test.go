package agentpod

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/agent"
)

// An agent serves the logs that its options name, as they are when it is asked, and none where they name none; in either model.
func TestNodeLogs(t *testing.T) {
	dir, ca := t.TempDir(), caFile(t)
	list, boot := filepath.Join(dir, "list"), filepath.Join(dir, "boot")
	plain := "[agent]\ntrusted_client_ca = \"" + ca + "\"\nverifier_tls_ca_cert = \"" + ca + "\"\nverifier_url = \"https://198.18.0.1:8881\"\n"
	named := plain + "ima_ml_path = \"" + list + "\"\nmeasuredboot_ml_path = \"" + boot + "\"\n"
	log := slog.New(slog.DiscardHandler)
	options := func(text string) options {
		o, err := readOptions(environment(t, text, nil))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	pull, _, err := configure(environment(t, plain, nil), log)
	if err != nil || pull.IMAList != nil || pull.MeasuredBootLog != nil {
		t.Errorf("logs without options: %v", err)
	}
	push, err := configurePush(options(plain), environment(t, plain, nil), log)
	if err != nil || push.IMA != nil || push.BootLog != nil {
		t.Errorf("logs without options, in the push model: %v", err)
	}
	if pull, _, err = configure(environment(t, named, nil), log); err != nil {
		t.Fatal(err)
	}
	if push, err = configurePush(options(named), environment(t, named, nil), log); err != nil {
		t.Fatal(err)
	}
	if _, err := pull.IMAList(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a list that is not there: %v", err)
	}
	if _, _, err := push.IMA(0); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "read the IMA list") {
		t.Errorf("a list that is not there, in the push model: %v", err)
	}
	for _, text := range []string{"10 one\n", "10 one\n10 two\n"} {
		for path, data := range map[string]string{list: text, boot: "boot of " + text} {
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := pull.IMAList()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(got) != text {
			t.Errorf("the list is %q, want %q (%v)", got, text, err)
		}
		for name, read := range map[string]func() ([]byte, error){"pull": pull.MeasuredBootLog, "push": push.BootLog} {
			if got, err := read(); err != nil || string(got) != "boot of "+text {
				t.Errorf("%s: the boot log is %q, %v", name, got, err)
			}
		}
		all := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
		if got, total, err := push.IMA(1); err != nil || total != len(all) || strings.TrimSpace(got) != strings.Join(all[1:], "") {
			t.Errorf("from the second entry on: %q of %d, %v", got, total, err)
		}
	}
	if push.BootTime == nil || push.BootTime().IsZero() || time.Since(push.BootTime()) > time.Hour {
		t.Error("the push model's verifier would not learn that the list began anew with the node")
	}
}

// An agent notes what the verifier told it, over its own restarts, and no more than so much.
func TestNotices(t *testing.T) {
	dir := t.TempDir()
	file := "[agent]\nkeylime_dir = \"" + dir + "\"\ntrusted_client_ca = \"" + caFile(t) + "\"\n"
	told := func(r agent.Revocation) []Notice {
		t.Helper()
		c, _, err := configure(environment(t, file, nil), slog.New(slog.DiscardHandler)) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		c.OnRevocation(r)
		data, err := os.ReadFile(filepath.Join(dir, NoticesFile))
		if err != nil {
			t.Fatal(err)
		}
		list, err := ReadNotices(data)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	told(agent.Revocation{Message: `{"type":"revocation"}`})
	list := told(agent.Revocation{Message: "two\nlines", Problem: fmt.Errorf("%w: really", agent.ErrForged)})
	if len(list) != 2 || list[0].Message != `{"type":"revocation"}` || list[0].Problem != "" || list[1].Message != "two\nlines" || list[1].Problem != agent.ErrForged.Error()+": really" {
		t.Errorf("noted: %+v", list)
	}
	if list[0].Received.IsZero() || list[1].Received.Before(list[0].Received) {
		t.Errorf("received at %s and %s", list[0].Received, list[1].Received)
	}
	if info, err := os.Stat(filepath.Join(dir, NoticesFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the notes: %v, %v; want mode 0600", info, err)
	}
	// What a notice made the agent run is told with it, and not with that of another start which had the same number.
	acted := func(r agent.Revocation, runs ...agent.ActionRun) []Notice {
		t.Helper()
		c, _, err := configure(environment(t, file, nil), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c.OnActions(r, runs)
		return told(agent.Revocation{Message: "later", Number: 8})
	}
	told(agent.Revocation{Message: "before", Number: 7})
	told(agent.Revocation{Message: "about web", Number: 7})
	list = acted(agent.Revocation{Number: 7}, agent.ActionRun{Action: "distrust.sh"}, agent.ActionRun{Action: "close.sh", Problem: errors.New("exit status 3")})
	if len(list) != 5 || list[2].Actions != nil || list[4].Actions != nil || !slices.Equal(list[3].Actions, []Action{{Name: "distrust.sh"}, {Name: "close.sh", Problem: "exit status 3"}}) {
		t.Errorf("noted with actions: %+v", list)
	}
	many := strings.Repeat("{\"message\":\"old\"}\n", maxNotices)
	if err := os.WriteFile(filepath.Join(dir, NoticesFile), []byte(many), 0o600); err != nil {
		t.Fatal(err)
	}
	if list := told(agent.Revocation{Message: "last"}); len(list) != maxNotices || list[maxNotices-1].Message != "last" {
		t.Errorf("%d are noted, the last %+v", len(list), list[len(list)-1])
	}
	if _, err := ReadNotices([]byte("no JSON\n")); err == nil || !strings.Contains(err.Error(), "read a notice") {
		t.Errorf("of what is no JSON: %v", err)
	}
}
