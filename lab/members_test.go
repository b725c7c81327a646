package lab_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/netlab"
)

// Nodes join a running lab and leave it, and all that is proved of a lab is proved of the one that it then is.
func TestMembers(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: members\nnodes: 2\nima: {enabled: true}\n"))
	first, serials := identities(status(t, l))

	t.Run("joined", func(t *testing.T) {
		act(t, l, control.ActionAdd, "node-3")
		attested(t, l, 3)
		verify(t, l)
		if !routed(t, l, node(t, l, "node-3").Hostname) {
			t.Error("the ingress has no route to it")
		}
		wantResolved(t, l, "node-3", true)
	})
	t.Run("left", func(t *testing.T) {
		hostname := node(t, l, "node-1").Hostname
		act(t, l, control.ActionRemove, "node-1")
		if names := nodeNames(t, l); !slices.Equal(names, []string{"node-2", "node-3"}) {
			t.Errorf("the lab has %v", names)
		}
		if routed(t, l, hostname) {
			t.Error("the ingress knows it still")
		}
		wantResolved(t, l, "node-1", false)
		verify(t, l)
	})
	t.Run("acted on", func(t *testing.T) { // as one that was there from the beginning
		act(t, l, control.ActionReboot, "node-3")
		act(t, l, control.ActionEnrol, "node-3")
		verify(t, l)
	})
	t.Run("came back", func(t *testing.T) {
		act(t, l, control.ActionAdd, "node-1")
		verify(t, l)
		u, s := identities(status(t, l))
		if u["node-1"] != first["node-1"] || s["node-1"] != serials["node-1"] {
			t.Errorf("it is another machine: UUID %s, EK certificate %s, before %s and %s", u["node-1"], s["node-1"], first["node-1"], serials["node-1"])
		}
	})
	t.Run("joined, not as the others", func(t *testing.T) {
		if _, err := l.Act(t.Context(), control.Action{Kind: control.ActionAdd, Node: "ecc", Definition: "tpm: {ekAlgorithm: ecc-p256}\nagent: {hashAlgorithm: sha384}\n"}); err != nil {
			t.Fatal(err)
		}
		verify(t, l)
		p, err := l.Planned()
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := p.Node("ecc"); n.TPM.EKAlgorithm != string(spec.EKECCP256) || n.Agent.HashAlgorithm != string(spec.HashSHA384) {
			t.Errorf("it is %+v", n)
		}
		act(t, l, control.ActionRemove, "ecc")
		done, err := l.Act(t.Context(), control.Action{Kind: control.ActionAdd, Node: "bare", Definition: "ek: {certificate: absent}\n"})
		if err != nil || !strings.Contains(done, "the tenant refused it") {
			t.Errorf("without an EK certificate: %q, %v", done, err)
		}
		act(t, l, control.ActionRemove, "bare")
	})
	t.Run("mistakes", func(t *testing.T) {
		before := read(t, l.Dir().Spec())
		for want, a := range map[string]control.Action{
			"the lab has a host of that name already, at 198.18.20.12":         {Kind: control.ActionAdd, Node: "node-2"},
			"the lab has a host of that name already, at 198.18.10.11":         {Kind: control.ActionAdd, Node: plan.Registrar},
			`"A" is not a DNS label`:                                           {Kind: control.ActionAdd, Node: "A"},
			"add needs the name of a node":                                     {Kind: control.ActionAdd},
			`remove d: the lab has no node "d"; it has node-2, node-3, node-1`: {Kind: control.ActionRemove, Node: "d"},
			`unknown field "ekk": did you mean "ek"?`:                          {Kind: control.ActionAdd, Node: "node-4", Definition: "ekk: {}"},
			"node-4, and its definition names it node-5":                       {Kind: control.ActionAdd, Node: "node-4", Definition: "name: node-5"},
			"no payload of its own":                                            {Kind: control.ActionAdd, Node: "node-4", Definition: "payload: {inline: x}"},
			"the lab has no stranger's CA":                                     {Kind: control.ActionAdd, Node: "node-4", Definition: "ek: {issuer: stranger}"},
			"reboot takes no definition of a node":                             {Kind: control.ActionReboot, Node: "node-1", Definition: "{}"},
			"remove is done to one node, not to node-1 and node-2":             {Kind: control.ActionRemove, Node: "node-1", Other: "node-2"},
		} {
			if _, err := l.Act(t.Context(), a); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", a, err, want)
			}
		}
		if now := read(t, l.Dir().Spec()); now != before {
			t.Errorf("lab.yaml changed:\n%s\nbefore:\n%s", now, before)
		}
	})
	t.Run("kept", func(t *testing.T) {
		act(t, l, control.ActionRemove, "node-2")
		before, _ := identities(status(t, l))
		if _, err := l.Down(context.Background()); err != nil {
			t.Fatal(err)
		}
		s, err := spec.Decode(l.Dir().Spec(), []byte(read(t, l.Dir().Spec())))
		if err != nil {
			t.Fatal(err)
		}
		again := up(t, s)
		now, _ := identities(status(t, again))
		wantSame(t, "UUIDs over down and up", before, now)
		verify(t, again)
		act(t, again, control.ActionRemove, "node-1")
		if _, err := again.Act(t.Context(), control.Action{Kind: control.ActionRemove, Node: "node-3"}); err == nil || !strings.Contains(err.Error(), "it is the lab's last node") {
			t.Errorf("the last node: %v", err)
		}
	})
}

// A node that joins and is broken off, or fails, leaves nothing behind.
func TestJoinBrokenOff(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: broken-off\nnodes: 1\n"))
	before := read(t, l.Dir().Spec())
	f := control.Fault{Kind: control.FaultServiceDown, Component: plan.Verifier}
	inflict(t, l, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := l.Act(ctx, control.Action{Kind: control.ActionAdd, Node: "late"})
		ended <- err
	}()
	await(t, "the new node to register", func() bool {
		all := status(t, l).Nodes
		return len(all) == 2 && all[1].State == "registered" || len(ended) > 0
	})
	cancel()
	if err := <-ended; err == nil {
		t.Fatal("it joined a lab whose verifier does not run")
	}
	await(t, "the node to be taken back", func() bool { return len(status(t, l).Nodes) == 1 })
	await(t, "its folders to be gone", func() bool { return len(leftOf(t, l, "late")) == 0 })
	mend(t, l, f)
	verify(t, l) // also that the registrar knows nobody else
	if now := read(t, l.Dir().Spec()); now != before {
		t.Errorf("lab.yaml changed:\n%s\nbefore:\n%s", now, before)
	}
	if n, err := l.Network(t.Context()); err != nil || slices.ContainsFunc(n.Hosts, func(h netlab.HostState) bool { return h.Name == "late" }) || len(n.Routes) != 1 {
		t.Errorf("the network: %v, routes %v", err, n.Routes)
	}
	act(t, l, control.ActionAdd, "late")
	verify(t, l)
	if s, err := lab.Open(l.Name()); err != nil {
		t.Fatal(err)
	} else if p, err := s.Planned(); err != nil || len(p.Nodes) != 2 || p.Nodes[1].Number != 2 {
		t.Errorf("the plan has %+v, %v", p.Nodes, err)
	}
}

// routed tells whether the ingress leads a hostname anywhere.
func routed(t *testing.T, l *lab.Lab, hostname string) bool {
	t.Helper()
	n, err := l.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(slices.Collect(maps.Keys(n.Routes)), hostname)
}

// wantResolved asks the lab's DNS server for a host's name.
func wantResolved(t *testing.T, l *lab.Lab, host string, want bool) {
	t.Helper()
	cmd, err := l.Command(t.Context(), plan.Tenant, "getent", "hosts", host)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); (err == nil) != want {
		t.Errorf("getent hosts %s: %v, %s", host, err, out)
	}
}

func nodeNames(t *testing.T, l *lab.Lab) (names []string) {
	t.Helper()
	for _, n := range status(t, l).Nodes {
		names = append(names, n.Name)
	}
	return names
}

// leftOf is what the lab's folder has of a node, but its logs.
func leftOf(t *testing.T, l *lab.Lab, name string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{l.Dir().TPM(name) + "*", l.Dir().Agent(name), l.Dir().Measured(name)} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
