package rotate

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/manifests"
)

// certStore is where Keylime's tenant looks for the certificates of EK CAs, by its own default (tpm_cert_store).
const certStore = "/var/lib/keylime/tpm_cert_store"

// Where commands are run.
const (
	whereMaker  = "TPM maker"
	whereTenant = "tenant's host"
)

// runbook writes the commands that an operator would run. Files are named after the CA and the nodes.
type runbook struct {
	plan      plan.Plan
	name      string // of the new CA
	algorithm string // of its keys
	config    ekca.Config
	// first are the nodes whose step writes OpenSSL's configuration for EK certificates, by its content; the others use the same.
	first map[string]string
}

func newRunbook(p plan.Plan, first authority.CA, name, algorithm string, pending []*node) runbook {
	b := runbook{plan: p, name: name, algorithm: algorithm, config: first.Config(), first: map[string]string{}}
	for _, n := range pending {
		_, _, usage := endorsement(n)
		if config, _ := extensions(n, usage); b.first[config] == "" {
			b.first[config] = n.name
		}
	}
	if algorithm == "" {
		b.algorithm = p.EKCA.Algorithm
	}
	return b
}

// newKey is OpenSSL's option for a key of the new CA.
func (b runbook) newKey() string {
	switch ekca.KeyAlgorithm(b.algorithm) {
	case ekca.RSA3072:
		return "-newkey rsa:3072"
	case ekca.ECCP256:
		return "-newkey ec -pkeyopt ec_paramgen_curve:P-256"
	case ekca.ECCP384:
		return "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384"
	}
	return "-newkey rsa:2048"
}

// issuing is the stem of the files of the new CA's issuing level: the root's, where the root issues.
func (b runbook) issuing() string {
	if b.config.Intermediates == 0 {
		return b.name + "-root"
	}
	return b.name + "-issuing"
}

func (b runbook) newCA() Command {
	subject := func(cn string) string { return shellQuote("/O=" + b.config.Organization + "/CN=" + cn) }
	root := b.name + "-root"
	lines := []string{fmt.Sprintf("openssl req -x509 %s -noenc -keyout %s.key -out %s.pem -days 3650 -subj %s -addext keyUsage=critical,keyCertSign,cRLSign",
		b.newKey(), root, root, subject(b.config.RootName+" "+b.name))}
	if b.config.Intermediates > 0 {
		i := b.issuing()
		lines = append(lines,
			fmt.Sprintf("openssl req %s -noenc -keyout %s.key -out %s.csr -subj %s", b.newKey(), i, i, subject(b.config.IntermediateName+" "+b.name)),
			writeLines("ca.cnf", "basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign,cRLSign"),
			fmt.Sprintf("openssl x509 -req -in %s.csr -CA %s.pem -CAkey %s.key -days 3650 -extfile ca.cnf -out %s.pem", i, root, root, i))
	}
	return Command{Where: whereMaker, What: "make the new EK CA " + b.name, Run: lines}
}

func (b runbook) trust() Command {
	files := b.name + "-root.pem"
	if b.config.Intermediates > 0 {
		files = b.issuing() + ".pem " + files
	}
	return Command{Where: whereTenant, What: "trust " + b.name, Run: []string{"install -m 0644 " + files + " " + certStore + "/"}}
}

func (b runbook) activate() Command {
	return Command{Where: whereMaker, What: "have " + b.name + " issue for new TPMs", Run: []string{"# buy TPMs of " + b.name + " from now on"}}
}

func (b runbook) distrust(ca string) Command {
	return Command{Where: whereTenant, What: "distrust " + ca, Run: []string{"rm " + certStore + "/" + ca + "-*.pem"}}
}

func (b runbook) look() Command {
	return Command{Where: whereTenant, What: "see whom the verifier still trusts", Run: []string{"keylime_tenant -c bulkinfo"}}
}

// endorsement is the NV index of the EK's certificate (TCG EK Credential Profile, section 2.2.1), the handle at which keylab's TPMs keep the EK, and the
// key usage of its certificate.
func endorsement(n *node) (nvIndex, persistent, usage string) {
	if n.plan.TPM.EKAlgorithm == string(spec.EKECCP256) {
		return "0x01c0000a", "0x81010002", "keyAgreement"
	}
	return "0x01c00002", "0x81010001", "keyEncipherment"
}

func (b runbook) issue(n *node) Command {
	index, handle, usage := endorsement(n)
	i, file := b.issuing(), n.name+"-ek"
	lines := []string{"tpm2_readpublic -c " + handle + " -f pem -o " + file + ".pem   # on " + n.name}
	config, content := extensions(n, usage)
	if b.first[config] == n.name {
		lines = append(lines, writeLines(config, content...))
	}
	lines = append(lines,
		fmt.Sprintf("openssl x509 -new -force_pubkey %s.pem -subj / -CA %s.pem -CAkey %s.key -days 3650 -extfile %s -outform der -out %s.der", file, i, i, config, file),
		"tpm2_nvundefine -C p "+index+"   # on "+n.name+"; the platform hierarchy is the firmware's: on most machines this is an update by their maker",
		fmt.Sprintf("tpm2_nvdefine -C p -s $(stat -c %%s %s.der) -a 'ppwrite|writedefine|ppread|ownerread|authread|no_da|platformcreate' %s", file, index),
		fmt.Sprintf("tpm2_nvwrite -C p -i %s.der %s", file, index),
	)
	return Command{Where: whereMaker + " and " + n.name, What: "give the EK of " + n.name + " a certificate of " + b.name, Node: n.name, Run: lines}
}

func (b runbook) forget(n *node) Command {
	return Command{Where: whereTenant, What: "have verifier and registrar forget " + n.name, Node: n.name, Run: []string{
		"keylime_tenant -c delete -u " + n.uuid,
		"keylime_tenant -c regdelete -u " + n.uuid,
	}}
}

func (b runbook) restart(n *node) Command {
	c := Command{Where: n.name, What: "start the agent of " + n.name + " again, which then registers", Node: n.name}
	switch {
	case b.plan.Kubernetes != nil:
		c.Where = "Kubernetes"
		c.Run = []string{fmt.Sprintf("kubectl -n %s delete pod -l %s=%s", b.plan.Kubernetes.AgentNamespace, manifests.LabelNode, n.name)}
	case b.plan.Keylime.Push():
		c.Run = []string{"systemctl restart keylime_push_model_agent"}
	default:
		c.Run = []string{"systemctl restart keylime_agent"}
	}
	return c
}

func (b runbook) enrol(n *node) Command {
	c := Command{Where: whereTenant, What: "enrol " + n.name + ", and wait for its first attestation", Node: n.name}
	add := "keylime_tenant -c add -u " + n.uuid
	if b.plan.Keylime.Push() {
		c.Run = append(c.Run, fmt.Sprintf("openssl verify -partial_chain -trusted %s/%s.pem %s-ek.der   # Keylime checks no EK certificate in the push model", certStore, b.issuing(), n.name))
		add += " --push-model"
	}
	if n.plan.Payload != nil || n.plan.IMA != nil || n.plan.MeasuredBoot != nil || b.plan.Keylime.Push() {
		add += "   # with the policies and the payload that it was added with before"
	}
	c.Run = append(c.Run, add, "keylime_tenant -c status -u "+n.uuid+"   # until attestation_count is more than 0")
	return c
}

// extensions are the name and the content of OpenSSL's configuration of an EK certificate's extensions. Nodes with TPMs of one model have the same.
func extensions(n *node, usage string) (file string, lines []string) {
	lines = []string{
		"basicConstraints=critical,CA:FALSE", "keyUsage=critical," + usage, "extendedKeyUsage=2.23.133.8.1", "subjectAltName=critical,dirName:tpm",
		// The leading "1." is no part of the object identifiers: OpenSSL takes what is before the first dot for a number of the line.
		"[tpm]", "1.2.23.133.2.1=" + n.plan.TPM.Manufacturer, "1.2.23.133.2.2=" + n.plan.TPM.Model, "1.2.23.133.2.3=" + n.plan.TPM.Version,
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return fmt.Sprintf("ek-%x.cnf", sum[:3]), lines
}

// writeLines is a command that writes lines into a file.
func writeLines(file string, lines ...string) string {
	command := "printf '%s\\n'"
	for _, line := range lines {
		command += " " + shellQuote(line)
	}
	return command + " > " + file
}

// shellQuote quotes a word for a shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
