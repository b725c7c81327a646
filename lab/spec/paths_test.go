package spec_test

import (
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

// Every path of a lab begins in the folder of the file that names it.
func TestResolvePaths(t *testing.T) {
	const text = `apiVersion: keylab/v1alpha1
kind: Lab
substrate: kind
agent: {kind: binary, path: bin/agent}
payload: {file: all.zip}
keylime: {revocation: {agent: true, actions: [{name: a, file: act.sh}, {name: b, file: /act}, {name: c, inline: x}]}}
nodes:
- {name: one, agent: {path: ../own/agent}, payload: {file: one.zip}, mounts: [{hostPath: data, containerPath: /data}]}
- {name: two, agent: {path: /agent}, payload: {file: /two.zip}, mounts: [{hostPath: /data, containerPath: /data}]}
- {name: three}
`
	s, err := spec.Decode("lab.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	before := s
	paths := func(s spec.Spec) (all []string) {
		all = append(all, s.Agent.Path, s.Payload.File)
		for _, a := range s.Keylime.Revocation.Actions {
			all = append(all, a.File)
		}
		for _, n := range s.Nodes.List {
			all = append(all, n.Agent.Path, n.Payload.File)
			for _, m := range n.Mounts {
				all = append(all, m.HostPath)
			}
		}
		return all
	}
	if err := s.ResolvePaths("labs/x/lab.yaml"); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("labs/x")
	if err != nil {
		t.Fatal(err)
	}
	const want = "HERE/bin/agent HERE/all.zip HERE/act.sh /act  LABS/own/agent HERE/one.zip HERE/data /agent /two.zip /data  "
	full := strings.NewReplacer("HERE", here, "LABS", filepath.Dir(here)).Replace(want)
	if got := strings.Join(paths(s), " "); got != full {
		t.Errorf("got  %s\nwant %s", got, full)
	}
	if got := strings.Join(paths(before), " "); got != "bin/agent all.zip act.sh /act  ../own/agent one.zip data /agent /two.zip /data  " {
		t.Errorf("the lab that it was copied from has other paths now: %s", got)
	}
}
