package plan_test

import (
	"slices"
	"testing"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

func planOf(t *testing.T, text string) plan.Plan {
	t.Helper()
	s, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMeasurements(t *testing.T) {
	p := planOf(t, `
nodes:
  - {name: a, ima: {files: [{path: /x}, {path: /y, atBoot: false}]}}
  - {name: b, ima: {enabled: false}, measuredBoot: {firmwareVersion: "3"}}
ima: {enabled: true}
measuredBoot: {enabled: true, policy: accept-all}
keylime: {options: {verifier: {max_retries: "3", measured_boot_evaluate: once}, tenant: {x: "y"}}}
`)
	a, b := p.Nodes[0], p.Nodes[1]
	if a.IMA == nil || a.IMA.Template != "ima-ng" || len(a.IMA.Files) != 2 || a.IMA.Files[0].Later || !a.IMA.Files[1].Later || b.IMA != nil {
		t.Errorf("%+v and %+v", a.IMA, b.IMA)
	}
	if a.MeasuredBoot == nil || a.MeasuredBoot.FirmwareVersion != "2.1.0" || !a.MeasuredBoot.SecureBoot || b.MeasuredBoot.FirmwareVersion != "3" {
		t.Errorf("%+v and %+v", a.MeasuredBoot, b.MeasuredBoot)
	}
	v := p.Keylime.Options["verifier"]
	if v["measured_boot_policy_name"] != "accept-all" || v["measured_boot_evaluate"] != "once" || v["max_retries"] != "3" || p.Keylime.Options["tenant"]["x"] != "y" {
		t.Errorf("options: %v", p.Keylime.Options)
	}
	step := func(name string) plan.Step {
		t.Helper()
		i := slices.IndexFunc(p.Steps, func(s plan.Step) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("no step %s", name)
		}
		return p.Steps[i]
	}
	if s := step("policies"); !slices.Equal(s.After, []string{"keylime-config"}) {
		t.Errorf("%+v", s)
	}
	if s := step("enrol/a"); !slices.Contains(s.After, "policies") || !slices.Contains(s.After, "agent/a") {
		t.Errorf("%+v", s)
	}

	boot := planOf(t, "measuredBoot: {enabled: true}\n")
	if v := boot.Keylime.Options["verifier"]; v["measured_boot_policy_name"] != "example" || v["measured_boot_evaluate"] != "always" {
		t.Errorf("options: %v", v)
	}
	if slices.ContainsFunc(boot.Steps, func(s plan.Step) bool { return s.Name == "policies" }) {
		t.Error("a lab without IMA makes runtime policies")
	}
	none := planOf(t, "")
	if none.MeasuresBoot() || none.MeasuresFiles() || none.Keylime.Options != nil || none.Nodes[0].IMA != nil || none.Nodes[0].MeasuredBoot != nil {
		t.Errorf("%+v", none)
	}
}
