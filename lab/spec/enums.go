package spec

// Substrate is what a lab is built from.
type Substrate string

// The substrates.
const (
	SubstrateNetns Substrate = "netns"
	SubstrateKind  Substrate = "kind"
)

// Backend is a program that simulates a TPM.
type Backend string

// The TPM backends.
const (
	BackendAuto      Backend = "auto"
	BackendSWTPM     Backend = "swtpm"
	BackendSimulator Backend = "simulator"
)

// EKAlgorithm is the algorithm of an endorsement key.
type EKAlgorithm string

// The EK algorithms, by the templates of the TCG EK Credential Profile for TPM Family 2.0, annex B.3.
const (
	EKRSA2048 EKAlgorithm = "rsa2048"  // template L-1
	EKECCP256 EKAlgorithm = "ecc-p256" // template L-2
)

// CAAlgorithm is the algorithm of a CA's key.
type CAAlgorithm string

// The CA algorithms.
const (
	CARSA2048 CAAlgorithm = "rsa2048"
	CARSA3072 CAAlgorithm = "rsa3072"
	CAECCP256 CAAlgorithm = "ecc-p256"
	CAECCP384 CAAlgorithm = "ecc-p384"
)

// Issuer is the CA that issued an EK certificate.
type Issuer string

// The issuers.
const (
	IssuerLab      Issuer = "lab"
	IssuerStranger Issuer = "stranger"
)

// Certificate says whether a TPM holds an EK certificate.
type Certificate string

// With and without an EK certificate.
const (
	CertificatePresent Certificate = "present"
	CertificateAbsent  Certificate = "absent"
)

// Protocol is what a flow carries.
type Protocol string

// The protocols.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	ICMP Protocol = "icmp"
)

// Mode says who opens the connections for an attestation.
type Mode string

// The modes.
const (
	ModePull Mode = "pull"
	ModePush Mode = "push"
)

// AgentKind is a kind of Keylime agent.
type AgentKind string

// The agent kinds.
const (
	AgentGo     AgentKind = "go"
	AgentBinary AgentKind = "binary"
	AgentImage  AgentKind = "image"
)

// ImageSource is where container images come from.
type ImageSource string

// The sources of images.
const (
	ImagesAuto     ImageSource = "auto"
	ImagesRegistry ImageSource = "registry"
	ImagesLocal    ImageSource = "local"
)

// IngressKeylab is the class of keylab's own ingress controller.
const IngressKeylab = "keylab"

// AKAlgorithm is the signing scheme of an attestation key.
type AKAlgorithm string

// The AK algorithms, by Keylime's names.
const (
	AKRSASSA AKAlgorithm = "rsassa" // an RSA-2048 key
	AKRSAPSS AKAlgorithm = "rsapss" // an RSA-2048 key; refused, with the reason
	AKECDSA  AKAlgorithm = "ecdsa"  // a P-256 key
)

// HashAlgorithm is what an agent's AK signs by, and the PCR bank that it quotes.
type HashAlgorithm string

// The hash algorithms, by Keylime's names.
const (
	HashSHA1   HashAlgorithm = "sha1"
	HashSHA256 HashAlgorithm = "sha256"
	HashSHA384 HashAlgorithm = "sha384"
	HashSHA512 HashAlgorithm = "sha512"
)

// The words with a meaning of their own for Agent.UUID.
const (
	UUIDHashEK   = "hash_ek"
	UUIDGenerate = "generate"
)

// The names that Flow.From and Flow.To know beside the nodes' names, and that no node may have.
const (
	HostServices  = "services" // every host of the services network
	HostCluster   = "cluster"  // every host of the cluster network
	HostRegistrar = "registrar"
	HostVerifier  = "verifier"
	HostTenant    = "tenant"
	HostDNS       = "dns"
	HostIngress   = "ingress"
	HostRouter    = "router" // nothing flows to or from it
)
