package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// registration proves point 1: every agent is registered under its own UUID with its own hostname, and nobody else is.
func (v *verification) registration() []check {
	checks := v.perNode("registered", pointRegistration, v.registered)
	checks = append(checks, v.perNode("uuid", pointRegistration, v.uuid)...)
	return append(checks, check{"no-strangers", pointRegistration, "registrar", func(context.Context) (string, error) {
		if v.records.allErr != nil {
			return "", fmt.Errorf("list the registrar's agents: %w", v.records.allErr)
		}
		for _, uuid := range v.records.all {
			if !slices.ContainsFunc(v.nodes, func(n Node) bool { return n.UUID == uuid }) {
				return "", fmt.Errorf("the registrar holds agent %s, which is none of the lab's nodes", uuid)
			}
		}
		return fmt.Sprintf("the registrar holds %d agents, all of them the lab's", len(v.records.all)), nil
	}})
}

// registered checks that the registrar's record of the node has the node's own contact address.
func (v *verification) registered(_ context.Context, n Node) (string, error) {
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	// Its own, also if it was given another name since: what its UUID makes of it is at the end.
	if !strings.HasSuffix(n.Hostname, plan.ContactHostname(n.UUID, v.plan.Domain)) {
		return "", fmt.Errorf("the agent's hostname is %s, in which its UUID %s is not", n.Hostname, n.UUID)
	}
	if record.IP != n.Hostname || record.Port != plan.IngressPort {
		return "", fmt.Errorf("the registrar has contact address %s:%d for agent %s, not its own %s:%d", record.IP, record.Port, n.UUID, n.Hostname, plan.IngressPort)
	}
	return fmt.Sprintf("contact address %s:%d", record.IP, record.Port), nil
}

// uuid checks that the UUID follows from the EK in the node's own TPM, where the policy is hash_ek.
func (v *verification) uuid(ctx context.Context, n Node) (string, error) {
	if n.Agent.UUID != spec.UUIDHashEK {
		return n.UUID + " by policy " + n.Agent.UUID, nil
	}
	id, err := n.TPM(ctx)
	if err != nil {
		return "", fmt.Errorf("read the EK out of the TPM of %s: %w", n.Name, err)
	}
	want := plan.HashEK(id.EKSPKI)
	if !strings.EqualFold(want, n.UUID) {
		return "", fmt.Errorf("the agent's UUID is %s, but the SHA-256 of the EK in the TPM is %s", n.UUID, want)
	}
	return n.UUID + " = SHA-256 of the EK in the TPM", nil
}
