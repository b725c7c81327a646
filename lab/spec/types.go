package spec

import (
	"net/netip"
	"time"
)

// The identity of this format. A change that would give an existing file another meaning gets a new version.
const (
	APIVersion = "keylab/v1alpha1"
	Kind       = "Lab"
)

// MaxNodes is the largest number of nodes in one lab.
const MaxNodes = 500

// The struct tags read by this package and by the schema generator:
//
//	yaml:"name"                  the field's name in the file
//	jsonschema:"enum=a,enum=b"   the values that are allowed, of a string
//	jsonschema:"default=x"       the fixed default, put in by SetDefaults
//	jsonschema:"minimum=1"       the range of a number; of a Duration too, as in minimum=100ms
//	jsonschema:"pattern=^x$"     a regular expression that a string must match (no commas), and maxLength=N
//	jsonschema:"content"         a text of any lines, which no message repeats

// Spec describes one lab.
type Spec struct {
	// The version of this format.
	APIVersion string `yaml:"apiVersion" jsonschema:"required,enum=keylab/v1alpha1"`
	// What the document describes.
	Kind string `yaml:"kind" jsonschema:"required,enum=Lab"`
	// The lab's name: a DNS label. It names the lab on the command line and is part of the agents' domain.
	Name string `yaml:"name,omitempty" jsonschema:"default=keylab,maxLength=32,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
	// What the lab is built from: `netns`, Linux namespaces in one process tree, or `kind`, a Kubernetes cluster in Docker.
	Substrate Substrate `yaml:"substrate,omitempty" jsonschema:"enum=netns,enum=kind,default=netns"`
	// The nodes: how many (all alike, named node-1, node-2, ...), or a list that names them and sets what is special about each.
	Nodes Nodes `yaml:"nodes"`
	// The simulated TPMs of all nodes.
	TPM TPM `yaml:"tpm,omitempty"`
	// The fake endorsement key (EK) CA that issues the nodes' EK certificates.
	EKCA EKCA `yaml:"ekCA,omitempty"`
	// The two networks, and what may pass between them.
	Networks Networks `yaml:"networks"`
	// The Keylime services.
	Keylime Keylime `yaml:"keylime,omitempty"`
	// The Keylime agents of all nodes.
	Agent Agent `yaml:"agent,omitempty"`
	// What the nodes' kernels measure: IMA. Not for the substrate `kind` yet.
	IMA IMA `yaml:"ima,omitempty"`
	// What the nodes' firmware measures: measured boot. Not for the substrate `kind` yet.
	MeasuredBoot MeasuredBoot `yaml:"measuredBoot,omitempty"`
	// What Keylime delivers, encrypted, to every node whose first quote was good. Left out: nothing.
	Payload Payload `yaml:"payload,omitempty"`
	// The Kubernetes cluster; for the substrate `kind` only.
	Kubernetes Kubernetes `yaml:"kubernetes,omitempty"`
	// The way from the load balancer's address to the agents; for the substrate `kind` only.
	Ingress Ingress `yaml:"ingress,omitempty"`
	// The container images; for the substrate `kind` only.
	Images Images `yaml:"images,omitempty"`
	// How long keylab waits.
	Timeouts Timeouts `yaml:"timeouts,omitempty"`
}

// Nodes is a number of like nodes, or a list of them. When List is not nil it counts, and Count is ignored.
type Nodes struct {
	Count int    // 1 to MaxNodes
	List  []Node // 1 to MaxNodes nodes
}

// Node is one machine with its own TPM and its own Keylime agent. What it does not set is as the lab has it for all nodes.
type Node struct {
	// The node's name: a DNS label, unique in the lab, and no name of the lab's own (registrar, verifier, tenant, dns, ingress,
	// router, services, cluster, and so on). Left out: node-1, node-2, ... by its place in the list.
	Name string `yaml:"name,omitempty" jsonschema:"maxLength=63,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
	// What is special about this node's TPM.
	TPM NodeTPM `yaml:"tpm,omitempty"`
	// What is special about this node's EK certificate.
	EK NodeEK `yaml:"ek,omitempty"`
	// What is special about this node's agent.
	Agent NodeAgent `yaml:"agent,omitempty"`
	// What is special about the files that this node measures.
	IMA NodeIMA `yaml:"ima,omitempty"`
	// What is special about this node's measured boot.
	MeasuredBoot NodeMeasuredBoot `yaml:"measuredBoot,omitempty"`
	// What this node gets in place of the lab's payload.
	Payload NodePayload `yaml:"payload,omitempty"`
	// Labels of the node's Kubernetes object; for the substrate `kind` only. Not those that Kubernetes or keylab give by themselves.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Files and folders of this machine that the node sees; for the substrate `kind` only.
	Mounts []Mount `yaml:"mounts,omitempty" jsonschema:"maxItems=50"`
}

// Mount is a file or folder of this machine that a node sees.
type Mount struct {
	// Its path on this machine: absolute, or relative to this file.
	HostPath string `yaml:"hostPath" jsonschema:"required,maxLength=4096"`
	// Its path on the node.
	ContainerPath string `yaml:"containerPath" jsonschema:"required,maxLength=4096,pattern=^/"`
	// The node may not write to it.
	ReadOnly bool `yaml:"readOnly,omitempty"`
}

// TPM describes simulated TPMs.
type TPM struct {
	// The program that simulates the TPM: `swtpm`, `simulator` (built in), or `auto`, which takes swtpm where it is installed.
	Backend Backend `yaml:"backend,omitempty" jsonschema:"enum=auto,enum=swtpm,enum=simulator,default=swtpm"`
	// The EK's algorithm: TCG EK Credential Profile template L-1 (`rsa2048`) or L-2 (`ecc-p256`).
	EKAlgorithm EKAlgorithm `yaml:"ekAlgorithm,omitempty" jsonschema:"enum=rsa2048,enum=ecc-p256,default=rsa2048"`
	// Makes the TPMs' keys repeatable: the same seed gives a node of the same name the same EK. Empty: random keys. Never a secret.
	Seed string `yaml:"seed,omitempty" jsonschema:"maxLength=256"`
	// The TPM's maker in the EK certificate: one to four characters of the TCG Vendor ID Registry's kind, or id: and eight
	// hexadecimal digits ("IBM" is id:49424D00). The default is nobody's.
	Manufacturer string `yaml:"manufacturer,omitempty" jsonschema:"default=KLAB,pattern=^(id:[0-9A-Fa-f]{8}|[ -~]{1\\,4})$"`
	// The TPM's model in the EK certificate.
	Model string `yaml:"model,omitempty" jsonschema:"default=keylab-vtpm,maxLength=64,pattern=^[ -~]+$"`
	// The TPM's firmware version in the EK certificate: major.minor, each up to 65535, or id: and eight hexadecimal digits
	// ("7.2" is id:00070002).
	FirmwareVersion string `yaml:"firmwareVersion,omitempty" jsonschema:"default=1.0,pattern=^(id:[0-9A-Fa-f]{8}|[0-9]{1\\,5}[.][0-9]{1\\,5})$"`
}

// NodeTPM is what one node sets differently from the lab's [TPM]. The seed of a node is taken as it stands; a node that
// has none derives its own from the lab's seed and its name.
type NodeTPM TPM

// NodeEK says what is wrong, on purpose, with one node's EK certificate. Left out, nothing is.
type NodeEK struct {
	// Who issued the certificate: `lab`, the lab's EK CA, or `stranger`, a CA of the same make that the lab does not trust.
	Issuer Issuer `yaml:"issuer,omitempty" jsonschema:"enum=lab,enum=stranger,default=lab"`
	// Whether the TPM holds an EK certificate at all: `present` or `absent`.
	Certificate Certificate `yaml:"certificate,omitempty" jsonschema:"enum=present,enum=absent,default=present"`
	// The certificate has expired before the lab starts.
	Expired bool `yaml:"expired,omitempty"`
	// The certificate's last moment, in place of ekCA.ekValidity: a date, or a time as in RFC 3339.
	NotAfter time.Time `yaml:"notAfter,omitempty"`
}

// EKCA describes the fake EK CA: a root and the levels below it, the last of which issues the EK certificates.
type EKCA struct {
	// The algorithm of the CA's keys.
	Algorithm CAAlgorithm `yaml:"algorithm,omitempty" jsonschema:"enum=rsa2048,enum=rsa3072,enum=ecc-p256,enum=ecc-p384,default=rsa2048"`
	// How many CAs stand between the root and the EK certificates. With 0 the root issues them.
	Intermediates *int `yaml:"intermediates,omitempty" jsonschema:"minimum=0,maximum=4,default=1"`
	// How long the CA certificates are valid.
	Validity Duration `yaml:"validity,omitempty" jsonschema:"minimum=1h,maximum=100y,default=10y"`
	// How long the EK certificates are valid; not longer than the CA. Left out: 10 years, or as long as the CA.
	EKValidity Duration `yaml:"ekValidity,omitempty" jsonschema:"minimum=1m,maximum=100y"`
	// The organization in the CA certificates.
	Organization string `yaml:"organization,omitempty" jsonschema:"default=keylab fake TPM maker,maxLength=64"`
	// The root's common name.
	RootName string `yaml:"rootName,omitempty" jsonschema:"default=keylab EK Root CA,maxLength=60"`
	// The intermediate CA's common name; where there are several, their number follows it.
	IntermediateName string `yaml:"intermediateName,omitempty" jsonschema:"default=keylab EK Intermediate CA,maxLength=60"`
	// The CRL distribution point in the EK certificates, an http or https URL. Nobody has to serve it. Left out: none.
	CRLURL string `yaml:"crlURL,omitempty" jsonschema:"pattern=^https?://[!-~]+$,maxLength=512"`
	// The caIssuers address (authority information access) in the EK certificates, an http or https URL. Left out: none.
	AIAURL string `yaml:"aiaURL,omitempty" jsonschema:"pattern=^https?://[!-~]+$,maxLength=512"`
}

// Networks describes the services network, the cluster network, and the router's allow-list between them.
type Networks struct {
	// The network of the registrar, the verifier, the tenant and the DNS server.
	Services Network `yaml:"services"`
	// The network of the nodes and the ingress.
	Cluster ClusterNetwork `yaml:"cluster"`
	// The domain of the agents' names, which are `<first 32 digits of the UUID>.<the rest>.<domain>`. Left out: agents.NAME.test.
	Domain string `yaml:"domain,omitempty" jsonschema:"maxLength=187,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"`
	// Flows that the router lets pass besides the lab's own (cluster to registrar, services to ingress:443).
	Allow []Flow `yaml:"allow,omitempty" jsonschema:"maxItems=200"`
	// Allows networks outside of 198.18.0.0/15, the range set apart for labs (RFC 2544), which clashes with nobody's VPN.
	AllowOtherRanges bool `yaml:"allowOtherRanges,omitempty"`
}

// Network is the services network.
type Network struct {
	// The network's IPv4 addresses, a /26 or larger. Left out: 198.18.10.0/24.
	CIDR netip.Prefix `yaml:"cidr"`
}

// ClusterNetwork is the nodes' network.
type ClusterNetwork struct {
	// The network's IPv4 addresses, a /26 or larger. Left out: 198.18.20.0/24, or 198.18.20.0/22 for more than 242 nodes (63 for the substrate `kind`).
	CIDR netip.Prefix `yaml:"cidr"`
	// The ingress' address. Left out: address number 200 of the network, or the last one of a network smaller than that.
	LoadBalancer netip.Addr `yaml:"loadBalancer"`
}

// Flow is one kind of connection that the router lets pass, from the side that opens it.
type Flow struct {
	// The flow's name, by which its counter is found: lower-case letters, digits and inner hyphens, beginning with a letter;
	// unique, and none of the router's own counters. Left out: allow-1, allow-2, ... by its place in the list.
	Name string `yaml:"name,omitempty" jsonschema:"maxLength=63,pattern=^[a-z]([a-z0-9-]*[a-z0-9])?$"`
	// Who opens the connection: services, cluster, registrar, verifier, tenant, dns, ingress, or a node's name.
	From string `yaml:"from" jsonschema:"required,maxLength=63"`
	// To whom: services, cluster, registrar, verifier, ingress, or a node's name.
	To string `yaml:"to" jsonschema:"required,maxLength=63"`
	// The protocol.
	Protocol Protocol `yaml:"protocol,omitempty" jsonschema:"enum=tcp,enum=udp,enum=icmp,default=tcp"`
	// The port at the receiving side; for tcp and udp only, and needed there.
	Port int `yaml:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
}

// Keylime describes the Keylime services: the registrar, the verifier and the tenant.
type Keylime struct {
	// The version from PyPI; docs/keylime.md says what the older ones lack.
	Version string `yaml:"version,omitempty" jsonschema:"default=7.14.3"`
	// Who opens the connections: in `pull` mode the verifier polls the agents, in `push` mode the agents send the verifier their evidence.
	Mode Mode `yaml:"mode,omitempty" jsonschema:"enum=pull,enum=push,default=pull"`
	// The tenant refuses an agent whose EK certificate it cannot check.
	RequireEKCert *bool `yaml:"requireEKCert,omitempty" jsonschema:"default=true"`
	// The time between two quotes of one agent.
	QuoteInterval Duration `yaml:"quoteInterval,omitempty" jsonschema:"minimum=100ms,maximum=1d,default=2s"`
	// The verifier's worker processes.
	VerifierWorkers int `yaml:"verifierWorkers,omitempty" jsonschema:"minimum=1,maximum=64,default=1"`
	// The registrar's worker processes.
	RegistrarWorkers int `yaml:"registrarWorkers,omitempty" jsonschema:"minimum=1,maximum=64,default=1"`
	// Whom the verifier tells of an agent that it no longer trusts. Left out: nobody.
	Revocation Revocation `yaml:"revocation,omitempty"`
	// Options for Keylime's own configuration files, as `component: {option: value}`; a component is registrar, verifier, tenant,
	// ca or logging. They are put in last.
	Options map[string]map[string]string `yaml:"options,omitempty"`
}

// Agent describes Keylime agents.
type Agent struct {
	// The agent's kind: `go`, the one built into keylab; `binary`, a program such as rust-keylime's keylime_agent; or, for the
	// substrate `kind`, `image`, a container image such as the official agent's.
	Kind AgentKind `yaml:"kind,omitempty" jsonschema:"enum=go,enum=binary,enum=image,default=go"`
	// The agent's program, for the kind `binary`: an absolute path, or one relative to this file.
	Path string `yaml:"path,omitempty" jsonschema:"maxLength=4096"`
	// The agent's container image, for the kind `image`.
	Image string `yaml:"image,omitempty" jsonschema:"maxLength=512"`
	// The agent's UUID: `hash_ek`, the SHA-256 of the EK (as Keylime computes it), `generate`, a random one, or, for one
	// node, a given UUID.
	UUID string `yaml:"uuid,omitempty" jsonschema:"default=hash_ek,pattern=^(hash_ek|generate|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"`
	// The signing scheme of the attestation key (AK). `rsapss` is known, and refused: no Keylime can check it. docs/keylime.md has what goes together.
	AKAlgorithm AKAlgorithm `yaml:"akAlgorithm,omitempty" jsonschema:"enum=rsassa,enum=ecdsa,enum=rsapss,default=rsassa"`
	// The hash algorithm of the AK's signatures, and the PCR bank that is quoted.
	HashAlgorithm HashAlgorithm `yaml:"hashAlgorithm,omitempty" jsonschema:"enum=sha256,enum=sha384,enum=sha512,enum=sha1,default=sha256"`
	// The TCP port on which the agent listens, on its node.
	Port int `yaml:"port,omitempty" jsonschema:"minimum=1,maximum=65535,default=9002"`
}

// NodeAgent is what one node sets differently from the lab's [Agent].
type NodeAgent Agent

// Timeouts says how long keylab waits.
type Timeouts struct {
	// How long `up` waits until every part of the lab answers. For the substrate `kind` it is 10m unless set.
	Ready Duration `yaml:"ready,omitempty" jsonschema:"minimum=1s,maximum=1d,default=2m"`
}

// Kubernetes describes the cluster of the substrate kind.
type Kubernetes struct {
	// The version of Kubernetes. Left out: v1.34.3.
	Version string `yaml:"version,omitempty" jsonschema:"maxLength=32,pattern=^v[0-9]+[.][0-9]+[.][0-9]+$"`
	// The pods' IPv4 addresses, a /16 to /22. Left out: 198.19.0.0/16.
	PodCIDR netip.Prefix `yaml:"podCIDR"`
	// The IPv4 addresses of Kubernetes' services, a /16 to /24. Left out: 198.18.96.0/20.
	ServiceCIDR netip.Prefix `yaml:"serviceCIDR"`
}

// Ingress describes what brings a TLS connection to the agent whose hostname it names.
type Ingress struct {
	// The class of the Ingress objects. `keylab` is keylab's own, HAProxy; with any other, bring the controller yourself: it must pass TLS
	// through by SNI and answer on the load balancer's address. Left out: keylab.
	Class string `yaml:"class,omitempty" jsonschema:"maxLength=63,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
}

// Images describes where container images come from.
type Images struct {
	// Where from: `registry`, the official images; `local`, images that keylab builds from Debian packages, PyPI and Go modules; or `auto`,
	// the registry where it answers. Left out: auto.
	Source ImageSource `yaml:"source,omitempty" jsonschema:"enum=auto,enum=registry,enum=local"`
	// A mirror to take the official images from, such as 127.0.0.1:5000: it stands in place of their registries.
	Registry string `yaml:"registry,omitempty" jsonschema:"maxLength=255,pattern=^[a-z0-9.:/-]+$"`
}
