package lab_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

// One lab whose nodes have every combination of algorithms that Keylime accepts: an EK, an AK's scheme, and a hash with its PCR bank. Those that it refuses are
// in the tests of package spec.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	type algorithms struct{ ek, ak, hash string }
	all := map[string]algorithms{}
	text := "name: algorithms\nnodes:\n"
	for _, ek := range []string{"rsa2048", "ecc-p256"} {
		for _, ak := range []string{"rsassa", "ecdsa"} {
			for _, hash := range []string{"sha256", "sha384", "sha512", "sha1"} {
				name := strings.Join([]string{ek, ak, hash}, "-")
				all[name] = algorithms{ek, ak, hash}
				text += fmt.Sprintf("  - {name: %s, tpm: {ekAlgorithm: %s}, agent: {akAlgorithm: %s, hashAlgorithm: %s}}\n", name, ek, ak, hash)
			}
		}
	}
	l := up(t, quick(t, text))
	attested(t, l, len(all))
	verify(t, l)

	// The verifier says what the quotes that it accepted were made by.
	accepted := bulkInfo(t, l)
	for _, n := range status(t, l).Nodes {
		want, got := all[n.Name], accepted[n.UUID]
		key := map[string]string{"rsassa": "rsa2048", "ecdsa": "ecc256"}[want.ak] // of the AK, whatever the EK is
		if got.Sign != want.ak || got.Hash != want.hash || got.Encryption != key {
			t.Errorf("%s: the verifier accepts %+v, want %s, %s and %s", n.Name, got, want.ak, want.hash, key)
		}
	}

	// What was asked for lasts: the AK is found again, in its TPM and by its hash.
	const rebooted = "ecc-p256-ecdsa-sha384"
	act(t, l, control.ActionReboot, rebooted)
	act(t, l, control.ActionReactivate, rebooted)
	verify(t, l)
}

// quoteAlgorithms are the algorithms of an agent's last quote by the verifier's word.
type quoteAlgorithms struct {
	Hash       string `json:"hash_alg"`
	Encryption string `json:"enc_alg"`
	Sign       string `json:"sign_alg"`
}

// bulkInfo is what the tenant's command bulkinfo prints, by UUID.
func bulkInfo(t *testing.T, l *lab.Lab) map[string]quoteAlgorithms {
	t.Helper()
	cmd, err := l.TenantCommand(t.Context(), "-c", "bulkinfo")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("keylime_tenant -c bulkinfo: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var all map[string]quoteAlgorithms
		if err := json.Unmarshal([]byte(line), &all); err != nil {
			t.Fatalf("the tenant's list of agents: %v\n%s", err, out)
		}
		return all
	}
	t.Fatalf("the tenant printed no list of agents:\n%s", out)
	return nil
}
