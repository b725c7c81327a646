package kind

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"keylab.dev/keylab/lab/fleet"
)

// Which node has which TPM outlasts the program that exchanged them, and exchanging twice the same is as if nothing had been done.
func TestExchangedVolumes(t *testing.T) {
	dir, p := planned(t, "nodes: [{name: a}, {name: b}, {name: c}]\n")
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	want := func(what string, want map[string]string) {
		t.Helper()
		l, err := newLab(dir, p) // another program
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got := map[string]string{}
		for node := range want {
			if got[node], err = l.tpmVolume(node); err != nil {
				t.Fatal(err)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: volumes %v, want %v", what, got, want)
		}
	}
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	swap := func(a, b string) {
		t.Helper()
		if err := l.swapVolumes(a, b); err != nil {
			t.Fatal(err)
		}
	}
	want("at first", map[string]string{"a": "tpm-a", "b": "tpm-b", "c": "tpm-c"})
	swap("a", "b")
	want("a with b", map[string]string{"a": "tpm-b", "b": "tpm-a", "c": "tpm-c"})
	swap("b", "c")
	want("b with c", map[string]string{"a": "tpm-b", "b": "tpm-c", "c": "tpm-a"})
	swap("c", "b")
	swap("b", "a")
	want("and back", map[string]string{"a": "tpm-a", "b": "tpm-b", "c": "tpm-c"})
	if err := os.WriteFile(filepath.Join(dir.Path, "tpm", "volumes.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.tpmVolume("a"); err == nil {
		t.Error("a record that cannot be read is passed over, and the node would get another one's TPM")
	}
}

// A UUID that another node has as well, by a copy of the TPM, is not one to be forgotten.
func TestOutdated(t *testing.T) {
	dir, p := planned(t, "nodes: [{name: a}, {name: b}, {name: c}]\n")
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for node, uuid := range map[string]string{"a": "u-1", "b": "u-1", "c": "u-2"} {
		if err := l.learnNode(node, func(f *nodeFacts) { f.UUID = uuid }); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range p.Nodes {
		if got, want := (machines{l}).outdated(n), map[string]string{"c": "u-2"}[n.Name]; got != want {
			t.Errorf("of %s %q is outdated, want %q", n.Name, got, want)
		}
	}
}

// An agent that the registrar refused is told from one that ended for another reason, and from another container of the pod.
func TestRefusedRegistrationOfPod(t *testing.T) {
	const refused = "keylab agent: register: http://198.18.10.11:8890/v2.6/agents/u-1 answered 403 Forbidden: another TPM"
	ended := func(code int32, said string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: said}}
	}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	for name, test := range map[string]struct {
		status corev1.ContainerStatus
		want   string
	}{
		"it has ended":          {corev1.ContainerStatus{Name: "agent", State: ended(1, "level=INFO\n"+refused+"\n")}, refused},
		"it waits to start":     {corev1.ContainerStatus{Name: "agent", State: waiting, LastTerminationState: ended(1, refused)}, refused},
		"it ended otherwise":    {corev1.ContainerStatus{Name: "agent", State: waiting, LastTerminationState: ended(1, "no TPM")}, ""},
		"it was stopped":        {corev1.ContainerStatus{Name: "agent", State: ended(0, refused)}, ""},
		"another container":     {corev1.ContainerStatus{Name: "tpm", State: ended(1, refused)}, ""},
		"it runs for the first": {corev1.ContainerStatus{Name: "agent", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, ""},
	} {
		pod := corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{test.status}}}
		if got := refusedRegistration(pod); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// A node whose agent the registrar would not have is known to be without one, whatever Kubernetes says of its pods.
func TestUnregisteredIsStale(t *testing.T) {
	dir, p := planned(t, "nodes: [{name: a}]\n")
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.learnNode("a", func(f *nodeFacts) { f.Unregistered = fleet.ErrNotRegistered.Error() + ": 403" }); err != nil {
		t.Fatal(err)
	}
	if stale, err := (machines{l}).Stale(t.Context(), p.Nodes[0]); err != nil || !stale {
		t.Errorf("stale: %v, %v, so `node enrol` would not have it registered anew", stale, err)
	}
}
