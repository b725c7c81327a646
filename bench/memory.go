package bench

import (
	"context"
	"path/filepath"
	"strings"

	"keylab.dev/keylab/lab"
)

// The parts of a lab whose memory is told apart.
const (
	partSupervisor = "supervisor"
	partTPM        = "TPM"
	partAgent      = "agent"
	partRegistrar  = "registrar"
	partVerifier   = "verifier"
	partTenant     = "tenant"
	partOther      = "other"
)

// memory is the proportional set size of a lab's processes, MiB each, by part.
type memory struct {
	nodes int
	parts map[string][]float64
}

// sum is the memory of a part.
func (m *memory) sum(part string) float64 {
	total := 0.0
	for _, v := range m.parts[part] {
		total += v
	}
	return total
}

// readMemory reads the memory of all processes of a running lab, as it is.
func readMemory(ctx context.Context, l *lab.Lab) (*memory, error) {
	status, err := l.Status(ctx)
	if err != nil {
		return nil, err
	}
	tree, err := processTree(status.PID)
	if err != nil {
		return nil, err
	}
	m := &memory{nodes: len(status.Nodes), parts: map[string][]float64{}}
	for _, p := range tree {
		size, err := pss(p.pid)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		part := partOf(p.argv)
		if p.pid == status.PID {
			part = partSupervisor
		}
		m.parts[part] = append(m.parts[part], size)
	}
	return m, nil
}

// partOf tells by the command line which part of a lab a process is.
func partOf(argv []string) string {
	if len(argv) == 0 {
		return partOther
	}
	switch filepath.Base(argv[0]) {
	case "swtpm":
		return partTPM
	case "keylime_agent":
		return partAgent
	}
	for _, a := range argv {
		switch filepath.Base(a) {
		case "keylime_registrar":
			return partRegistrar
		case "keylime_verifier":
			return partVerifier
		case "enroll.py":
			return partTenant
		}
	}
	if strings.Contains(argv[0], "tpm") {
		return partTPM // the simulator's child process
	}
	return partOther
}

// perNode is what the supervisor grows by for each further node: its Go agent, its TPM's resource manager, its share of network,
// ingress and DNS. 0 when both have the same number of nodes.
func perNode(few, many *memory) float64 {
	if few.nodes == many.nodes {
		return 0
	}
	return (many.sum(partSupervisor) - few.sum(partSupervisor)) / float64(many.nodes-few.nodes)
}

// memorySection compares a lab of one node with one of many.
func memorySection(one, many *memory) Section {
	s := Section{Title: "memory (PSS)"}
	tpm := distribution("each TPM process", "MiB", many.parts[partTPM])
	agent := perNode(one, many)
	s.add(
		tpm,
		repeated("supervisor, growth for each node", "MiB", []float64{agent}).note("Go agent, resource manager, ingress"),
		repeated("one more node", "MiB", []float64{agent + tpm.Summary.Mean}).note("Go agent and TPM"),
		repeated("supervisor, 1 node", "MiB", []float64{one.sum(partSupervisor)}),
		repeated(countOf("supervisor", many.nodes), "MiB", []float64{many.sum(partSupervisor)}),
	)
	for _, part := range []string{partRegistrar, partVerifier, partTenant, partOther} {
		if len(many.parts[part]) > 0 {
			s.add(repeated(countOf(part, many.nodes), "MiB", []float64{many.sum(part)}).note("%d processes", len(many.parts[part])))
		}
	}
	total := 0.0
	for part := range many.parts {
		total += many.sum(part)
	}
	s.add(repeated(countOf("the whole lab", many.nodes), "MiB", []float64{total}))
	s.say("The benchmark itself is the same program as the supervisor, so the supervisor's share of the program text is smaller than it is alone.")
	return s
}
