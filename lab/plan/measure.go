package plan

import (
	"maps"

	"keylab.dev/keylab/lab/spec"
)

// IMA is what one node's kernel measures.
type IMA struct {
	Template string    `json:"template" yaml:"template"`
	Files    []IMAFile `json:"files" yaml:"files"` // those that the runtime policy allows
	// Key is whose signatures of other files it trusts, a public key in DER. It is no part of a plan: it is made with the lab.
	Key []byte `json:"-" yaml:"-"`
}

// IMAFile is one file that may be measured.
type IMAFile struct {
	Path   string `json:"path" yaml:"path"`
	Digest string `json:"digest" yaml:"digest"`                   // sha256: and 64 hexadecimal digits
	Later  bool   `json:"later,omitempty" yaml:"later,omitempty"` // not at boot
}

// MeasuredBoot is what one node's firmware measures.
type MeasuredBoot struct {
	FirmwareVersion string `json:"firmware_version" yaml:"firmware_version"`
	SecureBoot      bool   `json:"secure_boot" yaml:"secure_boot"`
	CommandLine     string `json:"command_line" yaml:"command_line"`
}

// planMeasurements gives a node what it measures.
func planMeasurements(node *Node, n spec.EffectiveNode) {
	if n.IMA.On() {
		node.IMA = &IMA{Template: string(n.IMA.Template)}
		for _, f := range n.IMA.Files {
			node.IMA.Files = append(node.IMA.Files, IMAFile{Path: f.Path, Digest: f.Digest, Later: f.AtBoot != nil && !*f.AtBoot})
		}
	}
	if b := n.MeasuredBoot; b.On() {
		node.MeasuredBoot = &MeasuredBoot{FirmwareVersion: b.FirmwareVersion, SecureBoot: b.SecureBoot == nil || *b.SecureBoot, CommandLine: b.CommandLine}
	}
}

// measurementOptions puts what measured boot needs of the verifier under the user's own options.
func measurementOptions(options map[string]map[string]string, policy spec.BootPolicy) map[string]map[string]string {
	verifier := map[string]string{
		"measured_boot_policy_name": string(policy),
		// With Keylime's default, once, no boot after the first attestation is judged by the policy.
		"measured_boot_evaluate": "always",
	}
	maps.Copy(verifier, options["verifier"])
	out := maps.Clone(options)
	if out == nil {
		out = map[string]map[string]string{}
	}
	out["verifier"] = verifier
	return out
}

// MeasuresFiles tells whether any node does.
func (p Plan) MeasuresFiles() bool {
	for _, n := range p.Nodes {
		if n.IMA != nil {
			return true
		}
	}
	return false
}

// MeasuresBoot tells whether any node does.
func (p Plan) MeasuresBoot() bool {
	for _, n := range p.Nodes {
		if n.MeasuredBoot != nil {
			return true
		}
	}
	return false
}
