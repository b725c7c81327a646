package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"keylab.dev/keylab/lab/spec"
)

// effectiveNodes are the specification's nodes with the lab's values where they have none; addresses come later.
func effectiveNodes(s spec.Spec) []Node {
	var nodes []Node
	for _, n := range s.EffectiveNodes() {
		node := Node{
			Name: n.Name,
			TPM: TPM{
				Backend: string(n.TPM.Backend), EKAlgorithm: string(n.TPM.EKAlgorithm), Seed: seed(n.TPM.Seed),
				Manufacturer: n.TPM.ManufacturerID(), Model: n.TPM.Model, Version: n.TPM.FirmwareVersionID(),
			},
			EK: EK{
				Stranger: n.EK.Issuer == spec.IssuerStranger,
				Absent:   n.EK.Certificate == spec.CertificateAbsent,
				Expired:  n.EK.Expired,
			},
			Agent: Agent{
				Kind: string(n.Agent.Kind), Path: n.Agent.Path, Image: n.Agent.Image, UUID: n.Agent.UUID,
				AKAlgorithm: string(n.Agent.AKAlgorithm), Port: uint16(n.Agent.Port),
			},
		}
		if h := n.Agent.HashAlgorithm; h != spec.HashSHA256 {
			node.Agent.HashAlgorithm = string(h)
		}
		if !n.EK.NotAfter.IsZero() {
			node.EK.NotAfter = &n.EK.NotAfter
		}
		node.Payload = planPayload(n)
		node.Labels = n.Labels
		planMeasurements(&node, n)
		for _, m := range n.Mounts {
			node.Mounts = append(node.Mounts, Mount(m))
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// seed turns the specification's seed of one node, a text, into 32 bytes in hexadecimal.
func seed(text string) string {
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("keylab TPM seed: " + text))
	return hex.EncodeToString(sum[:])
}

func planEKCA(c spec.EKCA) EKCA {
	ca := EKCA{
		Algorithm: string(c.Algorithm), Organization: c.Organization,
		RootName: c.RootName, IntermediateName: c.IntermediateName,
		Validity: Duration(c.Validity), EKValidity: Duration(c.EKValidity),
		CRLURL: c.CRLURL, AIAURL: c.AIAURL, Intermediates: 1,
	}
	if c.Intermediates != nil {
		ca.Intermediates = *c.Intermediates
	}
	ca.Subjects = []string{"CN=" + c.RootName + ",O=" + c.Organization}
	for i := range ca.Intermediates {
		name := c.IntermediateName
		if ca.Intermediates > 1 {
			name += " " + strconv.Itoa(i+1)
		}
		ca.Subjects = append(ca.Subjects, "CN="+name+",O="+c.Organization)
	}
	return ca
}
