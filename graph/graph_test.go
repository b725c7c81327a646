package graph_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/graph"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

const header = "apiVersion: keylab/v1alpha1\nkind: Lab\n"

func planOf(t *testing.T, yaml string) plan.Plan {
	t.Helper()
	s, err := spec.Decode("lab.yaml", []byte(header+yaml))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// statusOf is a running lab in which all is well.
func statusOf(p plan.Plan) *control.Status {
	s := &control.Status{Lab: p.Lab, State: control.Running}
	for _, c := range []string{plan.Registrar, plan.Verifier, plan.DNS, plan.Ingress, plan.Router} {
		s.Components = append(s.Components, control.Component{Name: c, State: "running"})
	}
	for _, n := range p.Nodes {
		s.Nodes = append(s.Nodes, control.Node{Name: n.Name, Address: n.Address.String(), State: "attested", AttestationCount: 16})
	}
	return s
}

// strange has a node of every kind.
const strange = `
name: strange
nodes:
  - name: sound
  - name: stranger
    ek: {issuer: stranger}
  - name: bare
    ek: {certificate: absent}
  - name: late
    ek: {expired: true}
  - name: curve
    tpm: {ekAlgorithm: ecc-p256}
networks:
  allow:
    - {name: metrics, from: services, to: sound, protocol: tcp, port: 9100}
    - {from: cluster, to: services, protocol: icmp}
`

// graphs are labs of every kind.
func graphs(t *testing.T) map[string]graph.Graph {
	t.Helper()
	live := planOf(t, strange)
	status := statusOf(live)
	status.State = control.Degraded
	status.Components[1] = control.Component{Name: plan.Verifier, State: "dead", Detail: "exit status 1"}
	for i, state := range []string{"attested", "refused", "refused", "failed", "enrolled"} {
		status.Nodes[i].State = state
	}
	fleet := planOf(t, "name: fleet\nnodes: 500\nkeylime: {mode: push}\n")
	fleetStatus := statusOf(fleet)
	for _, i := range []int{7, 8, 300} {
		fleetStatus.Nodes[i].State = "failed"
	}
	fleetStatus.Nodes[40].State = "enrolled"
	return map[string]graph.Graph{
		"default": graph.Of(planOf(t, ""), nil), "strange": graph.Of(planOf(t, strange), nil), "live": graph.Of(live, status),
		"fleet": graph.Of(fleet, fleetStatus), "kind": graph.Of(planOf(t, "name: k\nsubstrate: kind\nnodes: 2\n"), nil),
	}
}

var writers = map[string]func(graph.Graph, io.Writer) error{"svg": graph.Graph.SVG, "mmd": graph.Graph.Mermaid, "dot": graph.Graph.DOT}

func TestGolden(t *testing.T) {
	for name, g := range graphs(t) {
		for form, write := range writers {
			var got bytes.Buffer
			if err := write(g, &got); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+"."+form)
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (go test ./graph -update writes it anew; -want +got):\n%s", path, diff)
			}
		}
	}
}

// lab.svg in docs is the picture of the default lab.
func TestPictureOfTheREADME(t *testing.T) {
	var got bytes.Buffer
	if err := graph.Of(planOf(t, ""), nil).SVG(&got); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "docs", "lab.svg")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s is not the picture of the default lab: run make docs", path)
	}
}

// What the graph of a plan says of each node's EK, and of the flows.
func TestOf(t *testing.T) {
	g := graphs(t)["live"]
	type seen struct{ CA, Note, State string }
	got := map[string]seen{}
	for _, n := range g.Nodes {
		got[n.Name] = seen{n.CA, n.Note, n.State}
	}
	want := map[string]seen{
		"sound": {graph.LabCA, "", "attested"}, "stranger": {graph.StrangerCA, "not trusted", "refused"}, "bare": {"", "no EK certificate", "refused"},
		"late": {graph.LabCA, "expired", "failed"}, "curve": {graph.LabCA, "", "enrolled"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	var flows []string
	for _, f := range g.Flows {
		flows = append(flows, fmt.Sprintf("%s → %s %s %v", f.From, f.To, f.Label(), f.Extra))
	}
	if diff := cmp.Diff([]string{"cluster → registrar tcp 8890, 8891 false", "services → ingress tcp 443 false", "services → sound tcp 9100 true", "cluster → services icmp true"}, flows); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	if len(g.CAs) != 2 || !g.CAs[0].Trusted || g.CAs[1].Trusted {
		t.Errorf("CAs: %+v", g.CAs)
	}
	if g.Hosts[1].State != "dead" || g.State != string(control.Degraded) {
		t.Errorf("the verifier is %+v in a lab that is %s", g.Hosts[1], g.State)
	}
}

// After a rotation the graph shows who certified what now, and not what was planned.
func TestCertify(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2030, 1, n, 0, 0, 0, 0, time.UTC) }
	ek := func(node, ca string, issued int) report.Certificate {
		return report.Certificate{Subject: node, Kind: "EK", CA: ca, Issued: day(issued), NotAfter: day(30)}
	}
	ca := func(name string, trusted bool) report.Certificate {
		return report.Certificate{Subject: "root of " + name, Kind: "root", CA: name, Trusted: trusted}
	}
	revoked := ek("late", "ca-1", 1)
	revoked.Revoked = day(4)
	expired := ek("curve", "ca-2", 3)
	expired.NotAfter = day(2)
	g := graph.Of(planOf(t, strange), nil)
	g.Certify([]report.Certificate{
		ca("ca-1", false), ek("sound", "ca-1", 1), revoked, ek("curve", "ca-1", 1), ca("ca-2", true), ek("sound", "ca-2", 2), expired, ca("stranger", false), ek("stranger", "stranger", 1),
	})
	var got []string
	for _, c := range g.CAs {
		got = append(got, fmt.Sprint(c.Name, " ", c.Trusted))
	}
	for _, n := range g.Nodes {
		got = append(got, n.Name+": "+n.CA+", "+n.Note)
	}
	want := []string{
		"EK CA ca-1 false", "EK CA ca-2 true", "stranger's CA false",
		"sound: EK CA ca-2, ", "stranger: stranger's CA, not trusted", "bare: , no EK certificate", "late: EK CA ca-1, revoked", "curve: EK CA ca-2, expired",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A lab as it was planned looks the same.
	planned, made := graph.Of(planOf(t, ""), nil), graph.Of(planOf(t, ""), nil)
	made.Certify([]report.Certificate{ca("ca-1", true), ek("node-1", "ca-1", 1), ek("node-2", "ca-1", 1), ek("node-3", "ca-1", 1)})
	made.CAs[0].Chain = planned.CAs[0].Chain
	if diff := cmp.Diff(planned, made); diff != "" {
		t.Errorf("a lab with the CA that it was made with (-planned +made):\n%s", diff)
	}
}

// On Kubernetes the nodes' addresses are not planned: a plan must not show guesses, and a running lab shows what they are.
func TestNoGuessedAddresses(t *testing.T) {
	p := planOf(t, "substrate: kind\nnodes: 1\n")
	if a := graph.Of(p, nil).Nodes[0].Address; a != "" {
		t.Errorf("the plan shows %s", a)
	}
	status := statusOf(p)
	status.Nodes[0].Address = "198.18.20.77"
	if a := graph.Of(p, status).Nodes[0].Address; a != "198.18.20.77" {
		t.Errorf("the running lab shows %q", a)
	}
}

// Five hundred nodes are a picture that one can look at, and those that are not well are in it.
func TestManyNodes(t *testing.T) {
	g := graphs(t)["fleet"]
	for form, write := range writers {
		var b bytes.Buffer
		if err := write(g, &b); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"496 nodes", "node-1 … node-500", "3 nodes", "node-8 … node-301", "node-41", "enrolled"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q", form, want)
			}
		}
		if b.Len() > 20_000 {
			t.Errorf("%s: %d bytes", form, b.Len())
		}
	}
}

// The SVG is XML, has no id that could clash in a page, loads nothing, and its style is about itself alone.
func TestSVGFitsIntoAPage(t *testing.T) {
	for name, g := range graphs(t) {
		var b bytes.Buffer
		if err := g.SVG(&b); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		d := xml.NewDecoder(strings.NewReader(text))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok {
				for _, a := range e.Attr {
					if a.Name.Local == "id" || a.Name.Local == "href" {
						t.Errorf("%s: <%s %s>", name, e.Name.Local, a.Name.Local)
					}
				}
			}
		}
		style := text[strings.Index(text, "<style>")+7 : strings.Index(text, "</style>")]
		for _, m := range regexp.MustCompile(`[^{},]*[{,]`).FindAllString(regexp.MustCompile(`\{[^{}]*\}`).ReplaceAllString(style, "{"), -1) {
			if s := strings.Trim(m, "{,\n "); s != "" && !strings.HasPrefix(s, ".keylab-graph") && !strings.HasPrefix(s, "@media") {
				t.Errorf("%s: the rule %q is about more than this picture", name, s)
			}
		}
	}
}

// Names that mean something to a language of graphs are text in each.
func TestNamesAreText(t *testing.T) {
	g := graphs(t)["default"]
	evil := `</text><script>alert(1)</script> "]; x --> y; # end \" %% ` + "\x1b\u202e"
	g.Lab, g.Nodes[0].Address, g.Nodes[0].State, g.Nodes[0].Name, g.Hosts[0].State = evil, evil, evil, evil, evil
	for form, write := range writers {
		var b bytes.Buffer
		if err := write(g, &b); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(b.String(), "\x1b\u202e") {
			t.Errorf("%s: control characters", form)
		}
		switch form {
		case "svg":
			if strings.Contains(b.String(), "<script") {
				t.Error("svg: a script")
			}
		case "mmd":
			if strings.Contains(b.String(), `"]; x`) || strings.Contains(b.String(), "<script") {
				t.Errorf("Mermaid: a name ends its label:\n%s", b.String())
			}
		case "dot":
			if regexp.MustCompile(`[^\\]"\]; x`).MatchString(b.String()) {
				t.Errorf("DOT: a name ends its label:\n%s", b.String())
			}
		}
	}
}

type brokenWriter struct{}

var errDiskFull = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errDiskFull }

func TestWriteErrorsAreReported(t *testing.T) {
	for form, write := range writers {
		if err := write(graphs(t)["default"], brokenWriter{}); !errors.Is(err, errDiskFull) {
			t.Errorf("%s: %v", form, err)
		}
	}
}
