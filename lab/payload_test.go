package lab_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

// What is delivered in these tests, so that a search finds it wherever it must not be.
const (
	secretOfAll = "for-all: tea at four\nand a second line\n"
	secretOfOwn = "for-own: cake at five\n"
)

// archive is a payload that leaves a trace of where it ran.
func archive(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{
		"autorun.sh":    "#!/bin/sh\numask 022\n{ hostname; pwd; cat sub/note; ip -brief address show eth0; } > trace\necho " + secretOfOwn + "exit 3\n",
		"sub/note":      secretOfOwn,
		"sub/deep/more": "more\n",
	} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "payload.zip")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every node has what was meant for it once its quote was good; one that is to have none, or that the tenant refused, has nothing; and verify sees whatever
// is otherwise.
func TestPayload(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: payload\npayload: {inline: "+quoted(secretOfAll)+"}\nnodes:\n  - {name: a}\n"+
		"  - {name: own, payload: {file: "+archive(t)+", autorun: true}}\n"+
		"  - {name: none, payload: {none: true}}\n  - {name: stranger, ek: {issuer: stranger}}\n")
	l := up(t, s)
	stranger := of([]string{"stranger"}, "ek-certificate", "tenant-accepted", "attested")
	r := verify(t, l, stranger...)
	wantEvidence(t, r, "payload-delivered a", "39 bytes, as was meant for this node; in memory, for the agent alone")
	wantEvidence(t, r, "payload-delivered own", "as was meant for this node")
	wantEvidence(t, r, "payload-withheld none", "none is meant for it, and nothing is there")
	wantEvidence(t, r, "payload-withheld stranger", "the tenant refused it, and nothing is there")

	t.Run("in the node's memory, for its agent alone", func(t *testing.T) {
		if got := inSecure(t, l, "a", `cat unzipped/decrypted_payload; stat -c '%a %n' . unzipped unzipped/*; stat -f -c %T unzipped`); got !=
			secretOfAll+"700 .\n700 unzipped\n600 unzipped/decrypted_payload\n600 unzipped/derived_tci_key\ntmpfs\n" {
			t.Errorf("on node a:\n%s", got)
		}
		if entries, err := os.ReadDir(filepath.Join(l.Dir().Agent("a"), "secure")); err != nil || len(entries) != 0 {
			t.Errorf("the node's memory is seen outside of the lab: %v, %v", entries, err)
		}
	})
	t.Run("run", func(t *testing.T) {
		await(t, "the script in the payload to run on its node", func() bool { return inSecure(t, l, "own", "cat unzipped/trace 2>/dev/null || true") != "" })
		address := node(t, l, "own").Address
		got := inSecure(t, l, "own", "cat unzipped/trace")
		for _, want := range []string{"own\n", "/secure/unzipped\n", secretOfOwn, address} {
			if !strings.Contains(got, want) {
				t.Errorf("the trace of the script has no %q:\n%s", want, got)
			}
		}
		got = inSecure(t, l, "own", "cd unzipped && stat -c '%a %n' autorun.sh sub sub/deep/more")
		if got != "700 autorun.sh\n700 sub\n600 sub/deep/more\n" {
			t.Errorf("unpacked: %s", got)
		}
	})
	t.Run("nowhere else", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := l.Export(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		wantNoSecret(t, dir)
		wantNoSecret(t, l.Dir().Path, l.Dir().Payloads())
		if info, err := os.Stat(l.Dir().Payload("all")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the lab's copy: %v, %v", info, err)
		}
	})
	t.Run("verify sees what is wrong", func(t *testing.T) {
		inSecure(t, l, "a", "cp unzipped/decrypted_payload kept; echo other > unzipped/decrypted_payload")
		inSecure(t, l, "none", "mkdir unzipped; cp ../../a/secure/kept unzipped/decrypted_payload")
		inSecure(t, l, "stranger", "mkdir unzipped; echo any > unzipped/decrypted_payload")
		r := verify(t, l, append(stranger, "payload-delivered a", "payload-withheld none", "payload-withheld stranger")...)
		wantError(t, r, "payload-delivered a", "another payload is there")
		wantError(t, r, "payload-withheld none", "a payload is there (sha256 ", "although none is meant for it")
		wantError(t, r, "payload-withheld stranger", "although the tenant refused it")
		inSecure(t, l, "a", "mv kept unzipped/decrypted_payload")
		inSecure(t, l, "none", "rm -r unzipped")
		inSecure(t, l, "stranger", "rm -r unzipped")
		verify(t, l, stranger...)
	})
	t.Run("over the agent's restart", func(t *testing.T) {
		for _, clear := range []bool{false, true} {
			if _, err := l.Fault(t.Context(), control.Fault{Kind: "dead-agent", Nodes: []string{"a"}, Clear: clear}); err != nil {
				t.Fatal(err)
			}
		}
		verify(t, l, stranger...) // what is in the machine's memory outlives the agent
	})
	t.Run("gone with a reboot", func(t *testing.T) {
		look := beforehand(t, l, "none", `cat "$0"/unzipped/* 2>/dev/null || echo nothing`, filepath.Join(l.Dir().Agent("a"), "secure"))
		done, err := l.Act(t.Context(), control.Action{Kind: control.ActionReboot, Node: "a"})
		if err != nil || !strings.Contains(done, "its payload went with its memory: `keylab node enrol a` has it delivered again") {
			t.Fatalf("reboot: %q, %v", done, err)
		}
		if got := look(); got != "nothing\n" {
			t.Errorf("a program that was started before still sees what was in the node's memory:\n%s", got)
		}
		if done, err := l.Act(t.Context(), control.Action{Kind: control.ActionReboot, Node: "none"}); err != nil || strings.Contains(done, "payload") {
			t.Fatalf("reboot of a node without a payload: %q, %v", done, err)
		}
		missing := func() {
			t.Helper()
			wantError(t, verify(t, l, append(stranger, "payload-delivered a")...), "payload-delivered a", "nothing is there", "`keylab node enrol a`")
		}
		missing()
		// One that was given up and is asked again gets the verifier's half of the key once more; the tenant's half, and the payload, come with an enrolment alone.
		halves := logged(t, l, "a", "/keys/vkey")
		act(t, l, control.ActionStop, "a")
		uuid := node(t, l, "a").UUID
		await(t, "the verifier to give a up", func() bool { return logged(t, l, "verifier", "Agent "+uuid+" failed, stopping polling") > 0 })
		act(t, l, control.ActionStart, "a")
		act(t, l, control.ActionReactivate, "a")
		await(t, "the verifier to send a its half of the key once more", func() bool { return logged(t, l, "a", "/keys/vkey") > halves })
		missing()
		if got := logged(t, l, "a", "/keys/vkey"); got != halves+1 {
			t.Errorf("the verifier has sent its half of the key %d times, and %d times before it was told to ask again", got, halves)
		}
		act(t, l, control.ActionEnrol, "a")
		verify(t, l, stranger...)
	})
	t.Run("not before a good quote", func(t *testing.T) {
		act(t, l, control.ActionReboot, "a")
		policy := `{"23":["` + strings.Repeat("ab", 32) + `"]}` // the PCR is zero
		cmd, err := l.TenantCommand(t.Context(), "-c", "update", "-u", node(t, l, "a").UUID, "-f", l.Dir().Payload("all"), "--tpm_policy", policy)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("enrol with a policy that the node does not keep to: %v\n%s", err, out)
		}
		await(t, "the verifier to find the first quote bad", func() bool { return node(t, l, "a").State == fleet.StateFailed })
		r := verify(t, l, append(stranger, "attested a", "payload-delivered a")...)
		wantError(t, r, "payload-delivered a", "nothing is there: the verifier, which has half of its key, has had no good quote")
		act(t, l, control.ActionEnrol, "a")
		verify(t, l, stranger...)
	})
	t.Run("again with the next up", func(t *testing.T) {
		if _, err := l.Down(context.Background()); err != nil {
			t.Fatal(err)
		}
		wantNoSecret(t, l.Dir().Path, l.Dir().Payloads())
		s.Payload.Inline = ""
		again := up(t, s)
		r := verify(t, again, stranger...)
		wantEvidence(t, r, "payload-withheld a", "none is meant for it")
		if _, err := os.Stat(again.Dir().Payload("all")); !os.IsNotExist(err) {
			t.Errorf("the payload of the last run is still there: %v", err)
		}
	})
}

// logged counts the lines of a component's log that hold a text.
func logged(t *testing.T, l *lab.Lab, component, text string) int {
	t.Helper()
	data, err := os.ReadFile(l.Dir().Log(component))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte(text))
}

func quoted(s string) string { return `"` + strings.ReplaceAll(s, "\n", `\n`) + `"` }

// inSecure runs a shell command in a node's memory, and returns what it printed.
func inSecure(t *testing.T, l *lab.Lab, node, command string) string {
	t.Helper()
	cmd, err := l.Command(t.Context(), node, "sh", "-ec", `cd "$0" && `+command, filepath.Join(l.Dir().Agent(node), "secure"))
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("on %s: %s: %v\n%s%s", node, command, err, out, &stderr)
	}
	return string(out)
}

// beforehand starts a shell command on a node now, which waits for its turn; the function that is returned gives it that, and returns what it prints.
func beforehand(t *testing.T, l *lab.Lab, node, command string, args ...string) func() string {
	t.Helper()
	cmd, err := l.Command(t.Context(), node, append([]string{"sh", "-c", "echo here; read turn; " + command}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	if line, err := out.ReadString('\n'); err != nil || line != "here\n" {
		t.Fatalf("a shell on %s: %q, %v", node, line, err)
	}
	return func() string {
		t.Helper()
		stdin.Close()
		rest, err := io.ReadAll(out)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatalf("%s on %s: %v", command, node, err)
		}
		return string(rest)
	}
}

func checkOf(t *testing.T, r report.Result, name string) report.Check {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(c report.Check) bool { return c.ID+" "+c.Subject == name })
	if i < 0 {
		t.Fatalf("no check %q was made", name)
	}
	return r.Checks[i]
}

func wantEvidence(t *testing.T, r report.Result, name string, parts ...string) {
	t.Helper()
	c := checkOf(t, r, name)
	for _, p := range parts {
		if !strings.Contains(c.Evidence, p) {
			t.Errorf("the evidence of %s is %q, want %q in it", name, c.Evidence, p)
		}
	}
}

func wantError(t *testing.T, r report.Result, name string, parts ...string) {
	t.Helper()
	c := checkOf(t, r, name)
	for _, p := range parts {
		if !strings.Contains(c.Error, p) {
			t.Errorf("%s failed with %q, want %q in it", name, c.Error, p)
		}
	}
}

// wantNoSecret searches all files of a folder, but for some folders in it.
func wantNoSecret(t *testing.T, dir string, but ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && slices.Contains(but, path) {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		for _, secret := range []string{"tea at four", "cake at five"} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds what was to be delivered", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What cannot be delivered is found before anything is touched, all at once.
func TestPayloadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var other bytes.Buffer
	z := zip.NewWriter(&other)
	if _, err := z.Create("sub/autorun.sh"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	unrunnable := filepath.Join(dir, "other.zip")
	if err := os.WriteFile(unrunnable, other.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := quick(t, "name: files\nnodes:\n"+
		"  - {name: a, payload: {file: "+dir+"/none}}\n  - {name: b, payload: {file: "+dir+"}}\n  - {name: c, payload: {file: "+file("empty", 0)+"}}\n"+
		"  - {name: d, payload: {file: "+file("large", spec.MaxPayload+1)+"}}\n  - {name: e, payload: {file: "+file("text", 3)+", autorun: true}}\n"+
		"  - {name: f, payload: {file: "+unrunnable+", autorun: true}}\n  - {name: g, payload: {file: "+file("fits", spec.MaxPayload)+"}}\n")
	l, err := lab.Up(t.Context(), s, lab.UpOptions{})
	if err == nil {
		wipe(t, l)
		t.Fatal("the lab is up")
	}
	for _, want := range []string{
		"the payload of a: open " + dir + "/none: no such file", "the payload of b: " + dir + " is no regular file", "the payload of c: " + dir + "/empty is empty",
		"the payload of d: " + dir + "/large is larger than 480 KiB", "the payload of e: " + dir + "/text is to be unpacked (payload.autorun), but is no zip archive",
		"the payload of f: " + unrunnable + " is to be run (payload.autorun), but has no autorun.sh at its top",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "payload of g") {
		t.Errorf("the largest that fits is refused:\n%v", err)
	}
	if at, err := lab.Open("files"); err != nil || at.Exists(t.Context()) {
		t.Errorf("something was made of it: %v", err)
	}
}
