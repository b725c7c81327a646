package spec_test

import (
	"errors"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

func TestMeasurementsOfNodes(t *testing.T) {
	s, err := spec.Decode("lab.yaml", []byte(`apiVersion: keylab/v1alpha1
kind: Lab
nodes:
  - {name: plain}
  - name: own
    ima: {template: ima-sig, files: [{path: /a}, {path: /b, digest: "sha256:`+strings.Repeat("0f", 32)+`", atBoot: false}]}
    measuredBoot: {firmwareVersion: "9", secureBoot: false}
  - {name: none, ima: {enabled: false}, measuredBoot: {enabled: false}}
ima: {enabled: true}
measuredBoot: {enabled: true, commandLine: quiet}
`))
	if err != nil {
		t.Fatal(err)
	}
	nodes := s.EffectiveNodes()
	plain, own, none := nodes[0], nodes[1], nodes[2]
	if !plain.IMA.On() || plain.IMA.Template != spec.IMATemplateNG || len(plain.IMA.Files) < 3 || !plain.MeasuredBoot.On() ||
		plain.MeasuredBoot.FirmwareVersion != "2.1.0" || !*plain.MeasuredBoot.SecureBoot || plain.MeasuredBoot.CommandLine != "quiet" {
		t.Errorf("%+v %+v", plain.IMA, plain.MeasuredBoot)
	}
	later := 0
	for _, f := range plain.IMA.Files {
		if len(f.Digest) != len("sha256:")+64 {
			t.Errorf("%+v", f)
		}
		if !*f.AtBoot {
			later++
		}
	}
	if later != 1 {
		t.Errorf("%d of the files of a small system are for later", later)
	}
	if f := own.IMA.Files; !own.IMA.On() || own.IMA.Template != spec.IMATemplateSig || len(f) != 2 || f[0].Path != "/a" || len(f[0].Digest) != 71 || !*f[0].AtBoot ||
		!strings.HasSuffix(f[1].Digest, "0f0f") || *f[1].AtBoot {
		t.Errorf("%+v", own.IMA)
	}
	if b := own.MeasuredBoot; !b.On() || b.FirmwareVersion != "9" || *b.SecureBoot || b.CommandLine != "quiet" || b.Policy != spec.BootPolicyExample {
		t.Errorf("%+v", b)
	}
	if none.IMA.On() || none.MeasuredBoot.On() {
		t.Errorf("%+v %+v", none.IMA, none.MeasuredBoot)
	}
	if n := spec.Default().EffectiveNodes()[0]; n.IMA.On() || n.MeasuredBoot.On() {
		t.Error("nodes measure though nobody asked for it")
	}
}

func TestMistakesOfMeasurements(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"relative path":    {"ima: {files: [{path: bin/sh}]}", `lab.yaml:3:22: ima.files[0].path: "bin/sh" is not an absolute path in printable ASCII`},
		"no path":          {"ima: {files: [{atBoot: true}]}", "ima.files[0].path: is missing"},
		"digest":           {"ima: {files: [{path: /a, digest: \"sha256:00\"}]}", "is not sha256: and 64 hexadecimal digits in lower case"},
		"twice":            {"ima: {files: [{path: /a}, {path: /b}, {path: /a}]}", `ima.files[2].path: "/a" with this digest is ima.files[0] too (line 3)`},
		"twice on a node":  {"nodes: [{ima: {files: [{path: /a}, {path: /a, atBoot: false}]}}]", "nodes[0].ima.files[1].path"},
		"template":         {"ima: {template: ima}", `ima.template: "ima" is not one of ima-ng, ima-sig`},
		"policy":           {"measuredBoot: {policy: strict}", "is not one of example, accept-all"},
		"policy of a node": {"nodes: [{measuredBoot: {policy: example}}]", `nodes[0].measuredBoot.policy: unknown field "policy"`},
	} {
		_, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\n"+test.text+"\n"))
		if !errors.As(err, new(*spec.InvalidError)) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	for name, text := range map[string]string{
		"two digests": "ima: {files: [{path: /a}, {path: /a, digest: \"sha256:" + strings.Repeat("00", 32) + "\"}]}",
	} {
		if _, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\n"+text+"\n")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
