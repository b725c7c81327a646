package netns

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// maxNotices is how many of the verifier's notices a lab keeps: the last ones.
const maxNotices = 1000

// notices are the verifier's, as they came to the receiver and to Go agents.
type notices struct {
	mu   sync.Mutex
	list []control.Notice
}

// add keeps a notice that a receiver got, and whose signature it has checked.
func (s *supervisor) addNotice(receiver string, r agent.Revocation) {
	n := control.Notice{Received: time.Now(), Receiver: receiver, Signed: r.Problem == nil}
	if r.Problem != nil {
		n.Problem = r.Problem.Error()
	}
	if said, err := agent.ParseNotice(r.Message); err != nil {
		n.Signed, n.Problem = false, err.Error()
	} else {
		n.Agent, n.Type, n.Event, n.Severity = said.AgentID, said.Type, said.EventID, said.Severity
	}
	for _, node := range s.nodes {
		if uuid, former := node.identityNow(); n.Agent != "" && (uuid == n.Agent || slices.Contains(former, n.Agent)) {
			n.Node = node.Name
		}
	}
	s.log.Info("notice", "receiver", n.Receiver, "type", n.Type, "agent", n.Agent, "event", n.Event, "signed", n.Signed, "problem", n.Problem)
	s.notices.mu.Lock()
	defer s.notices.mu.Unlock()
	s.notices.list = append(s.notices.list, n)
	if drop := len(s.notices.list) - maxNotices; drop > 0 {
		s.notices.list = slices.Delete(s.notices.list, 0, drop)
	}
}

// Notices implements control.Lab.
func (s *supervisor) Notices(context.Context) ([]control.Notice, error) {
	if s.plan.Keylime.Revocation == nil {
		return nil, errors.New("the verifier of this lab tells nobody: its specification has no keylime.revocation")
	}
	s.notices.mu.Lock()
	defer s.notices.mu.Unlock()
	return append([]control.Notice{}, s.notices.list...), nil
}

// startReceiver listens, on the tenant's host, for what the verifier posts to a webhook. Only clients with a certificate of Keylime's authority can post.
func (s *supervisor) startReceiver() error {
	if r := s.plan.Keylime.Revocation; r == nil || r.Webhook == nil {
		return nil
	}
	address := *s.plan.Keylime.Revocation.Webhook
	pki := s.configured.PKI
	cert, err := pki.ServerCertificate("notices", []string{plan.Tenant + "." + s.plan.Lab + ".test"}, []net.IP{address.Addr().AsSlice()})
	if err != nil {
		return err
	}
	l, err := s.network.Host(plan.Tenant).Listen("tcp", address.String())
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: http.HandlerFunc(s.receive), ReadTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientCAs: pki.ClientCAs(), ClientAuth: tls.RequireAndVerifyClientCert,
		},
	}
	s.keep(server)
	go func() {
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the receiver of notices ended", "error", err)
		}
	}()
	return nil
}

// receive takes one notice: {"msg": "…", "signature": "…"} (keylime, revocation_notifier.notify_webhook).
func (s *supervisor) receive(w http.ResponseWriter, r *http.Request) {
	var n agent.Revocation
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&n); err != nil || r.Method != http.MethodPost {
		http.Error(w, fmt.Sprintf("post a notice as JSON: %v", err), http.StatusBadRequest)
		return
	}
	// The tenant makes the certificate with the first enrolment.
	notifier, err := agent.ReadNotifier(filepath.Join(s.dir.Revocation(), agent.NotifierCertificate))
	if err != nil {
		n.Problem = fmt.Errorf("%w: %w", agent.ErrNoNotifier, err)
	} else {
		n.Problem = agent.CheckNotice(notifier, n.Message, n.Signature)
	}
	s.addNotice(control.ReceiverWebhook, n)
	w.WriteHeader(http.StatusOK)
}
