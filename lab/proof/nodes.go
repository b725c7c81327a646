package proof

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// deadAgent: the agent's process was stopped, and whoever connects to it is refused, or left without an answer where its kernel still takes
// connections for it.
func deadAgent(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	return endedAgent(ctx, t, f, EndStopped)
}

// agentKilled: likewise of one that was killed.
func agentKilled(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	return endedAgent(ctx, t, f, EndKilled)
}

func endedAgent(ctx context.Context, t Target, f control.Fault, end End) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	if off(n) {
		return unseen("%s is off, and its agent with it", n.Name)
	}
	process, err := t.AgentProcess(ctx, n.Name)
	if err != nil {
		return control.Proof{}, err
	}
	if process.Running {
		return unseen("the agent of %s runs", n.Name)
	}
	if process.End != end {
		return unseen("the agent of %s does not run, but was not %s: %s", n.Name, end, process.Detail)
	}
	if t.Plan().Keylime.Push() { // nobody connects to it
		return seen("the process of the agent of %s does not run: %s", n.Name, process.Detail)
	}
	said, dead := greet(ctx, t, n)
	if !dead {
		return unseen("the agent's process does not run (%s), but %s", process.Detail, said)
	}
	return seen("the agent's process does not run (%s), and %s", process.Detail, said)
}

// agentRestart: the agent is another process than before, and answers.
func agentRestart(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	process, err := t.AgentProcess(ctx, n.Name)
	if err != nil {
		return control.Proof{}, err
	}
	said := "in the push model nobody connects to it"
	if !t.Plan().Keylime.Push() {
		var dead bool
		if said, dead = greet(ctx, t, n); dead {
			return unseen("the agent of %s: %s", n.Name, said)
		}
	}
	return restarted("the agent of "+n.Name, process, since.Processes[n.Name], said)
}

// restarted compares a process with the one before.
func restarted(what string, now Process, before, said string) (control.Proof, error) {
	switch {
	case before == "":
		return unseen("nothing is known of %s before: the mark has it not", what)
	case !now.Running:
		return unseen("%s does not run: %s", what, now.Detail)
	case now.ID == before:
		return unseen("%s is the process that it was (%s)", what, before)
	}
	return seen("%s is another process than before (%s, and before %s); %s", what, now.ID, before, said)
}

// greet connects to an agent from where the ingress is, and tells whether it is dead.
func greet(ctx context.Context, t Target, n verify.Node) (said string, dead bool) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	to, err := t.AgentAddress(ctx, n.Name)
	if err != nil {
		return err.Error(), false
	}
	start := time.Now()
	c, err := t.Dial(ctx, plan.Ingress, to)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("its port refuses connections: %s → %s", plan.Ingress, to), true
	case err != nil:
		return fmt.Sprintf("nothing was to be learnt at its port: %v", err), false
	}
	defer c.Close()
	err = tls.Client(c, &tls.Config{ServerName: n.Hostname, Certificates: t.ClientTLS().Certificates, InsecureSkipVerify: true}).HandshakeContext(ctx)
	var timeout net.Error
	switch {
	case err == nil:
		return fmt.Sprintf("it answers at %s", to), false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("a TLS handshake with it is not answered: %s → %s, %s", plan.Ingress, to, time.Since(start).Round(time.Millisecond)), true
	}
	return fmt.Sprintf("a TLS handshake with it fails: %v", err), true
}

// deadTPM: the TPM cannot be read, and its process has ended.
func deadTPM(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	if !tpmDead(n) {
		if off(n) {
			return unseen("%s is off, and its TPM with it", n.Name)
		}
		return unseen("the TPM of %s runs", n.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	if _, err := n.TPM(ctx); err != nil {
		return seen("the TPM of %s cannot be read: %s", n.Name, oneLine(err))
	}
	return unseen("the TPM of %s answers", n.Name)
}
