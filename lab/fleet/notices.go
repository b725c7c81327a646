package fleet

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// MaxNotices is how many of the verifier's notices a lab keeps: the last ones.
const MaxNotices = 1000

// ErrNoNotices is about a lab whose verifier tells nobody.
var ErrNoNotices = errors.New("the verifier of this lab tells nobody: its specification has no keylime.revocation")

// Notices are the verifier's. The zero value is ready to use, by several goroutines at once.
type Notices struct {
	mu   sync.Mutex
	list []control.Notice
}

// Add keeps a notice, and forgets the oldest of too many.
func (n *Notices) Add(x control.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, x)
	if drop := len(n.list) - MaxNotices; drop > 0 {
		n.list = slices.Delete(n.list, 0, drop)
	}
}

// Acted notes how the actions of a notice ended, of which the receiver had the number; nothing, if it is forgotten.
func (n *Notices) Acted(receiver string, number uint64, runs []control.ActionRun) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := len(n.list) - 1; i >= 0; i-- { // an agent that was started again counts anew
		if x := &n.list[i]; x.Receiver == receiver && x.Number == number {
			x.Actions = runs
			return
		}
	}
}

// Actions says how actions ended, in words.
func Actions(runs []agent.ActionRun) []control.ActionRun {
	var out []control.ActionRun
	for _, r := range runs {
		x := control.ActionRun{Name: r.Action, OK: r.Problem == nil}
		if r.Problem != nil {
			x.Problem = r.Problem.Error()
		}
		out = append(out, x)
	}
	return out
}

// List is those that are kept, the oldest first.
func (n *Notices) List() []control.Notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]control.Notice{}, n.list...)
}

// Notice says what a receiver got, and whose signature it has checked. Which node it is about is for others to say.
func Notice(receiver string, received time.Time, r agent.Revocation) control.Notice {
	n := control.Notice{Received: received, Receiver: receiver, Signed: r.Problem == nil, Number: r.Number}
	if r.Problem != nil {
		n.Problem = r.Problem.Error()
	}
	if said, err := agent.ParseNotice(r.Message); err != nil {
		n.Signed, n.Problem = false, err.Error()
	} else {
		n.Agent, n.Type, n.Event, n.Severity = said.AgentID, said.Type, said.EventID, said.Severity
	}
	return n
}

// NoticeServer serves, on the tenant's host, what the verifier posts to a webhook. Only clients with a certificate of Keylime's authority can post.
// notifier is the certificate by which the verifier's word is checked: a file that the tenant makes with the first enrolment.
func NoticeServer(pki *keylime.PKI, lab string, address netip.Addr, notifier string, add func(control.Notice)) (*http.Server, error) {
	cert, err := pki.ServerCertificate("notices", []string{plan.Tenant + "." + lab + ".test"}, []net.IP{address.AsSlice()})
	if err != nil {
		return nil, err
	}
	return &http.Server{
		Handler: NoticeHandler(notifier, add), ReadTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientCAs: pki.ClientCAs(), ClientAuth: tls.RequireAndVerifyClientCert,
		},
	}, nil
}

// NoticeHandler takes notices: {"msg": "…", "signature": "…"} (keylime, revocation_notifier.notify_webhook).
func NoticeHandler(notifier string, add func(control.Notice)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n agent.Revocation
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&n); err != nil || r.Method != http.MethodPost {
			http.Error(w, fmt.Sprintf("post a notice as JSON: %v", err), http.StatusBadRequest)
			return
		}
		cert, err := agent.ReadNotifier(notifier)
		if err != nil {
			n.Problem = fmt.Errorf("%w: %w", agent.ErrNoNotifier, err)
		} else {
			n.Problem = agent.CheckNotice(cert, n.Message, n.Signature)
		}
		add(Notice(control.ReceiverWebhook, time.Now(), n))
		w.WriteHeader(http.StatusOK)
	})
}
