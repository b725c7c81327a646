package verify

import (
	"strings"
	"testing"
)

// An agent of the push model that is overdue is well again with its next evidence; one whose evidence does not come is not.
func TestAttestedOverdue(t *testing.T) {
	f := newFake(t)
	n := f.nodes[0]
	f.agents[n.UUID] = map[string]any{"attestation_status": "TIMEOUT", "attestation_count": 1, "ip": nil, "port": nil}
	v := &verification{target: f, plan: f.plan, options: options}
	if got, err := v.attested(t.Context(), n); err != nil || !strings.Contains(got, "attestation_count") {
		t.Errorf("evidence comes late: %q, %v", got, err)
	}
	f.frozen = true
	if got, err := v.attested(t.Context(), n); err == nil || !strings.Contains(err.Error(), "TIMEOUT") {
		t.Errorf("no evidence comes: %q, %v", got, err)
	}
}
