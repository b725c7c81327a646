package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// measureQuotes brings up a lab of one node with one kind of agent and asks that for quotes, from where the tenant is: through router and
// ingress, by the agent's own hostname. It returns the lab's memory before that.
func (r *runner) measureQuotes(ctx context.Context, kind, binary string) (mem *memory, figures []Figure, err error) {
	r.progress("quotes of the %s agent", kind)
	s := labSpec(1, spec.EKRSA2048, binary)
	p, err := lab.Plan(s)
	if err != nil {
		return nil, nil, err
	}
	l, _, err := upLab(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, wipe(ctx, l)) }()
	if mem, err = readMemory(ctx, l); err != nil {
		return nil, nil, err
	}
	status, err := l.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	latencies, err := r.askInside(ctx, l, quoteOrder{
		UUID: status.Nodes[0].UUID, Address: fmt.Sprintf("%s:%d", status.Nodes[0].Hostname, plan.IngressPort),
		Registrar: p.Keylime.RegistrarTLS.String(), PKI: l.Dir().PKI(), Count: r.options.Quotes,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("quotes of the %s agent: %w", kind, err)
	}
	figures = []Figure{
		distribution(kind+" agent, new TLS connection", "ms", latencies.Fresh).note("as the verifier asks"),
		distribution(kind+" agent, kept connection", "ms", latencies.Kept),
	}
	return mem, figures, nil
}

// askInside runs this program once more, on the lab's tenant host, to ask for quotes.
func (r *runner) askInside(ctx context.Context, l *lab.Lab, order quoteOrder) (quoteLatencies, error) {
	exe, err := os.Executable()
	if err != nil {
		return quoteLatencies{}, fmt.Errorf("find this program's own file: %w", err)
	}
	cmd, err := l.Command(ctx, plan.Tenant, exe, ClientCommand)
	if err != nil {
		return quoteLatencies{}, err
	}
	input, err := json.Marshal(order)
	if err != nil {
		return quoteLatencies{}, fmt.Errorf("encode the order: %w", err)
	}
	var out, log bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &log
	if err := cmd.Run(); err != nil {
		return quoteLatencies{}, fmt.Errorf("%w\ncommand: %v\noutput: %s", err, cmd.Args, log.String())
	}
	var latencies quoteLatencies
	if err := json.Unmarshal(out.Bytes(), &latencies); err != nil {
		return quoteLatencies{}, fmt.Errorf("read the latencies: %w\noutput: %s", err, out.String())
	}
	return latencies, nil
}

// registered is the certificate that the agent registered, the only one that Keylime accepts from it.
func (o quoteOrder) registered(ctx context.Context, pki *keylime.PKI) (*keylime.RegistrarAgent, error) {
	a, err := keylime.NewRegistrarClient(o.Registrar, pki.ClientTLS(), nil).Agent(ctx, o.UUID)
	if err != nil {
		return nil, fmt.Errorf("ask the registrar for agent %s: %w", o.UUID, err)
	}
	if a.MTLSCert == nil {
		return nil, fmt.Errorf("agent %s has registered no certificate", o.UUID)
	}
	return a, nil
}
