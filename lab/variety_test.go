package lab_test

import (
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/tpmsim"
)

// Nodes that differ on purpose: one whose TPM has no EK certificate, which the tenant refuses; one whose certificate has
// expired, which Keylime does not look at, but verify does; and the other two UUID policies.
func TestVariety(t *testing.T) {
	t.Parallel()
	const given = "0f6e1a5c-5a0e-4b5e-9b7f-2d6c3f1e8a90"
	s := quick(t, "name: variety\nnodes:\n  - {name: bare, ek: {certificate: absent}}\n  - {name: old, ek: {expired: true}}\n"+
		"  - {name: random, agent: {uuid: generate}}\n  - {name: named, agent: {uuid: "+given+"}}\n"+
		"networks:\n  allow:\n    - {name: past-the-ingress, from: services, to: named, port: 9002}\n    - {name: ssh, from: tenant, to: bare, port: 22}\n")
	l := up(t, s)
	st := status(t, l)
	want := map[string]string{"bare": "refused", "old": "attested", "random": "attested", "named": "attested"}
	for _, n := range st.Nodes {
		if n.State != want[n.Name] {
			t.Errorf("%s is %s (%s), want %s", n.Name, n.State, n.Detail, want[n.Name])
		}
		if n.Name == "bare" && n.EKSerial != "" {
			t.Errorf("bare has an EK certificate: %s", n.EKSerial)
		}
		if n.Name == "named" && n.UUID != given {
			t.Errorf("named has UUID %s, want %s", n.UUID, given)
		}
	}
	broken := append(of([]string{"bare"}, "ek-certificate", "tenant-accepted", "attested"), "ek-certificate old")
	r := verify(t, l, broken...)
	// What the specification allows besides is open too: to an agent, and to a port where nobody listens.
	for subject, word := range map[string]string{"verifier → named:9002/tcp": "open", "tenant → bare:22/tcp": "refused"} {
		i := slices.IndexFunc(r.Checks, func(c report.Check) bool { return c.ID == "open" && c.Subject == subject })
		if i < 0 || !strings.HasPrefix(r.Checks[i].Evidence, word) {
			t.Errorf("no check found %s to be %s", subject, word)
		}
	}

	uuids, _ := identities(st)
	if _, err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, _ := identities(status(t, up(t, s)))
	wantSame(t, "UUIDs over down and up", uuids, again)
}

// The same lab on the other TPM backend.
func TestSimulator(t *testing.T) {
	if err := tpmsim.Simulator().Available(); err != nil {
		t.Skip(err) // a build without cgo; `make test` builds with it
	}
	t.Parallel()
	l := up(t, quick(t, "name: simulator\nnodes: 2\ntpm: {backend: simulator}\n"))
	attested(t, l, 2)
	verify(t, l)

	// The TPM says itself whose it is: Microsoft's reference implementation, and not libtpms.
	cmd, err := l.Command(t.Context(), "node-1", "tpm2_getcap", "properties-fixed")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"MSFT"`) {
		t.Errorf("the TPM of node-1 is not the simulator: %v\n%s", err, out)
	}
}
