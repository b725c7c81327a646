package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/docker/docker/client"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/lab/verify"
)

// Lab is a lab of this substrate, whether it runs, is half made, or is gone but for its folder.
type Lab struct {
	planned plan.Plan
	dir     state.Dir
	docker  *client.Client
	program string // the keylab program that containers see, a path on this machine
	links   links

	cache        string // while it is brought up: folder of what can be made again
	imageArchive string // likewise: keylab's own image

	mu         sync.Mutex
	facts      facts
	cas        *authority.Set
	configured *keylime.Configured
	kube       *kube
}

// facts is what is known of a lab only since it was made; the lab's folder keeps it.
type facts struct {
	Images  images.Set `json:"images"`
	Program string     `json:"program"` // path of the keylab program that the lab was made with
	Image   string     `json:"image"`   // the image that holds it, in the cluster
	// BinaryImages are the images made of agents' programs, by path.
	BinaryImages map[string]string     `json:"binary_images,omitempty"`
	Addresses    map[string]netip.Addr `json:"addresses"`        // of the hosts that got one from Docker
	Ingress      netip.Addr            `json:"ingress,omitzero"` // of the load balancer, where it was moved
	Nodes        map[string]nodeFacts  `json:"nodes"`            // by name
	Ready        time.Time             `json:"ready,omitzero"`   // when `up` had finished; zero: it never did
	Started      time.Time             `json:"started,omitzero"` // when it began
}

type nodeFacts struct {
	UUID          string           `json:"uuid"`
	Hostname      string           `json:"hostname"`
	EKCertificate []byte           `json:"ek_certificate,omitempty"` // DER
	Registered    bool             `json:"registered,omitempty"`
	Enrolled      verify.Enrolment `json:"enrolled"`
	Former        []string         `json:"former,omitempty"`       // UUIDs of TPMs that were replaced, which the verifier may still know
	Killed        string           `json:"killed,omitempty"`       // the agent's container that was killed on purpose
	Unregistered  string           `json:"unregistered,omitempty"` // why its agent could not register, and has no pod
	Forgotten     bool             `json:"forgotten,omitempty"`    // registrar and verifier were told to forget it, and its agent has not registered since
}

func factsFile(dir state.Dir) string { return dir.Path + "/kind.json" }

// Open opens the lab of a folder. The error wraps fs.ErrNotExist when the folder holds no plan.
func Open(dir state.Dir) (*Lab, error) {
	p, err := readPlan(dir)
	if err != nil {
		return nil, err
	}
	l, err := newLab(dir, p)
	if err != nil {
		return nil, err
	}
	if l.facts, err = readFacts(dir); err != nil {
		return nil, err
	}
	l.program = l.facts.Program
	return l, nil
}

// readPlan is the plan in a lab's folder, with the nodes that the lab has now.
func readPlan(dir state.Dir) (plan.Plan, error) {
	var p plan.Plan
	data, err := os.ReadFile(dir.Plan())
	if err != nil {
		return p, fmt.Errorf("read the lab's plan: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("read the lab's plan %s: %w", dir.Plan(), err)
	}
	return p, nil
}

func newLab(dir state.Dir, p plan.Plan) (*Lab, error) {
	docker, err := NewClient()
	if err != nil {
		return nil, err
	}
	return &Lab{planned: p, dir: dir, docker: docker, links: links{open: map[string]*linkEntry{}}, facts: newFacts()}, nil
}

// Substrate is the substrate of the plan in the lab's folder, which may be another than this.
func (l *Lab) Substrate() string { return l.planned.Substrate }

// Close ends the sessions with the lab's containers. The lab goes on.
func (l *Lab) Close() error {
	l.closeLinks()
	return l.docker.Close()
}

// resource is the name of one of the lab's containers, networks and volumes.
func (l *Lab) resource(part string) string { return resource(l.planned.Lab, part) }

// plan is the lab's plan with the addresses that its hosts really got, and that the load balancer has now.
func (l *Lab) plan() plan.Plan {
	known := l.known()
	p := l.planned.WithAddresses(known.Addresses)
	if known.Ingress.IsValid() {
		p = p.WithIngress(known.Ingress)
	}
	return p
}

func (l *Lab) images() images.Set { return l.known().Images }

// known is what is known of the lab, not to be changed.
func (l *Lab) known() facts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.facts
}

// node is what is known of a node.
func (l *Lab) node(name string) nodeFacts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.facts.Nodes[name]
}

// learn changes what is known of the lab, and keeps it. Whatever another process has learnt since is known then too.
func (l *Lab) learn(change func(*facts)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	unlock, err := lockFile(context.Background(), factsFile(l.dir)+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	f, err := readFacts(l.dir)
	if err != nil {
		return err
	}
	change(&f)
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode what is known of the lab: %w", err)
	}
	if err := atomicfile.Write(factsFile(l.dir), append(data, '\n'), 0o600); err != nil {
		return err
	}
	l.facts = f
	return nil
}

// readFacts reads what the lab's folder says; of a lab that has not begun nothing is known.
func readFacts(dir state.Dir) (facts, error) {
	f := newFacts()
	data, err := os.ReadFile(factsFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return f, fmt.Errorf("read what is known of the lab, %s: %w", factsFile(dir), err)
	}
	return f, nil
}

func newFacts() facts {
	return facts{Addresses: map[string]netip.Addr{}, Nodes: map[string]nodeFacts{}, BinaryImages: map[string]string{}}
}

// learnNode changes what is known of a node.
func (l *Lab) learnNode(name string, change func(*nodeFacts)) error {
	return l.learn(func(f *facts) {
		n := f.Nodes[name]
		change(&n)
		f.Nodes[name] = n
	})
}

// inContainers is Keylime where the containers have it.
func (l *Lab) inContainers(onHost *keylime.Installation) *keylime.Installation {
	i := keylime.Installation{Version: l.planned.Keylime.Version}
	if onHost != nil {
		i = *onHost
	}
	i.Python, i.Scripts = "/opt/keylime/bin/python3", "/opt/keylime/bin"
	if l.images().Source == images.SourceRegistry { // the official images install it for the system's Python
		i.Python, i.Scripts = "/usr/bin/python3", "/usr/local/bin"
	}
	return &i
}

// keylime is the services' configuration.
func (l *Lab) keylime() (*keylime.Configured, error) {
	l.mu.Lock()
	c := l.configured
	l.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := fleet.Reopen(l.dir, l.planned, l.inContainers(nil))
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = c
	return c, nil
}

// authorities are the lab's EK CAs.
func (l *Lab) authorities() *authority.Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cas == nil {
		l.cas = authority.Open(l.dir, l.planned.EKCA)
	}
	return l.cas
}

// registrar and verifier are clients of the services, from where the tenant stands.
func (l *Lab) registrar() (*keylime.RegistrarClient, error) {
	c, err := l.keylime()
	if err != nil {
		return nil, err
	}
	return c.RegistrarClient(l.dialFrom(plan.Tenant)), nil
}

func (l *Lab) verifier() (*keylime.VerifierClient, error) {
	c, err := l.keylime()
	if err != nil {
		return nil, err
	}
	return c.VerifierClient(l.dialFrom(plan.Tenant)), nil
}

// verifierAgents are the verifier's agents, or why it does not say.
func (l *Lab) verifierAgents(ctx context.Context) (map[string]keylime.VerifierAgent, error) {
	v, err := l.verifier()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return v.Agents(ctx)
}
