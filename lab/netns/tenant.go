package netns

import (
	"context"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// startTenant starts the process that runs Keylime's tenant code for every enrolment. It imports Keylime while the
// services start.
func (s *supervisor) startTenant(context.Context) error {
	log, err := s.logFile(plan.Tenant)
	if err != nil {
		return err
	}
	e, err := keylime.StartEnroller(context.Background(), s.configured, keylime.EnrollerOptions{
		Stderr: log, Parallel: fleet.EnrolAtOnce(s.plan), Start: s.forkOn(plan.Tenant),
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tenant, s.tenantLog = e, log
	return nil
}

func (s *supervisor) stopTenant(ctx context.Context) error {
	s.mu.Lock()
	e := s.tenant
	s.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.Close(ctx)
}
