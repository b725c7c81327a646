package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Len returns the number of nodes.
func (n Nodes) Len() int {
	if n.List != nil {
		return len(n.List)
	}
	return n.Count
}

// All returns the nodes as a list, with their names, whichever way they were given.
func (n Nodes) All() []Node {
	all := make([]Node, max(0, n.Len()))
	copy(all, n.List)
	for i := range all {
		if all[i].Name == "" {
			all[i].Name = nodeName(i)
		}
	}
	return all
}

// With is the nodes and one more, which has a name. They stay a number as long as that says it all.
func (n Nodes) With(node Node) Nodes {
	if n.List == nil && reflect.DeepEqual(node, Node{Name: nodeName(n.Count)}) {
		return Nodes{Count: n.Count + 1}
	}
	return Nodes{List: append(n.All(), node)}
}

// nodeForm is that of a document that is one node.
var nodeForm = Form{Noun: "node", root: reflect.TypeFor[Node]()}

// DecodeNode reads one node, as it stands in a lab's list of nodes, as strictly as Decode reads a lab; its name may be left out. An error is an
// *InvalidError. What only a lab as a whole can tell, such as whether another node has its name, is for Validate of the lab with it.
func DecodeNode(name string, data []byte) (Node, error) {
	var n Node
	d := newDecoder(name, nodeForm)
	if root := d.parse(data); root != nil {
		d.value(root, reflect.ValueOf(&n).Elem(), "", rules{})
	}
	return n, invalid(d.problems)
}

// Without is the nodes but the one of that name.
func (n Nodes) Without(name string) Nodes {
	if n.List == nil && n.Count > 1 && name == nodeName(n.Count-1) {
		return Nodes{Count: n.Count - 1}
	}
	return Nodes{List: slices.DeleteFunc(n.All(), func(x Node) bool { return x.Name == name })}
}

// MarshalYAML gives the nodes back in the shape in which they came.
func (n Nodes) MarshalYAML() (any, error) {
	if n.List != nil {
		return n.List, nil
	}
	return n.Count, nil
}

// UnmarshalYAML reads a number or a list, as strictly as Decode does; an error is an *InvalidError.
func (n *Nodes) UnmarshalYAML(node *yaml.Node) error {
	d := newDecoder("", labForm)
	d.value(node, reflect.ValueOf(n).Elem(), "nodes", rules{})
	return invalid(d.problems)
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

// EffectiveNode is a node with everything that holds for it: the lab's values, and its own over them.
type EffectiveNode struct {
	Name  string
	TPM   TPM
	EK    NodeEK
	Agent Agent
	// IMA and MeasuredBoot hold for the node only if they are on.
	IMA          IMA
	MeasuredBoot MeasuredBoot
	// Payload is empty for a node that gets none. SharedPayload says that it is the lab's.
	Payload       Payload
	SharedPayload bool
	// Labels and Mounts are for the substrate kind.
	Labels map[string]string
	Mounts []Mount
}

// EffectiveNodes returns every node in full, with all defaults. The TPM's seed is the node's own, or else "<the lab's
// seed>/<the node's name>", or empty (random) when neither the lab nor the node has one: so no two nodes share an EK
// unless they are told to.
func (s Spec) EffectiveNodes() []EffectiveNode {
	s = s.clone()
	s.SetDefaults()
	nodes := s.Nodes.All()
	out := make([]EffectiveNode, len(nodes))
	for i, n := range nodes {
		e := EffectiveNode{Name: n.Name, TPM: s.TPM, EK: n.EK, Agent: s.Agent, Labels: n.Labels, Mounts: n.Mounts}
		overlay(reflect.ValueOf(&e.TPM).Elem(), reflect.ValueOf(TPM(n.TPM)))
		overlay(reflect.ValueOf(&e.Agent).Elem(), reflect.ValueOf(Agent(n.Agent)))
		if n.TPM.Seed == "" && s.TPM.Seed != "" {
			e.TPM.Seed = s.TPM.Seed + "/" + n.Name
		}
		if e.Agent.Kind != AgentBinary {
			e.Agent.Path = "" // the lab's path, for its other nodes
		}
		if e.Agent.Kind != AgentImage {
			e.Agent.Image = ""
		}
		fillIn(reflect.ValueOf(&e.EK).Elem())
		e.IMA, e.MeasuredBoot = s.IMA.effective(n.IMA), s.MeasuredBoot.effective(n.MeasuredBoot)
		e.Payload, e.SharedPayload = n.Payload.over(s.Payload)
		out[i] = e
	}
	return out
}

// overlay copies the fields of src that are set over those of dst, which is of the same type.
func overlay(dst, src reflect.Value) {
	for i := range src.NumField() {
		if f := src.Field(i); !f.IsZero() {
			dst.Field(i).Set(f)
		}
	}
}

// ManufacturerID returns the maker as the EK certificate holds it (TCG EK Credential Profile, tcg-at-tpmManufacturer):
// "id:" and eight upper-case hexadecimal digits. A name of fewer than four characters is padded with zero bytes, as in
// the TCG Vendor ID Registry. It is "" when Manufacturer is not valid.
func (t TPM) ManufacturerID() string {
	if hex, ok := strings.CutPrefix(t.Manufacturer, "id:"); ok && len(hex) == 8 {
		return "id:" + strings.ToUpper(hex)
	}
	if t.Manufacturer == "" || len(t.Manufacturer) > 4 {
		return ""
	}
	var id [4]byte
	copy(id[:], t.Manufacturer)
	return fmt.Sprintf("id:%X", id[:])
}

// FirmwareVersionID returns the firmware version as the EK certificate holds it (tcg-at-tpmVersion): "id:" and eight
// upper-case hexadecimal digits, of which the first four are the major and the last four the minor version. It is ""
// when FirmwareVersion is not valid.
func (t TPM) FirmwareVersionID() string {
	if hex, ok := strings.CutPrefix(t.FirmwareVersion, "id:"); ok && len(hex) == 8 {
		return "id:" + strings.ToUpper(hex)
	}
	major, minor, ok := strings.Cut(t.FirmwareVersion, ".")
	if !ok {
		return ""
	}
	ma, err := strconv.ParseUint(major, 10, 16)
	if err != nil {
		return ""
	}
	mi, err := strconv.ParseUint(minor, 10, 16)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("id:%04X%04X", ma, mi)
}
