package spec

import (
	"crypto/sha256"
	"fmt"
	"reflect"
)

// IMATemplate is the form of the entries of an IMA measurement list.
type IMATemplate string

// The templates, as the kernel's option ima_template= names them.
const (
	IMATemplateNG  IMATemplate = "ima-ng"
	IMATemplateSig IMATemplate = "ima-sig"
)

// IMA describes what the nodes' kernels measure, and what the runtime policy allows.
type IMA struct {
	// The nodes measure files into PCR 10, and the verifier checks their lists by a runtime policy.
	Enabled *bool `yaml:"enabled,omitempty" jsonschema:"default=false"`
	// The template of the measurement list: `ima-ng`, digest and path, or `ima-sig`, with a field for the file's signature, which is empty at boot. The runtime policy then also
	// has the lab's key for signatures: it trusts a file that `keylab ima NODE add --sign lab` has signed, whatever its digest.
	Template IMATemplate `yaml:"template,omitempty" jsonschema:"enum=ima-ng,enum=ima-sig,default=ima-ng"`
	// The files that the runtime policy allows. Left out: those of a small system, of which /usr/bin/curl is not measured at boot.
	Files []IMAFile `yaml:"files,omitempty" jsonschema:"maxItems=2000"`
}

// NodeIMA is what one node sets differently from the lab's [IMA].
type NodeIMA IMA

// IMAFile is one file that may be measured.
type IMAFile struct {
	// The file's path on the node.
	Path string `yaml:"path" jsonschema:"required,maxLength=4095,pattern=^/[ -~]*$"`
	// The digest of its content. Left out: one that follows from the path, the same on all nodes.
	Digest string `yaml:"digest,omitempty" jsonschema:"pattern=^sha256:[0-9a-f]{64}$,maxLength=71"`
	// The file is measured when the node boots. One that is not is allowed all the same: `keylab ima NODE add` measures it.
	AtBoot *bool `yaml:"atBoot,omitempty" jsonschema:"default=true"`
}

// BootPolicy is the policy by which Keylime's verifier judges boot logs.
type BootPolicy string

// The policies, by Keylime's names.
const (
	BootPolicyExample   BootPolicy = "example"
	BootPolicyAcceptAll BootPolicy = "accept-all"
)

// MeasuredBoot describes what the nodes' firmware measures, and how the verifier judges it.
type MeasuredBoot struct {
	// The nodes measure their boot into PCRs 0 to 9 and 14, and the verifier checks their logs.
	Enabled *bool `yaml:"enabled,omitempty" jsonschema:"default=false"`
	// The verifier's policy, which is the same for all nodes: `example` compares a log with the node's reference state, `accept-all` takes
	// every log that explains the PCRs.
	Policy BootPolicy `yaml:"policy,omitempty" jsonschema:"enum=example,enum=accept-all,default=example"`
	// The version of the nodes' firmware.
	FirmwareVersion string `yaml:"firmwareVersion,omitempty" jsonschema:"default=2.1.0,maxLength=64,pattern=^[ -~]+$"`
	// Secure Boot is on.
	SecureBoot *bool `yaml:"secureBoot,omitempty" jsonschema:"default=true"`
	// The kernel's command line, without the kernel's path.
	CommandLine string `yaml:"commandLine,omitempty" jsonschema:"default=root=LABEL=root ro quiet ima_policy=tcb,maxLength=2048,pattern=^[ -~]+$"`
}

// NodeMeasuredBoot is what one node sets differently from the lab's [MeasuredBoot].
type NodeMeasuredBoot struct {
	// As in measuredBoot.
	Enabled *bool `yaml:"enabled,omitempty"`
	// As in measuredBoot.
	FirmwareVersion string `yaml:"firmwareVersion,omitempty" jsonschema:"maxLength=64,pattern=^[ -~]+$"`
	// As in measuredBoot.
	SecureBoot *bool `yaml:"secureBoot,omitempty"`
	// As in measuredBoot.
	CommandLine string `yaml:"commandLine,omitempty" jsonschema:"maxLength=2048,pattern=^[ -~]+$"`
}

// On tells whether the node measures files. Defaults are set.
func (i IMA) On() bool { return i.Enabled != nil && *i.Enabled }

// On tells whether the node measures its boot. Defaults are set.
func (m MeasuredBoot) On() bool { return m.Enabled != nil && *m.Enabled }

// smallSystem are the files of a node of which the specification says nothing.
var smallSystem = []string{"/usr/lib/systemd/systemd", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/bash", "/usr/bin/keylime_agent", "/usr/sbin/sshd"}

// smallSystemLater is allowed too, but not measured at boot.
const smallSystemLater = "/usr/bin/curl"

// effective puts a node's own values over the lab's, and gives every file its digest.
func (i IMA) effective(own NodeIMA) IMA {
	overlay(reflect.ValueOf(&i).Elem(), reflect.ValueOf(IMA(own)))
	files := i.Files
	if files == nil {
		later := false
		for _, path := range smallSystem {
			files = append(files, IMAFile{Path: path})
		}
		files = append(files, IMAFile{Path: smallSystemLater, AtBoot: &later})
	}
	i.Files = nil
	for _, f := range files {
		fillIn(reflect.ValueOf(&f).Elem())
		if f.Digest == "" {
			f.Digest = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("keylab file: "+f.Path)))
		}
		i.Files = append(i.Files, f)
	}
	return i
}

// effective puts a node's own values over the lab's.
func (m MeasuredBoot) effective(own NodeMeasuredBoot) MeasuredBoot {
	overlay(reflect.ValueOf(&m).Elem(), reflect.ValueOf(MeasuredBoot{
		Enabled: own.Enabled, FirmwareVersion: own.FirmwareVersion, SecureBoot: own.SecureBoot, CommandLine: own.CommandLine,
	}))
	return m
}

// measurements checks what is said of IMA and measured boot.
func (c *checker) measurements() {
	c.imaFiles(c.spec.IMA.Files, "ima.files")
	for i, n := range c.spec.Nodes.List {
		c.imaFiles(n.IMA.Files, fmt.Sprintf("nodes[%d].ima.files", i))
	}
}

// imaFiles finds files that are listed twice with the same digest: the kernel measures a file again only when it has changed.
func (c *checker) imaFiles(files []IMAFile, where string) {
	first := map[IMAFile]int{}
	for i, f := range files {
		key := IMAFile{Path: f.Path, Digest: f.Digest}
		if j, twice := first[key]; twice {
			c.found = append(c.found, finding{
				path: fmt.Sprintf("%s[%d].path", where, i), message: fmt.Sprintf("%s with this digest is %s[%d] too", quote(f.Path), where, j),
				other: fmt.Sprintf("%s[%d].path", where, j),
			})
			continue
		}
		first[key] = i
	}
}
