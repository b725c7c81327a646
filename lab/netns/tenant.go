package netns

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// startTenant starts the process that runs Keylime's tenant code for every enrolment. It imports Keylime while the
// services start.
func (s *supervisor) startTenant(context.Context) error {
	log, err := s.logFile(plan.Tenant)
	if err != nil {
		return err
	}
	e, err := keylime.StartEnroller(context.Background(), s.configured, keylime.EnrollerOptions{
		Stderr: log,
		Start: func(cmd *exec.Cmd) error {
			sandbox.On(cmd, s.plan.Lab, plan.Tenant)
			return cmd.Start()
		},
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

// enrolAgent has Keylime's own tenant code enrol one agent. The error is about asking; a refusal is in the answer.
func (s *supervisor) enrolAgent(ctx context.Context, uuid string) (verify.Enrolment, error) {
	r, err := s.tenant.Enroll(ctx, keylime.Request{UUID: uuid})
	if err != nil {
		return verify.Enrolment{}, err
	}
	fmt.Fprintf(s.tenantLog, "--- add %s: exit status %d, %.2f s\n%s\n", uuid, r.ExitCode, r.Duration.Seconds(), r.Output)
	return verify.Enrolment{Done: true, OK: r.OK, EKChecked: r.EKChecked, Message: r.Message, At: time.Now()}, nil
}
