// Package plan works out everything about a lab before anything of it exists: names, addresses, MACs, routes, the
// router's rules, certificate subjects, TPM seeds, ports, and the steps of `up`.
//
// Make is a pure function: the same specification gives the same plan, on every machine and every substrate. A
// substrate carries a plan out and decides nothing that could stand here.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/netip"
	"strings"
	"time"

	"keylab.dev/keylab/lab/spec"
)

// Names of the networks and of the lab's own hosts.
const (
	Services = "services"
	Cluster  = "cluster"

	Router    = "router"
	Registrar = "registrar"
	Verifier  = "verifier"
	Tenant    = "tenant"
	DNS       = "dns"
	Ingress   = "ingress"
	// ClusterDNS is the same DNS service on the cluster network, so that no DNS flow needs to cross the router.
	ClusterDNS = "cluster-dns"
)

// Ports of the services, which are Keylime's defaults.
const (
	RegistrarPort    = 8890 // plain HTTP, for agents
	RegistrarTLSPort = 8891 // mTLS, for the tenant and verifier
	VerifierPort     = 8881 // mTLS
	IngressPort      = 443
)

// Plan is a whole lab, decided.
type Plan struct {
	Lab       string    `json:"lab" yaml:"lab"`
	Substrate string    `json:"substrate" yaml:"substrate"`
	Domain    string    `json:"domain" yaml:"domain"`
	Networks  []Network `json:"networks" yaml:"networks"`
	Hosts     []Host    `json:"hosts" yaml:"hosts"`
	Rules     []Rule    `json:"rules" yaml:"rules"`
	DNS       Zone      `json:"dns" yaml:"dns"`
	EKCA      EKCA      `json:"ek_ca" yaml:"ek_ca"`
	Keylime   Keylime   `json:"keylime" yaml:"keylime"`
	Nodes     []Node    `json:"nodes" yaml:"nodes"`
	// Kubernetes is the cluster of the substrate kind; nil for others.
	Kubernetes *Kubernetes `json:"kubernetes,omitempty" yaml:"kubernetes,omitempty"`
	Ready      Duration    `json:"ready_timeout" yaml:"ready_timeout"`
	Steps      []Step      `json:"steps" yaml:"steps"`
}

// Duration prints as 2s, not as a number of nanoseconds.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Network is one layer-2 segment.
type Network struct {
	Name   string       `json:"name" yaml:"name"`
	Prefix netip.Prefix `json:"prefix" yaml:"prefix"`
	// Pool is the part of the network out of which hosts get an address that the plan cannot fix; invalid: every address is planned.
	Pool netip.Prefix `json:"pool,omitzero" yaml:"pool,omitempty"`
}

// Kubernetes is the cluster of the substrate kind.
type Kubernetes struct {
	Cluster         string       `json:"cluster" yaml:"cluster"` // kind's name for it
	ControlPlane    string       `json:"control_plane" yaml:"control_plane"`
	Version         string       `json:"version" yaml:"version"`
	PodCIDR         netip.Prefix `json:"pod_cidr" yaml:"pod_cidr"`
	ServiceCIDR     netip.Prefix `json:"service_cidr" yaml:"service_cidr"`
	AgentNamespace  string       `json:"agent_namespace" yaml:"agent_namespace"`
	SystemNamespace string       `json:"system_namespace" yaml:"system_namespace"`
	IngressClass    string       `json:"ingress_class" yaml:"ingress_class"`
	ImageSource     string       `json:"image_source" yaml:"image_source"`
	ImageRegistry   string       `json:"image_registry,omitempty" yaml:"image_registry,omitempty"`
}

// Host is one machine of the lab with its network stack.
type Host struct {
	Name       string      `json:"name" yaml:"name"`
	Interfaces []Interface `json:"interfaces" yaml:"interfaces"`
	Routes     []Route     `json:"routes,omitempty" yaml:"routes,omitempty"`
	Forward    bool        `json:"forward,omitempty" yaml:"forward,omitempty"` // IPv4 forwarding: the router alone
	Resolver   netip.Addr  `json:"resolver" yaml:"resolver,omitempty"`         // in resolv.conf; invalid: none
	// Pooled says that the first interface's address is a guess: the substrate gives one out of the network's pool.
	Pooled bool `json:"pooled,omitempty" yaml:"pooled,omitempty"`
}

// Address is the host's first address.
func (h Host) Address() netip.Addr { return h.Interfaces[0].Address }

// Interface joins a host to a network.
type Interface struct {
	Name    string     `json:"name" yaml:"name"`
	Network string     `json:"network" yaml:"network"`
	Address netip.Addr `json:"address" yaml:"address"`
	MAC     string     `json:"mac" yaml:"mac"`
}

// Route is a route to a network by way of a host.
type Route struct {
	To  netip.Prefix `json:"to" yaml:"to"`
	Via netip.Addr   `json:"via" yaml:"via"`
}

// Rule is one kind of flow that the router lets pass, in the direction in which it is opened.
type Rule struct {
	Name     string       `json:"name" yaml:"name"`
	From     netip.Prefix `json:"from" yaml:"from"`
	To       netip.Prefix `json:"to" yaml:"to"`
	Protocol string       `json:"protocol" yaml:"protocol"`
	Port     uint16       `json:"port,omitempty" yaml:"port,omitempty"` // 0: any
	// Extra says that the specification asked for it (networks.allow): whether anything answers there is the user's affair.
	Extra bool `json:"extra,omitempty" yaml:"extra,omitempty"`
}

// Zone is what the lab's DNS servers answer.
type Zone struct {
	Domain   string                `json:"domain" yaml:"domain"`
	Wildcard netip.Addr            `json:"wildcard" yaml:"wildcard"` // for every name below Domain
	Records  map[string]netip.Addr `json:"records" yaml:"records"`   // the lab's hosts, <name>.<lab>.test
}

// EKCA describes the EK CA and the TPM maker's claims in its certificates.
type EKCA struct {
	Algorithm        string   `json:"algorithm" yaml:"algorithm"`
	Subjects         []string `json:"subjects" yaml:"subjects"` // RFC 4514, root first, issuing CA last
	Organization     string   `json:"organization" yaml:"organization"`
	RootName         string   `json:"root_name" yaml:"root_name"`
	IntermediateName string   `json:"intermediate_name" yaml:"intermediate_name"`
	Intermediates    int      `json:"intermediates" yaml:"intermediates"`
	Validity         Duration `json:"validity" yaml:"validity"`
	EKValidity       Duration `json:"ek_validity" yaml:"ek_validity"`
	CRLURL           string   `json:"crl_url,omitempty" yaml:"crl_url,omitempty"`
	AIAURL           string   `json:"aia_url,omitempty" yaml:"aia_url,omitempty"`
	Stranger         bool     `json:"stranger,omitempty" yaml:"stranger,omitempty"` // a second CA, which the lab does not trust, is needed
}

// Keylime describes the services.
type Keylime struct {
	Version          string                       `json:"version" yaml:"version"`
	Mode             string                       `json:"mode" yaml:"mode"`
	RequireEKCert    bool                         `json:"require_ek_cert" yaml:"require_ek_cert"`
	QuoteInterval    Duration                     `json:"quote_interval" yaml:"quote_interval"`
	VerifierWorkers  int                          `json:"verifier_workers" yaml:"verifier_workers"`
	RegistrarWorkers int                          `json:"registrar_workers" yaml:"registrar_workers"`
	Registrar        netip.AddrPort               `json:"registrar" yaml:"registrar"`
	RegistrarTLS     netip.AddrPort               `json:"registrar_tls" yaml:"registrar_tls"`
	Verifier         netip.AddrPort               `json:"verifier" yaml:"verifier"`
	Ingress          netip.AddrPort               `json:"ingress" yaml:"ingress"`
	Certificates     []Certificate                `json:"certificates" yaml:"certificates"`
	Revocation       *Revocation                  `json:"revocation,omitempty" yaml:"revocation,omitempty"` // nil: nobody is told
	Options          map[string]map[string]string `json:"options,omitempty" yaml:"options,omitempty"`
}

// Certificate is one of the services' mTLS certificates, all issued by the first, which Keylime calls cv_ca.
type Certificate struct {
	CommonName string       `json:"common_name" yaml:"common_name"`
	Names      []string     `json:"names,omitempty" yaml:"names,omitempty"`
	Addresses  []netip.Addr `json:"addresses,omitempty" yaml:"addresses,omitempty"`
}

// Node is one attested machine.
type Node struct {
	Name    string     `json:"name" yaml:"name"`
	Number  int        `json:"number" yaml:"number"` // from 1
	Address netip.Addr `json:"address" yaml:"address"`
	// KubernetesName is the name of the node's Kubernetes object and of its container, for the substrate kind.
	KubernetesName string            `json:"kubernetes_name,omitempty" yaml:"kubernetes_name,omitempty"`
	Labels         map[string]string `json:"labels,omitempty" yaml:"labels,omitempty"`
	Mounts         []Mount           `json:"mounts,omitempty" yaml:"mounts,omitempty"`
	// Hostname is the agent's contact address; the UUID in it is known once the TPM has its EK, unless it was given.
	Hostname string `json:"hostname" yaml:"hostname"`
	TPM      TPM    `json:"tpm" yaml:"tpm"`
	EK       EK     `json:"ek" yaml:"ek"`
	Agent    Agent  `json:"agent" yaml:"agent"`
	// What the node measures; nil: nothing.
	IMA          *IMA          `json:"ima,omitempty" yaml:"ima,omitempty"`
	MeasuredBoot *MeasuredBoot `json:"measured_boot,omitempty" yaml:"measured_boot,omitempty"`
	// Payload is what Keylime delivers to the agent; nil: nothing.
	Payload *Payload `json:"payload,omitempty" yaml:"payload,omitempty"`
}

// Mount is a file or folder of the machine that a node sees.
type Mount struct {
	HostPath      string `json:"host_path" yaml:"host_path"`
	ContainerPath string `json:"container_path" yaml:"container_path"`
	ReadOnly      bool   `json:"read_only,omitempty" yaml:"read_only,omitempty"`
}

// TPM is one node's TPM.
type TPM struct {
	Backend     string `json:"backend" yaml:"backend"`
	EKAlgorithm string `json:"ek_algorithm" yaml:"ek_algorithm"`
	Seed        string `json:"seed,omitempty" yaml:"seed,omitempty"` // hexadecimal, 32 bytes; empty: random
	// What the EK certificate's subject alternative name says of the TPM.
	Manufacturer string `json:"manufacturer" yaml:"manufacturer"`
	Model        string `json:"model" yaml:"model"`
	Version      string `json:"version" yaml:"version"`
}

// EK is what is special about one node's EK certificate.
type EK struct {
	Stranger bool       `json:"stranger,omitempty" yaml:"stranger,omitempty"`
	Absent   bool       `json:"absent,omitempty" yaml:"absent,omitempty"`
	Expired  bool       `json:"expired,omitempty" yaml:"expired,omitempty"`
	NotAfter *time.Time `json:"not_after,omitempty" yaml:"not_after,omitempty"`
}

// Agent is one node's agent.
type Agent struct {
	Kind        string `json:"kind" yaml:"kind"`
	Path        string `json:"path,omitempty" yaml:"path,omitempty"`
	Image       string `json:"image,omitempty" yaml:"image,omitempty"`
	UUID        string `json:"uuid" yaml:"uuid"`
	AKAlgorithm string `json:"ak_algorithm" yaml:"ak_algorithm"`
	// HashAlgorithm is that of the AK's signatures, and the PCR bank that is quoted; empty: sha256.
	HashAlgorithm string `json:"hash_algorithm,omitempty" yaml:"hash_algorithm,omitempty"`
	Port          uint16 `json:"port" yaml:"port"`
}

// RefusedOnPurpose tells whether the specification makes the tenant refuse this node, and why.
func (n Node) RefusedOnPurpose(requireEKCert bool) (string, bool) {
	switch {
	case !requireEKCert:
		return "", false
	case n.EK.Stranger:
		return "its EK certificate comes from a CA that the lab does not trust (ek.issuer: stranger)", true
	case n.EK.Absent:
		return "its TPM holds no EK certificate (ek.certificate: absent)", true
	}
	return "", false
}

// Step is one step of `up`, by name, and the steps that come before it.
type Step struct {
	Name  string   `json:"name" yaml:"name"`
	After []string `json:"after,omitempty" yaml:"after,omitempty"`
	About string   `json:"about" yaml:"about"`
}

// Certificate finds one of the services' certificates by its common name.
func (k Keylime) Certificate(commonName string) Certificate {
	for _, c := range k.Certificates {
		if c.CommonName == commonName {
			return c
		}
	}
	return Certificate{}
}

// Push tells whether agents send their evidence unasked, instead of being asked by the verifier.
func (k Keylime) Push() bool { return k.Mode == string(spec.ModePush) }

// HasIngress tells whether the lab has an ingress at all. In the push model nothing comes by it; on namespaces it stands there all the same, to show that
// the router lets nobody to it.
func (p Plan) HasIngress() bool { return p.Kubernetes == nil || !p.Keylime.Push() }

// OwnIngress tells whether the lab's ingress is keylab's own, which can be asked what it counted and looked into, and not a controller that the user brings.
func (p Plan) OwnIngress() bool {
	return p.HasIngress() && (p.Kubernetes == nil || p.Kubernetes.IngressClass == spec.IngressKeylab)
}

// Host finds a host by name.
func (p Plan) Host(name string) (Host, bool) {
	for _, h := range p.Hosts {
		if h.Name == name {
			return h, true
		}
	}
	return Host{}, false
}

// HostName is the DNS name of one of the lab's hosts.
func (p Plan) HostName(host string) string { return host + "." + p.Lab + ".test" }

// Node finds a node by name.
func (p Plan) Node(name string) (Node, bool) {
	for _, n := range p.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// NodeNames are the names of all nodes, for a message.
func (p Plan) NodeNames() string {
	names := make([]string, len(p.Nodes))
	for i, n := range p.Nodes {
		names[i] = n.Name
	}
	return strings.Join(names, ", ")
}

// Network finds a network by name.
func (p Plan) Network(name string) Network {
	for _, n := range p.Networks {
		if n.Name == name {
			return n
		}
	}
	return Network{}
}

// ContactHostname is the DNS name of the agent with that UUID: two labels, since a UUID made by hash_ek has 64
// digits and a label at most 63 (RFC 1035, section 2.3.4). A UUID shorter than that, with its hyphens, is one label.
func ContactHostname(uuid, domain string) string {
	if len(uuid) == 64 {
		return uuid[:32] + "." + uuid[32:] + "." + domain
	}
	return uuid + "." + domain
}

// RuleFor finds the rule that lets a connection from one address to another through the router.
func (p Plan) RuleFor(from netip.Addr, to netip.AddrPort, protocol string) (Rule, bool) {
	for _, r := range p.Rules {
		if r.Protocol == protocol && r.From.Contains(from) && r.To.Contains(to.Addr()) && (r.Port == 0 || r.Port == to.Port()) {
			return r, true
		}
	}
	return Rule{}, false
}

// Allows tells whether the router lets a connection from one address to another through.
func (p Plan) Allows(from netip.Addr, to netip.AddrPort, protocol string) bool {
	_, ok := p.RuleFor(from, to, protocol)
	return ok
}

// HashEK is the UUID policy hash_ek: the SHA-256, in hexadecimal, of the EK's SubjectPublicKeyInfo (DER) as PEM text, header
// and last newline included, as Keylime computes it.
func HashEK(spki []byte) string {
	sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	return hex.EncodeToString(sum[:])
}
