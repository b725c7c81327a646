package verify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// Target is a running lab, as verify needs it.
type Target interface {
	Plan() plan.Plan
	Nodes() []Node
	// EKCAs are the lab's own EK CAs, in the order in which they were made.
	EKCAs() ([]authority.CA, error)
	// CertStore is the folder that the tenant takes its trusted EK CAs from.
	CertStore() string
	Registrar() *keylime.RegistrarClient
	Verifier() *keylime.VerifierClient
	// ClientTLS has a client certificate that Keylime's agents accept (cv_ca).
	ClientTLS() *tls.Config

	// Probe tries to reach an address from one of the lab's hosts.
	Probe(ctx context.Context, from, protocol string, to netip.AddrPort) netlab.ProbeResult
	// SharedSegment tells whether two hosts share a layer-2 segment, and by what evidence.
	SharedSegment(ctx context.Context, a, b string) (shared bool, evidence string, err error)
	// RouterCounters are the packets counted per rule and per kind of drop.
	RouterCounters(ctx context.Context) (map[string]uint64, error)
	// Ingress is what the ingress has counted so far.
	Ingress(ctx context.Context) (IngressCounts, error)
	// Resolve asks a host's own DNS server for the IPv4 addresses of a name.
	Resolve(ctx context.Context, from, name string) ([]netip.Addr, error)
	// Dial connects from one of the lab's hosts.
	Dial(ctx context.Context, from string, to netip.AddrPort) (net.Conn, error)
}

// HostGateway is a target in whose networks the machine itself has an address, so that it could be a way past the router.
type HostGateway interface {
	// ProbePast tries to reach an address from a host's network by way of the machine's own address in it.
	ProbePast(ctx context.Context, from string, to netip.AddrPort) (r netlab.ProbeResult, via netip.Addr, err error)
}

// IngressCounts are the connections that an ingress has seen.
type IngressCounts struct {
	Forwarded map[string]uint64 // by hostname
	Refused   uint64            // for the name that they asked for, or for want of one
}

// Node is what the lab itself knows of one node, without asking Keylime.
type Node struct {
	plan.Node
	UUID     string // as the lab expects it
	Hostname string // likewise
	// AgentCertificate is the one that the node's agent serves.
	AgentCertificate *x509.Certificate
	// Enrolled is what the tenant said; Err nil when it accepted the agent.
	Enrolled Enrolment
	// TPM reads the EK and its certificate out of the node's own TPM, now.
	TPM func(ctx context.Context) (TPMIdentity, error)
	// PCRs reads PCRs, SHA-256, out of the node's own TPM, now. nil where nodes measure nothing.
	PCRs func(ctx context.Context, pcrs ...int) (map[int][]byte, error)
	// IMAList reads the IMA list of the node's kernel, past its agent, now. nil where nodes measure nothing.
	IMAList func(ctx context.Context) (string, error)
	// Arrived is how many connections have reached the agent's port, from the node's own kernel.
	Arrived func() (uint64, error)
	// Served is how many quotes the node's agent gave for a nonce, from the agent's own record.
	Served func(nonce string) (int, error)
	// FindPayload is what was meant for the node, and what its agent has put into its memory.
	FindPayload func(ctx context.Context) (Payload, error)
	// Fault is set when the node's TPM or agent is known to be dead.
	Fault string
}

// Enrolment is the tenant's word on one agent.
type Enrolment struct {
	Done bool // the tenant was asked and answered
	OK   bool
	// EKChecked says that the tenant found a CA in its tpm_cert_store that issued the EK certificate.
	EKChecked bool
	// EKCheckedBy says who did, where that was not the tenant.
	EKCheckedBy string
	Message     string // Keylime's own
	At          time.Time
}

// TPMIdentity is what a TPM says of itself.
type TPMIdentity struct {
	EKPublic    []byte // TPM2B_PUBLIC
	EKSPKI      []byte // DER SubjectPublicKeyInfo
	Certificate []byte // DER, from NV; empty when there is none
}
