package parity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// VerdictCase is one thing that is done to a machine, and of which the verifier makes something.
type VerdictCase struct {
	Name   string
	Push   bool   // it is one of the push model
	Told   bool   // it is one of a lab whose verifier tells agents of others
	Reason string // why the agents differ here, or empty
	// measured and boots: it is done to the node whose files, or whose boot, are measured.
	measured, boots bool
	// payload: what is in the node's memory is part of the verdict.
	payload bool
	// do does it and mend undoes it, so that the agent is attested again; nil: nothing is to be done.
	do, mend func(ctx context.Context, m *machine) error
}

// ID names the case in records and messages.
func (c VerdictCase) ID() string { return c.group() + ": " + c.Name }

func (c VerdictCase) group() string {
	switch {
	case c.Push:
		return pushVerdictGroup
	case c.Told:
		return toldVerdictGroup
	}
	return verdictGroup
}

// machine is a node of the lab with one kind of agent.
type machine struct {
	lab    *lab.Lab
	plan   plan.Plan
	name   string
	other  string // a node with the same kind of agent
	uuid   string
	host   string // the agent's hostname
	akFile string // where the agent keeps its AK, in its folder
	before string // see Verdict
}

// order is one to a child, about this machine's agent.
func (m *machine) order(do string) order {
	return order{Do: do, UUID: m.uuid, Hostname: m.host, Registrar: m.plan.Keylime.RegistrarTLS.String(), Verifier: m.plan.Keylime.Verifier.String(),
		PKI: m.lab.Dir().PKI()}
}

// at has a child on the tenant's host do something.
func (m *machine) at(ctx context.Context, do string, result any) error {
	if result == nil {
		result = new(struct{})
	}
	return onHost(ctx, m.lab, plan.Tenant, m.order(do), result)
}

func (m *machine) act(ctx context.Context, kind string) error {
	_, err := m.lab.Act(ctx, control.Action{Kind: kind, Node: m.name})
	return err
}

// action is an action of the lab as a step of a case; several are done one after the other.
func action(kinds ...string) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		for _, k := range kinds {
			if err := m.act(ctx, k); err != nil {
				return err
			}
		}
		return nil
	}
}

// fault is a fault of the lab, done or mended.
func fault(kind string, clear bool) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		nodes := []string{m.name}
		if kind == "swapped-route" {
			nodes = append(nodes, m.other)
		}
		_, err := m.lab.Fault(ctx, control.Fault{Kind: kind, Nodes: nodes, Clear: clear})
		return err
	}
}

// policy has the tenant enrol the agent anew with a TPM policy (JSON), and without any other.
func policy(text string) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error { return m.update(ctx, "--tpm_policy", text) }
}

// update has the tenant enrol the agent anew.
func (m *machine) update(ctx context.Context, more ...string) error {
	args := append([]string{"-c", "update", "-u", m.uuid}, more...)
	if m.plan.Keylime.Push() {
		args = append(args, "--push-model")
	}
	cmd, err := m.lab.TenantCommand(ctx, args...)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("have the tenant enrol %s with %s: %w\noutput: %s", m.name, strings.Join(more, " "), err, out)
	}
	return nil
}

// tool runs one of tpm2-tools on the node's TPM.
func tool(argv ...string) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		cmd, err := m.lab.TPMCommand(ctx, m.name, argv...)
		if err != nil {
			return err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s on %s: %w\noutput: %s", strings.Join(argv, " "), m.name, err, out)
		}
		return nil
	}
}

// sequence does one after the other.
func sequence(steps ...func(context.Context, *machine) error) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		for _, s := range steps {
			if err := s(ctx, m); err != nil {
				return err
			}
		}
		return nil
	}
}

// attested waits for good quotes.
func attested(ctx context.Context, m *machine) error {
	var v Verdict
	if err := m.at(ctx, doVerdict, &v); err != nil {
		return err
	}
	if v.Event != "" || v.Status != "PASS" {
		return fmt.Errorf("%s should be attested, but is: %s", m.name, v)
	}
	return nil
}

// loseAK deletes the agent's AK while it is off.
func loseAK(_ context.Context, m *machine) error {
	err := os.Remove(filepath.Join(m.lab.Dir().Agent(m.name), m.akFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s keeps no AK where it was looked for: %w", m.name, err)
	}
	return err
}

// startIfItCan starts the node and notes whether the agent refuses to.
func startIfItCan(ctx context.Context, m *machine) error {
	m.before = "the agent starts"
	if err := m.act(ctx, control.ActionStart); err != nil {
		m.before = "the agent does not start"
		if strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), "Forbidden") {
			m.before += ": the registrar forbids it (403)"
		}
	}
	return nil
}

// forget has the registrar delete the registration, reactivate the verifier ask again.
func forget(ctx context.Context, m *machine) error     { return m.at(ctx, doForget, nil) }
func reactivate(ctx context.Context, m *machine) error { return m.at(ctx, doReactivate, nil) }

// policyPCR is one that nothing but these cases uses, and that any locality may reset (TCG PC Client Platform TPM Profile, section 4.6).
const policyPCR = "23"

var (
	zeros = strings.Repeat("0", 64)
	other = strings.Repeat("1", 64)
)

// VerdictCases are all of them, of both models, in order. Each leaves the agent attested.
func VerdictCases() (all []VerdictCase) {
	for _, s := range stages {
		all = append(all, s.cases()...)
	}
	return all
}

func verdictCasesOf(mode spec.Mode) []VerdictCase {
	if mode == spec.ModePush {
		cases := slices.Concat(policyCases(), pushCases(), measuredCases(oneBootTime), bootCases())
		for i := range cases {
			cases[i].Push = true
		}
		return cases
	}
	return slices.Concat(policyCases(), pullCases(), measuredCases(""), bootCases(), payloadCases())
}

// policyCases are those of TPM policies, alike in both models.
func policyCases() []VerdictCase {
	enrol := action(control.ActionEnrol)
	resetPCR := tool("tpm2_pcrreset", policyPCR)
	good := policy(`{"` + policyPCR + `":["` + zeros + `"]}`)
	extend := tool("tpm2_pcrextend", policyPCR+":sha256="+other)
	return []VerdictCase{
		{Name: "good"},
		{Name: "good, with a TPM policy that fits", do: good, mend: enrol},
		{Name: "TPM policy that does not fit", do: policy(`{"` + policyPCR + `":["` + other + `"]}`), mend: enrol},
		{Name: "TPM policy with one value of several", do: policy(`{"` + policyPCR + `":["` + other + `","` + zeros + `"]}`), mend: enrol},
		{Name: "TPM policy of all PCRs, one of which does not fit", do: policy(allPCRs()), mend: enrol},
		{Name: "PCR extended against the policy", do: sequence(good, attested, extend), mend: sequence(resetPCR, enrol)},
		{Name: "PCR extended that no policy names", do: extend, mend: resetPCR},
	}
}

// pullCases are those of the pull model alone that need nothing measured.
func pullCases() []VerdictCase {
	enrol := action(control.ActionEnrol)
	return []VerdictCase{
		{Name: "PCR 16, which binds the payload key, extended", do: tool("tpm2_pcrextend", "16:sha256="+other)},
		{Name: "node rebooted", do: action(control.ActionReboot), mend: action(control.ActionReactivate)},
		{Name: "power cut", do: action(control.ActionCrash), mend: enrol},
		{Name: "AK lost, and the registrar keeps the old one", do: sequence(action(control.ActionStop), loseAK, startIfItCan), mend: sequence(forget,
			action(control.ActionStart), enrol)},
		{Name: "AK replaced at the registrar, and the verifier keeps the old one", do: sequence(action(control.ActionStop), loseAK, forget,
			action(control.ActionStart), reactivate), mend: enrol},
		{Name: "agent stopped", do: fault("dead-agent", false), mend: fault("dead-agent", true)},
		{Name: "TPM dead", do: fault("dead-tpm", false), mend: fault("dead-tpm", true)},
		{Name: "another agent of the same kind at its hostname", do: fault("swapped-route", false), mend: fault("swapped-route", true)},
		{Name: "cut off from the network", do: fault("partition", false), mend: fault("partition", true)},
		{Name: "machine switched off", do: action(control.ActionStop), mend: action(control.ActionStart, control.ActionReactivate)},
		{Name: "TPM replaced, and the verifier asks for the old one", do: action(control.ActionReplaceTPM), mend: sequence(enrol, lookAgain)},
	}
}

// allPCRs is a policy that names PCRs 0 to 9 and policyPCR, which alone does not fit.
func allPCRs() string {
	var parts []string
	for n := range 10 {
		parts = append(parts, fmt.Sprintf(`"%d":["%s"]`, n, zeros))
	}
	return "{" + strings.Join(append(parts, `"`+policyPCR+`":["`+other+`"]`), ",") + "}"
}

// look reads the machine's UUID and hostname, which a TPM that was replaced changes.
func (m *machine) look(ctx context.Context) error {
	s, err := m.lab.Status(ctx)
	if err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if n.Name == m.name {
			m.uuid, m.host = n.UUID, n.Hostname
			return nil
		}
	}
	return fmt.Errorf("the lab has no node %s", m.name)
}

// judge does a case to a machine and has the verifier's verdict.
func (m *machine) judge(ctx context.Context, c VerdictCase) (Verdict, error) {
	m.before = ""
	if c.do != nil {
		if err := c.do(ctx, m); err != nil {
			return Verdict{}, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	var v Verdict
	if err := m.at(ctx, doVerdict, &v); err != nil {
		return Verdict{}, fmt.Errorf("%s: %w", c.Name, err)
	}
	v.Before = m.before
	if c.Told {
		var err error
		if v.Actions, err = m.ran(ctx); err != nil {
			return Verdict{}, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	if c.payload {
		var err error
		if v.Payload, err = m.holds(ctx); err != nil {
			return Verdict{}, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	mend := c.mend
	if mend == nil {
		mend = attested
	}
	if err := mend(ctx, m); err != nil {
		return v, fmt.Errorf("%s: mend it: %w", c.Name, err)
	}
	return v, nil
}
