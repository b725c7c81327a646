package lab_test

import (
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// What a specification may name is what can be installed.
func TestVersionsAreInstallable(t *testing.T) {
	can := keylime.Versions()
	want := slices.Sorted(slices.Values(spec.KeylimeVersions))
	if !slices.Equal(can, want) {
		t.Errorf("package keylime can install %v, package spec accepts %v", can, want)
	}
	if spec.KeylimeVersions[0] != keylime.DefaultVersion || spec.Default().Keylime.Version != keylime.DefaultVersion {
		t.Errorf("the default is %s of %v, and %s of package keylime", spec.Default().Keylime.Version, spec.KeylimeVersions, keylime.DefaultVersion)
	}
}

// A lab of each older Keylime is proved as one of the default version is, IMA included, has its strangers refused, and what breaks it breaks the same checks (TestFaults).
func TestVersions(t *testing.T) {
	for _, version := range spec.KeylimeVersions {
		if version == keylime.DefaultVersion {
			continue
		}
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			name := "v" + strings.ReplaceAll(version, ".", "-")
			l := up(t, quick(t, "name: "+name+"\nkeylime: {version: "+version+"}\nnodes:\n  - {name: a, ima: {enabled: true}}\n"+
				"  - {name: b, tpm: {ekAlgorithm: ecc-p256}, agent: {hashAlgorithm: sha384}}\n  - {name: c, ek: {issuer: stranger}}\n"))
			wantState(t, l, "c", "refused")
			refused := of([]string{"c"}, "ek-certificate", "tenant-accepted", "attested")
			verify(t, l, refused...)

			tests := []struct {
				kind  string
				nodes []string
				more  []string // that fails, beside what always does
			}{
				{"dead-agent", []string{"b"}, nil},
				{"swapped-route", []string{"a", "b"}, []string{"ima-list a"}},
			}
			for _, test := range tests {
				t.Run(test.kind, func(t *testing.T) {
					fault := control.Fault{Kind: test.kind, Nodes: test.nodes}
					if _, err := l.Fault(t.Context(), fault); err != nil {
						t.Fatal(err)
					}
					settled(t, l, test.nodes)
					verify(t, l, slices.Concat(of(test.nodes, "certificate", "quote", "attested"), test.more, refused)...)
					fault.Clear = true
					if _, err := l.Fault(t.Context(), fault); err != nil {
						t.Fatal(err)
					}
					verify(t, l, refused...)
				})
			}
			t.Run("rebooted", func(t *testing.T) {
				act(t, l, control.ActionReboot, "b")
				act(t, l, control.ActionReactivate, "b")
				verify(t, l, refused...)
			})
			t.Run("reimaged", func(t *testing.T) { // the registrar of 7.14 is the first that refuses the new AK
				done := do(t, l, control.Action{Kind: control.ActionReimage, Node: "b"})
				if !strings.Contains(done, "the agent of b has registered") {
					t.Errorf("it could not register: %s", done)
				}
				await(t, "the verifier to find that another AK signs", func() bool { return node(t, l, "b").State == "failed" })
				act(t, l, control.ActionEnrol, "b")
				verify(t, l, refused...)
			})
		})
	}
}
