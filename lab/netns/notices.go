package netns

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// addNotice keeps a notice of the verifier's, as it came to the receiver or to a Go agent.
func (s *supervisor) addNotice(n control.Notice) {
	for _, node := range s.allNodes() {
		if uuid, former := node.identityNow(); n.Agent != "" && (uuid == n.Agent || slices.Contains(former, n.Agent)) {
			n.Node = node.Name
		}
	}
	s.log.Info("notice", "receiver", n.Receiver, "type", n.Type, "agent", n.Agent, "event", n.Event, "signed", n.Signed, "problem", n.Problem)
	s.notices.Add(n)
}

// told keeps a notice that an agent got.
func (n *node) told(r agent.Revocation) { n.s.addNotice(fleet.Notice(n.Name, time.Now(), r)) }

// acted notes how the actions of a notice ended that an agent got.
func (n *node) acted(r agent.Revocation, runs []agent.ActionRun) {
	n.s.notices.Acted(n.Name, r.Number, fleet.Actions(runs))
}

// Notices implements control.Lab.
func (s *supervisor) Notices(context.Context) ([]control.Notice, error) {
	if s.plan.Keylime.Revocation == nil {
		return nil, fleet.ErrNoNotices
	}
	return s.notices.List(), nil
}

// startReceiver listens, on the tenant's host, for what the verifier posts to a webhook.
func (s *supervisor) startReceiver() error {
	if r := s.plan.Keylime.Revocation; r == nil || r.Webhook == nil {
		return nil
	}
	address := *s.plan.Keylime.Revocation.Webhook
	server, err := fleet.NoticeServer(s.configured.PKI, s.plan.Lab, address.Addr(), s.notifier(), s.addNotice)
	if err != nil {
		return err
	}
	l, err := s.network.Host(plan.Tenant).Listen("tcp", address.String())
	if err != nil {
		return err
	}
	s.keep(server)
	go func() {
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the receiver of notices ended", "error", err)
		}
	}()
	return nil
}

// notifier is the file with the certificate by which the verifier's word is checked.
func (s *supervisor) notifier() string {
	return filepath.Join(s.dir.Revocation(), agent.NotifierCertificate)
}
