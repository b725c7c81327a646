package main

import (
	"fmt"
	"strings"

	"github.com/invopop/jsonschema"
)

const intro = `# The lab file

<!-- Made from the types in lab/spec by "go generate ./lab/spec"; changes here are lost. -->

A lab is described by one YAML document. Everything but the first two lines has a default, so this is a whole lab:

` + "```yaml" + `
apiVersion: keylab/v1alpha1
kind: Lab
` + "```" + `

Reading is strict. A field that is not in this reference, a value that is not allowed, or values that do not go together are errors, and all of them are reported at once, each with
its place:

` + "```" + `
lab.yaml:7:12: nodes[1].tpm.ekAlgorithm: "rsa4096" is not one of rsa2048, ecc-p256
` + "```" + `

- A **duration** is written with its units, the largest first: ` + "`500ms`, `2s`, `1h30m`, `90d`, `10y`, `1y6h`" + `. A day is 24 hours, a year 365 days.
- A text that looks like a number, a truth value or a date needs quotes: ` + "`firmwareVersion: \"7.2\"`" + `.
- Anchors, aliases and merge keys (` + "`<<`" + `) are understood. A file has at most 1 MiB and one document.
- The JSON Schema for editors is lab/spec/schema.json. The examples folder has files to begin with.

`

// sections are the parts of the reference, in order: the path, and the definition's name in the schema.
var sections = []struct{ path, def string }{
	{"", ""}, {"nodes[]", "Node"}, {"nodes[].tpm", "NodeTPM"}, {"nodes[].ek", "NodeEK"}, {"nodes[].agent", "NodeAgent"}, {"nodes[].ima", "NodeIMA"},
	{"nodes[].measuredBoot", "NodeMeasuredBoot"}, {"nodes[].payload", "NodePayload"}, {"nodes[].mounts[]", "Mount"},
	{"tpm", "TPM"}, {"ekCA", "EKCA"}, {"networks", "Networks"}, {"networks.services", "Network"}, {"networks.cluster", "ClusterNetwork"},
	{"networks.allow[]", "Flow"}, {"keylime", "Keylime"}, {"keylime.revocation", "Revocation"}, {"keylime.revocation.actions[]", "RevocationAction"}, {"agent", "Agent"}, {"ima", "IMA"}, {"ima.files[]", "IMAFile"},
	{"measuredBoot", "MeasuredBoot"}, {"payload", "Payload"}, {"kubernetes", "Kubernetes"},
	{"ingress", "Ingress"}, {"images", "Images"}, {"timeouts", "Timeouts"},
}

// markdown returns the reference.
func markdown(root *jsonschema.Schema) string {
	var b strings.Builder
	b.WriteString(intro)
	for _, s := range sections {
		def := root
		if s.def != "" {
			def = root.Definitions[s.def]
			fmt.Fprintf(&b, "## %s\n\n", s.path)
		} else {
			b.WriteString("## The document\n\n")
		}
		if s.def == "NodeTPM" || s.def == "NodeAgent" || s.def == "NodeIMA" {
			shared := strings.ToLower(strings.TrimPrefix(s.def, "Node"))
			fmt.Fprintf(&b, "The fields are those of [%s](#%s). What is left out is as it says there, for all nodes.\n\n", shared, shared)
			continue
		}
		if s.def == "NodeMeasuredBoot" {
			b.WriteString("The fields are those of [measuredBoot](#measuredboot) but for the policy. What is left out is as it says there, for all nodes.\n\n")
			continue
		}
		b.WriteString("| field | value | default | meaning |\n|---|---|---|---|\n")
		each(def, func(name string, p *jsonschema.Schema) {
			required := contains(def.Required, name)
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, cell(value(p)), cell(fallback(p, required)), cell(p.Description))
		})
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// cell escapes what would end a table's cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// fallback says what a field is when it is left out.
func fallback(p *jsonschema.Schema, required bool) string {
	switch {
	case required:
		return "needed"
	case p.Default != nil:
		return fmt.Sprintf("`%v`", p.Default)
	case p.Type == "boolean":
		return "`false`"
	}
	return ""
}

// anchors are the headings of the definitions that a property can refer to.
var anchors = map[string]string{
	"TPM": "tpm", "EKCA": "ekca", "Networks": "networks", "Keylime": "keylime", "Agent": "agent", "Timeouts": "timeouts",
	"Kubernetes": "kubernetes", "Ingress": "ingress", "Images": "images",
	"NodeTPM": "nodestpm", "NodeEK": "nodesek", "NodeAgent": "nodesagent", "Network": "networksservices", "ClusterNetwork": "networkscluster",
	"Payload": "payload", "NodePayload": "nodespayload", "Revocation": "keylimerevocation", "RevocationAction": "keylimerevocationactions",
	"Flow": "networksallow", "Mount": "nodesmounts",
	"IMA": "ima", "NodeIMA": "nodesima", "IMAFile": "imafiles", "MeasuredBoot": "measuredboot", "NodeMeasuredBoot": "nodesmeasuredboot",
}

// value says what may stand in a field.
func value(p *jsonschema.Schema) string {
	switch {
	case len(p.Enum) > 0:
		var words []string
		for _, e := range p.Enum {
			words = append(words, fmt.Sprintf("`%v`", e))
		}
		return strings.Join(words, ", ")
	case p.Ref != "":
		name := p.Ref[strings.LastIndexByte(p.Ref, '/')+1:]
		return fmt.Sprintf("[fields](#%s)", anchors[name])
	case len(p.OneOf) > 0:
		return fmt.Sprintf("%s to %s, or a [list](#nodes)", p.OneOf[0].Minimum, p.OneOf[0].Maximum)
	case p.Type == "integer":
		return fmt.Sprintf("%s to %s", p.Minimum, p.Maximum)
	case p.Type == "boolean":
		return "`true`, `false`"
	case p.Type == "array":
		name := ""
		if p.Items != nil {
			name = p.Items.Ref[strings.LastIndexByte(p.Items.Ref, '/')+1:]
		}
		return fmt.Sprintf("[list](#%s)", anchors[name])
	case p.Type == "object":
		return "mapping"
	case strings.Contains(p.Pattern, "(ns|us|"):
		return "duration"
	case strings.Contains(p.Pattern, "/[0-9]+$"):
		return "IPv4 network"
	case p.Format == "ipv4":
		return "IPv4 address"
	case strings.HasPrefix(p.Pattern, "^[0-9]{4}-"):
		return "date or time"
	case p.MaxLength != nil:
		return fmt.Sprintf("text, up to %d characters", *p.MaxLength)
	}
	return "text"
}
