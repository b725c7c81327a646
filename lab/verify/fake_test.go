package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/netlab"
)

// fake is a lab of which every answer can be bent. Untouched, all of it is in order, save that it has no agents.
type fake struct {
	plan  plan.Plan
	nodes []Node
	ca    *ekca.CA
	next  *ekca.CA // that has taken its place; nil: none has
	store string

	mu       sync.Mutex
	records  map[string]map[string]any // the registrar's, by UUID
	agents   map[string]map[string]any // the verifier's, by UUID
	frozen   bool                      // attestation counts do not rise
	counters map[string]uint64

	registrar, verifier *httptest.Server
	probe               func(f flow) netlab.Outcome // nil: as the plan allows
	uncounted           bool                        // the router sees nothing
	shared              func(a, b string) (bool, error)
	broken              error // of everything that asks the substrate
}

func newFake(t *testing.T) *fake {
	t.Helper()
	s := spec.Default()
	s.Nodes.Count = 2
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	config := ekca.DefaultConfig()
	config.Algorithm = ekca.ECCP256
	ca, err := ekca.Create(t.TempDir()+"/ca", config)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{plan: p, ca: ca, store: t.TempDir() + "/store", records: map[string]map[string]any{}, agents: map[string]map[string]any{}, counters: map[string]uint64{}}
	if _, err := ca.ExportStore(f.store); err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Nodes {
		f.nodes = append(f.nodes, f.newNode(t, n))
	}
	f.registrar = f.serve(t, func(uuid string) any {
		if uuid == "" {
			uuids := []string{}
			for u := range f.records {
				uuids = append(uuids, u)
			}
			return map[string]any{"uuids": uuids}
		}
		return orNil(f.records[uuid])
	})
	f.verifier = f.serve(t, func(uuid string) any {
		a := f.agents[uuid]
		if a != nil && !f.frozen {
			a["attestation_count"] = a["attestation_count"].(int) + 1
		}
		return orNil(a)
	})
	return f
}

func orNil(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

// others are the CAs beside the first.
func (f *fake) others() []authority.CA {
	if f.next == nil {
		return nil
	}
	return []authority.CA{{CA: f.next, Name: "ca-2", Active: true}}
}

// rotate puts another CA into the place of the first, at all nodes and in the store.
func (f *fake) rotate(t *testing.T) {
	t.Helper()
	config := f.ca.Config()
	config.RootName, config.IntermediateName = "another root", "another"
	var err error
	if f.next, err = ekca.Create(t.TempDir()+"/ca-2", config); err != nil {
		t.Fatal(err)
	}
	for i, n := range f.nodes {
		f.certify(t, i, f.next, n.Name, false)
	}
	_, err = f.next.ExportStore(f.store)
	if err = errors.Join(err, f.ca.WithdrawStore(f.store)); err != nil {
		t.Fatal(err)
	}
}

// newNode makes a node with an EK that a program holds, and its registration.
func (f *fake) newNode(t *testing.T, p plan.Node) Node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := f.ca.Issue(ekca.Request{Public: key.Public(), Label: p.Name})
	if err != nil {
		t.Fatal(err)
	}
	id := TPMIdentity{EKPublic: []byte("ek of " + p.Name), EKSPKI: cert.RawSubjectPublicKeyInfo, Certificate: cert.Raw}
	uuid := plan.HashEK(id.EKSPKI)
	hostname := plan.ContactHostname(uuid, f.plan.Domain)
	f.records[uuid] = map[string]any{
		"ek_tpm": b64(id.EKPublic), "aik_tpm": b64([]byte("ak of " + p.Name)), "ekcert": b64(cert.Raw), "ip": hostname, "port": plan.IngressPort,
	}
	f.agents[uuid] = map[string]any{"operational_state": int(keylime.GetQuote), "attestation_count": 1, "ip": hostname, "port": plan.IngressPort}
	return Node{
		Node: p, UUID: uuid, Hostname: hostname, Enrolled: Enrolment{Done: true, OK: true, EKChecked: true, At: time.Now().Add(time.Hour)},
		TPM:     func(context.Context) (TPMIdentity, error) { return id, nil },
		Arrived: func() (uint64, error) { return 0, nil },
		Served:  func(string) (int, error) { return 0, nil },

		FindPayload: func(context.Context) (Payload, error) { return Payload{}, errors.New("this node has no memory") },
	}
}

// deliver gives the lab a payload, which the first node has.
func (f *fake) deliver() {
	meant := Digest{SHA256: "abc", Size: 3}
	f.plan.Nodes[0].Payload, f.nodes[0].Payload = &plan.Payload{Name: "all"}, &plan.Payload{Name: "all"}
	f.holds(0, Payload{Meant: &meant, Found: &Digest{SHA256: "abc", Size: 3}, Tmpfs: true, Private: true})
	f.holds(1, Payload{})
}

// holds says what is on a node.
func (f *fake) holds(node int, p Payload) {
	f.nodes[node].FindPayload = func(context.Context) (Payload, error) { return p, nil }
}

// bendPayload changes what is on the first node.
func (f *fake) bendPayload(change func(*Payload)) {
	f.deliver()
	p, _ := f.nodes[0].FindPayload(context.Background())
	change(&p)
	f.holds(0, p)
}

func b64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

// serve is one of Keylime's services: an answer for each agent, or, without a UUID, for all.
func (f *fake) serve(t *testing.T, agent func(uuid string) any) *httptest.Server {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var results any = map[string]any{"current_version": "2.6", "supported_versions": []string{"2.6"}}
		if uuid, ok := strings.CutPrefix(r.URL.Path, "/v2.6/agents/"); ok {
			if results = agent(uuid); results == nil {
				w.WriteHeader(http.StatusNotFound)
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"code": 200, "status": "said the service", "results": results})
	}))
	t.Cleanup(s.Close)
	return s
}

func (f *fake) Plan() plan.Plan { return f.plan }
func (f *fake) Nodes() []Node   { return f.nodes }
func (f *fake) EKCAs() ([]authority.CA, error) {
	return append([]authority.CA{{CA: f.ca, Name: authority.First, Active: f.next == nil, Retired: f.next != nil}}, f.others()...), nil
}
func (f *fake) CertStore() string      { return f.store }
func (f *fake) ClientTLS() *tls.Config { return &tls.Config{} }

func (f *fake) Registrar() *keylime.RegistrarClient {
	return keylime.NewRegistrarClient(f.registrar.Listener.Addr().String(), trust(f.registrar), nil)
}

func (f *fake) Verifier() *keylime.VerifierClient {
	return keylime.NewVerifierClient(f.verifier.Listener.Addr().String(), trust(f.verifier), nil)
}

func trust(s *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool, ServerName: "example.com"}
}

func (f *fake) Probe(_ context.Context, from, protocol string, to netip.AddrPort) netlab.ProbeResult {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return netlab.ProbeResult{Outcome: netlab.OutcomeFailed, Err: f.broken}
	}
	probed := flow{from: from, address: to, protocol: protocol}
	source, _ := f.plan.Host(from)
	rule, allowed := f.plan.RuleFor(source.Address(), to, protocol)
	outcome := netlab.OutcomeTimeout
	if allowed {
		outcome = netlab.OutcomeOpen
	}
	if f.probe != nil {
		outcome = f.probe(probed)
	}
	if !f.uncounted {
		if allowed {
			f.counters[rule.Name]++
		} else {
			f.counters[(&verification{plan: f.plan}).direction(probed)]++
		}
	}
	return netlab.ProbeResult{Outcome: outcome, Err: errors.New("said the kernel")}
}

func (f *fake) SharedSegment(_ context.Context, a, b string) (bool, string, error) {
	if f.shared != nil {
		shared, err := f.shared(a, b)
		return shared, "evidence", err
	}
	x, _ := f.plan.Host(a)
	y, _ := f.plan.Host(b)
	return x.Interfaces[0].Network == y.Interfaces[0].Network, "evidence", f.broken
}

func (f *fake) RouterCounters(context.Context) (map[string]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	counters := map[string]uint64{}
	for name, n := range f.counters {
		counters[name] = n
	}
	return counters, f.broken
}

func (f *fake) Ingress(context.Context) (IngressCounts, error) {
	return IngressCounts{}, f.broken
}

func (f *fake) Resolve(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{f.plan.Keylime.Ingress.Addr()}, f.broken
}

func (f *fake) Dial(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("this lab has no agents")
}

// options let nothing wait long.
var options = Options{ProbeTimeout: time.Second, Liveness: 300 * time.Millisecond}

// bend changes what the TPM of a node says.
func (n *Node) bend(change func(*TPMIdentity)) {
	id, err := n.TPM(context.Background())
	id.EKPublic, id.EKSPKI, id.Certificate = bytes.Clone(id.EKPublic), bytes.Clone(id.EKSPKI), bytes.Clone(id.Certificate)
	change(&id)
	n.TPM = func(context.Context) (TPMIdentity, error) { return id, err }
}
