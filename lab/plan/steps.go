package plan

import "fmt"

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
	StepPolicies  = "policies" // where nodes measure files

	// Of the substrate kind alone.
	StepImages       = "images"
	StepControlPlane = "control-plane"
	StepCluster      = "cluster"
	StepNodes        = "nodes"
	StepLoadBalancer = "load-balancer"
	StepAgents       = "agents"
)

// NodeStep is the name of a step for one node.
func NodeStep(step, node string) string { return step + "/" + node }

// steps lists what `up` does, in an order in which it could be done one by one.
func steps(p Plan) []Step {
	if p.Kubernetes != nil {
		return kindSteps(p)
	}
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
	enrolAfter := []string{StepTenant, StepVerifier}
	if p.MeasuresFiles() {
		list = append(list, Step{StepPolicies, []string{StepConfig}, "runtime policies, made by Keylime's own tool"})
		enrolAfter = append(enrolAfter, StepPolicies)
	}
	for _, n := range p.Nodes {
		list = append(list,
			Step{NodeStep(StepTPM, n.Name), []string{StepEKCA}, n.TPM.Backend + " TPM with an " + n.TPM.EKAlgorithm + " EK and its certificate"},
			Step{NodeStep(StepAgent, n.Name), []string{NodeStep(StepTPM, n.Name), StepIngress, StepRegistrar}, n.Agent.Kind + " agent, registered"},
			Step{NodeStep(StepEnrol, n.Name), append([]string{NodeStep(StepAgent, n.Name)}, enrolAfter...), "EK certificate checked and agent handed to the verifier"},
			Step{NodeStep(StepAttest, n.Name), []string{NodeStep(StepEnrol, n.Name)}, aboutAttest(n)},
		)
	}
	return list
}

// aboutAttest says what the step that ends a node's way waits for.
func aboutAttest(n Node) string {
	if n.Payload != nil {
		return "first successful attestation, and then the payload"
	}
	return "first successful attestation"
}

// kindSteps are the steps where the nodes are those of a Kubernetes cluster: services and TPMs are made while the cluster starts.
func kindSteps(p Plan) []Step {
	k := p.Kubernetes
	services := func(name string) []string { return []string{name, StepConfig, StepDNS} }
	list := []Step{
		{StepImages, nil, "container images, source " + k.ImageSource},
		{StepEKCA, nil, "the fake EK CA and its tpm_cert_store"},
		{StepConfig, []string{StepImages}, "mTLS certificates and configuration of the services"},
		{StepNetwork, []string{StepImages}, "Docker networks, and the router between them"},
		{StepDNS, []string{StepNetwork}, "DNS servers of both networks"},
		{StepRegistrar, services(StepNetwork), "Keylime registrar on " + p.Keylime.Registrar.String() + " and " + p.Keylime.RegistrarTLS.String()},
		{StepVerifier, services(StepNetwork), "Keylime verifier on " + p.Keylime.Verifier.String()},
		{StepTenant, append(services(StepNetwork), StepEKCA), "Keylime tenant, waiting to enrol"},
		{StepControlPlane, []string{StepNetwork}, fmt.Sprintf("kind begins the cluster %s: Kubernetes %s; its API server answers", k.Cluster, k.Version)},
		{StepCluster, []string{StepControlPlane}, fmt.Sprintf("%d workers, which join it", len(p.Nodes))},
		{StepNodes, []string{StepCluster}, "every node ready, and every worker with its TPM to give"},
	}
	enrolAfter := []string{StepTenant, StepVerifier}
	if p.HasIngress() {
		list = append(list,
			Step{StepLoadBalancer, []string{StepControlPlane}, "MetalLB, with the address " + p.Keylime.Ingress.Addr().String()},
			Step{StepIngress, []string{StepControlPlane, StepDNS}, "TLS SNI ingress, class " + k.IngressClass + ", on " + p.Keylime.Ingress.String()},
		)
		enrolAfter = append(enrolAfter, StepIngress, StepLoadBalancer)
	}
	if p.MeasuresFiles() {
		list = append(list, Step{StepPolicies, []string{StepConfig}, "runtime policies, made by Keylime's own tool"})
		enrolAfter = append(enrolAfter, StepPolicies)
	}
	agents := Step{StepAgents, []string{StepControlPlane}, "agents' DaemonSet, and a Service and an Ingress for each"}
	for _, n := range p.Nodes {
		tpm := NodeStep(StepTPM, n.Name)
		list = append(list, Step{tpm, []string{StepEKCA, StepImages}, "swtpm container with an " + n.TPM.EKAlgorithm + " EK and its certificate"})
		agents.After = append(agents.After, tpm)
	}
	list = append(list, agents)
	for _, n := range p.Nodes {
		list = append(list,
			Step{NodeStep(StepAgent, n.Name), []string{StepAgents, StepNodes, StepRegistrar}, n.Agent.Kind + " agent in a pod, registered"},
			Step{NodeStep(StepEnrol, n.Name), append([]string{NodeStep(StepAgent, n.Name)}, enrolAfter...), "EK certificate checked and agent handed to the verifier"},
			Step{NodeStep(StepAttest, n.Name), []string{NodeStep(StepEnrol, n.Name)}, aboutAttest(n)},
		)
	}
	return list
}
