package fleet

import (
	"os"
	"strings"
	"testing"

	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// A file that the lab's key has signed is allowed on nodes whose lists have signatures, whatever its digest; a stranger's signature is none of the policy's.
func TestSign(t *testing.T) {
	dir := state.Dir{Lab: "x", Path: t.TempDir()}
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	node := func(template ima.Template) plan.Node {
		return plan.Node{Name: "db", IMA: &plan.IMA{Template: string(template), Files: []plan.IMAFile{{Path: "/bin/sh", Digest: digest("1")}}}}
	}
	n := node(ima.TemplateSig)
	sign := func(m control.Measurement) control.Measurement {
		t.Helper()
		m.Kind = control.MeasureFile
		if err := Sign(dir, n, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	ours := sign(control.Measurement{Path: "/bin/new", Digest: digest("2"), Sign: control.SignLab})
	strangers := sign(control.Measurement{Path: "/bin/new", Digest: digest("2"), Sign: control.SignStranger})
	listed := sign(control.Measurement{Path: "/bin/sh", Sign: control.SignLab})
	if unsigned := sign(control.Measurement{Path: "/bin/new", Digest: digest("2")}); unsigned.Signature != nil || listed.Digest != digest("1") || listed.Signature == nil {
		t.Errorf("unsigned: %+v; one of the specification: %+v", unsigned, listed)
	}
	entry := func(m control.Measurement, d string) control.IMAEntry {
		return control.IMAEntry{Path: m.Path, Digest: d, Signature: m.Signature}
	}
	for _, c := range []struct {
		what    string
		node    plan.Node
		entry   control.IMAEntry
		allowed bool
	}{
		{"signed", n, entry(ours, digest("2")), true},
		{"another digest under the same signature", n, entry(ours, digest("3")), false},
		{"signed by a stranger", n, entry(strangers, digest("2")), false},
		{"in the policy, and signed by a stranger", n, control.IMAEntry{Path: "/bin/sh", Digest: digest("1"), Signature: strangers.Signature}, true},
		{"a list without signatures", node(ima.TemplateNG), entry(ours, digest("2")), false},
	} {
		l := &control.IMAList{Entries: []control.IMAEntry{c.entry}}
		if err := MarkAllowed(dir, c.node, l); err != nil || l.Entries[0].Allowed != c.allowed {
			t.Errorf("%s: allowed %v, %v", c.what, l.Entries[0].Allowed, err)
		}
	}
	if policyName(n) == policyName(node(ima.TemplateNG)) {
		t.Error("a policy with the key and one without have one name")
	}
	if n.IMA.Key != nil {
		t.Error("the plan itself was changed")
	}
	for want, c := range map[string]struct {
		n plan.Node
		m control.Measurement
	}{
		"the IMA list of db has no signatures: set ima.template: ima-sig": {node(ima.TemplateNG), control.Measurement{Path: "/x", Digest: digest("2"), Sign: control.SignLab}},
		"off measures no files":               {plan.Node{Name: "off"}, control.Measurement{Path: "/x", Digest: digest("2"), Sign: control.SignLab}},
		"/x is not among the files":           {n, control.Measurement{Path: "/x", Sign: control.SignLab}},
		`there is no key "mine" to sign with`: {n, control.Measurement{Path: "/x", Digest: digest("2"), Sign: "mine"}},
		`db: file digest "md5:00"`:            {n, control.Measurement{Path: "/x", Digest: "md5:00", Sign: control.SignLab}},
	} {
		c.m.Kind = control.MeasureFile
		if err := Sign(dir, c.n, &c.m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if info, err := os.Stat(dir.IMAKeys() + "/lab.pem"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the lab's key: %v, %v", info, err)
	}
	for text, want := range map[string]string{"no key": "no PEM private key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "the key of file signatures"} {
		if err := os.WriteFile(dir.IMAKeys()+"/lab.pem", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := WithAllowed(dir, n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
