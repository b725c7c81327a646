package parity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/lab/control"
)

// measure changes what the node measured.
func measure(change control.Measurement) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		change.Node = m.name
		_, err := m.lab.Measure(ctx, change)
		return err
	}
}

// oneBootTime is why the agents of the push model differ after a reboot.
const oneBootTime = "The Rust agent takes the time of the boot from /proc/stat, which is the lab's machine's and stays. So the verifier goes on with the list from where it " +
	"stood, beyond the end of the new one, and takes no evidence. keylab's own agent tells when its node booted; the verifier asks for the whole list, and fails it since it goes on " +
	"from the old PCR 10"

// measuredCases are those of a node whose files are measured. They are mended by an enrolment, which lets nothing of a failure stay: not its event
// in the pull model, and not the failure itself in the push model. reason is why the agents differ after a reboot.
func measuredCases(reason string) []VerdictCase {
	enrol := action(control.ActionEnrol)
	mend := action(control.ActionReboot, control.ActionEnrol)
	file := func(path, content string) func(context.Context, *machine) error {
		c := control.Measurement{Kind: control.MeasureFile, Path: path}
		if content != "" {
			c.Digest = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
		}
		return measure(c)
	}
	cases := []VerdictCase{
		{Name: "a file that the runtime policy allows", do: file(allowedFile, "")},
		{Name: "node rebooted that had measured a file", Reason: reason, do: action(control.ActionReboot), mend: enrol},
		{Name: "a file that the runtime policy does not allow", do: file("/tmp/miner", "miner"), mend: mend},
		{Name: "another content of a file that it allows", do: file(allowedFile, "rootkit"), mend: mend},
		{Name: "the newest entry taken out of the IMA list", do: sequence(file(allowedFile, ""), attested, measure(control.Measurement{Kind: control.TamperList})), mend: mend},
		{Name: "PCR 10 extended, and the IMA list not", do: measure(control.Measurement{Kind: control.TamperPCR}), mend: mend},
	}
	for i := range cases {
		cases[i].measured = true
	}
	return cases
}

// bootCases are those of a node whose boot is measured, mended likewise: one of each kind of tampering, since what a verifier makes of the others does not
// depend on the agent.
func bootCases() []VerdictCase {
	var cases []VerdictCase
	known := map[[2]bool]bool{}
	for _, t := range bootlog.Tampers() {
		kind := [2]bool{t.BreaksReplay, t.BreaksRefState}
		if !known[kind] {
			cases = append(cases, VerdictCase{Name: "boot: " + t.Name, boots: true, do: measure(control.Measurement{Kind: control.TamperBoot, Tamper: t.Name}),
				mend: action(control.ActionReboot, control.ActionEnrol)})
		}
		known[kind] = true
	}
	// Once enrolled again the node has the reference state of its new firmware.
	return append(cases, VerdictCase{Name: "firmware updated", boots: true, do: measure(control.Measurement{Kind: control.UpdateFirmware, Version: "9.9"}),
		mend: action(control.ActionEnrol)})
}

// payloadCases are about what the tenant encrypts for an agent, and the verifier gives it the key for.
func payloadCases() []VerdictCase {
	deliver := func(pcr string) func(context.Context, *machine) error {
		return func(ctx context.Context, m *machine) error {
			n, ok := m.plan.Node(m.name)
			if !ok || n.Payload == nil {
				return fmt.Errorf("no payload is meant for %s", m.name)
			}
			return m.update(ctx, "--tpm_policy", `{"`+policyPCR+`":["`+pcr+`"]}`, "-f", m.lab.Dir().Payload(n.Payload.Name))
		}
	}
	reboot, enrol := action(control.ActionReboot), action(control.ActionEnrol)
	cases := []VerdictCase{
		{Name: "payload, and a TPM policy that fits", do: sequence(reboot, deliver(zeros), attested), mend: enrol},
		{Name: "payload, and a TPM policy that does not fit", do: sequence(reboot, deliver(other)), mend: enrol},
		{Name: "payload, and the node rebooted", do: sequence(enrol, attested, reboot), mend: enrol},
		{Name: "payload, and the node enrolled again", do: sequence(reboot, enrol), mend: attested},
	}
	for i := range cases {
		cases[i].measured, cases[i].payload = true, true
	}
	return cases
}

// holds says what of the payload is in the node's memory: both kinds of agents put it into the same file of their folder.
func (m *machine) holds(ctx context.Context) (string, error) {
	file := filepath.Join(m.lab.Dir().Agent(m.name), "secure", "unzipped", "decrypted_payload")
	cmd, err := m.lab.Command(ctx, m.name, "sh", "-c", `if [ -e "$0" ]; then cat "$0"; else echo nothing; fi`, file)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	switch text := strings.TrimSpace(string(out)); {
	case err != nil:
		return "", fmt.Errorf("look into the memory of %s: %w", m.name, err)
	case text == payload:
		return "delivered", nil
	case text == "nothing":
		return text, nil
	}
	return "something else", nil
}

// pushCases are those of the push model alone that need nothing measured.
func pushCases() []VerdictCase {
	enrol := action(control.ActionEnrol)
	return []VerdictCase{
		{Name: "node rebooted", do: action(control.ActionReboot)},
		{Name: "power cut", do: action(control.ActionCrash), mend: enrol},
		{Name: "AK lost, and the registrar keeps the old one", do: sequence(action(control.ActionStop), loseAK, startIfItCan), mend: sequence(forget,
			action(control.ActionStart), enrol)},
		{Name: "AK replaced at the registrar, and the verifier keeps the old one", do: sequence(action(control.ActionStop), loseAK, forget,
			action(control.ActionStart)), mend: enrol},
		{Name: "agent stopped", do: fault("dead-agent", false), mend: fault("dead-agent", true)},
		{Name: "TPM dead", do: fault("dead-tpm", false), mend: sequence(fault("dead-tpm", true), enrol)},
		{Name: "cut off from the network", do: fault("partition", false), mend: fault("partition", true)},
		{Name: "machine switched off", do: action(control.ActionStop), mend: action(control.ActionStart)},
		{Name: "TPM replaced, and the verifier knows the old one", do: action(control.ActionReplaceTPM), mend: sequence(enrol, lookAgain)},
	}
}

// lookAgain is look as a step.
func lookAgain(ctx context.Context, m *machine) error { return m.look(ctx) }
