package plan

// Names of the steps of `up`. A step for one node is named "<step>/<node>".
const (
	StepNetwork   = "network"
	StepDNS       = "dns"
	StepIngress   = "ingress"
	StepEKCA      = "ek-ca"
	StepConfig    = "keylime-config"
	StepRegistrar = "registrar"
	StepVerifier  = "verifier"
	StepTenant    = "tenant"
	StepTPM       = "tpm"
	StepAgent     = "agent"
	StepEnrol     = "enrol"
	StepAttest    = "attest"
)

// NodeStep is the name of a step for one node.
func NodeStep(step, node string) string { return step + "/" + node }

// steps lists what `up` does, in an order in which it could be done one by one.
func steps(p Plan) []Step {
	list := []Step{
		{StepNetwork, nil, "namespaces, links, addresses, routes, the router's rules"},
		{StepEKCA, nil, "the fake EK CA and its tpm_cert_store"},
		{StepConfig, nil, "mTLS certificates and configuration of the services"},
		{StepDNS, []string{StepNetwork}, "DNS servers of both networks"},
		{StepIngress, []string{StepNetwork}, "TLS SNI ingress on " + p.Keylime.Ingress.String()},
		{StepRegistrar, []string{StepNetwork, StepConfig}, "Keylime registrar on " + p.Keylime.Registrar.String() + " and " + p.Keylime.RegistrarTLS.String()},
		{StepVerifier, []string{StepNetwork, StepConfig, StepDNS}, "Keylime verifier on " + p.Keylime.Verifier.String()},
		{StepTenant, []string{StepNetwork, StepConfig, StepDNS, StepEKCA}, "Keylime tenant, waiting to enrol"},
	}
	for _, n := range p.Nodes {
		list = append(list,
			Step{NodeStep(StepTPM, n.Name), []string{StepEKCA}, n.TPM.Backend + " TPM with an " + n.TPM.EKAlgorithm + " EK and its certificate"},
			Step{NodeStep(StepAgent, n.Name), []string{NodeStep(StepTPM, n.Name), StepIngress, StepRegistrar}, n.Agent.Kind + " agent, registered"},
			Step{NodeStep(StepEnrol, n.Name), []string{NodeStep(StepAgent, n.Name), StepTenant, StepVerifier}, "EK certificate checked and agent handed to the verifier"},
			Step{NodeStep(StepAttest, n.Name), []string{NodeStep(StepEnrol, n.Name)}, "first successful attestation"},
		)
	}
	return list
}
