package netns

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// The receiver keeps what was posted, with its own judgement of the signature, whoever it is about, and no more than so many.
func TestReceive(t *testing.T) {
	s := &supervisor{log: slog.New(slog.DiscardHandler), dir: state.Dir{Path: t.TempDir()}}
	s.plan.Keylime.Revocation = &plan.Revocation{}
	s.nodes = []*node{{Node: plan.Node{Name: "a"}, uuid: "now", former: []string{"before"}}}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	post := func(method, body string) int {
		w := httptest.NewRecorder()
		fleet.NoticeHandler(s.notifier(), s.addNotice).ServeHTTP(w, httptest.NewRequest(method, "/revocations", strings.NewReader(body)))
		return w.Code
	}
	notice := func(message, signature string) string {
		body, err := json.Marshal(agent.Revocation{Message: message, Signature: signature})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	message := func(agent string) string {
		return fmt.Sprintf(`{"type":"revocation","agent_id":%q,"event_id":"e","severity_label":"critical"}`, agent)
	}
	sign := func(message string) string {
		sum := sha256.Sum256([]byte(message))
		signature, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: 222})
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(signature)
	}
	early := post("POST", notice(message("now"), sign(message("now"))))
	path := s.notifier()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
		t.Fatal(err)
	}
	codes := []int{early,
		post("POST", notice(message("before"), sign(message("before")))), post("POST", notice(message("now"), sign(message("before")))),
		post("POST", notice(message("other"), "")), post("POST", notice("no JSON", sign("no JSON"))),
	}
	if fmt.Sprint(codes) != "[200 200 200 200 200]" {
		t.Errorf("answers: %v", codes)
	}
	if c := post("POST", "no JSON"); c != 400 {
		t.Errorf("no JSON: %d", c)
	}
	if c := post("GET", notice("", "")); c != 400 {
		t.Errorf("GET: %d", c)
	}
	list, err := s.Notices(t.Context())
	if err != nil || len(list) != 5 {
		t.Fatalf("%d notices, %v: %+v", len(list), err, list)
	}
	for i, want := range []struct {
		node, agent, problem string
	}{
		{"a", "now", "there is no certificate to check the notice by"}, {"a", "before", ""}, {"a", "now", "the signature of the notice is not right"},
		{"", "other", "the notice is not signed"}, {"", "", "read the notice: "},
	} {
		n := list[i]
		if n.Receiver != "webhook" || n.Node != want.node || n.Agent != want.agent ||
			n.Signed != (want.problem == "") || !strings.HasPrefix(n.Problem, want.problem) ||
			want.agent != "" && (n.Type != "revocation" || n.Event != "e" || n.Severity != "critical") {
			t.Errorf("notice %d: %+v, want %+v", i, n, want)
		}
	}
	for range fleet.MaxNotices {
		post("POST", notice(message("last"), ""))
	}
	if list, _ := s.Notices(t.Context()); len(list) != fleet.MaxNotices || list[0].Agent != "last" {
		t.Errorf("%d notices are kept, the first about %s", len(list), list[0].Agent)
	}
}
