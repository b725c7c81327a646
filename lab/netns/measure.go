package netns

import (
	"context"
	"fmt"
	"io"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/agent/push"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
)

// makePolicies makes the runtime policies of the lab.
func (s *supervisor) makePolicies(ctx context.Context) error {
	return fleet.MakePolicies(ctx, s.dir, s.configured, s.plan)
}

// boot measures the start of the node into its TPM, which has just been powered on.
func (n *node) boot(ctx context.Context) error {
	if err := n.measured.Boot(ctx); err != nil {
		return fmt.Errorf("boot %s: %w", n.Name, err)
	}
	return nil
}

// request is what the tenant is asked for to have the node enrolled.
func (n *node) request() (keylime.Request, error) {
	r := fleet.Request(n.s.dir, n.s.plan, n.Node, n.uuid)
	err := fleet.AddPolicies(&r, n.s.dir, n.Node, n.measured.RefState) // before r is returned: it is changed
	return r, err
}

// Policies implements fleet.Policymaker.
func (m machines) Policies(_ context.Context, n *node) (fleet.Policies, error) {
	uuid, _ := n.identityNow()
	return fleet.Policies{
		Dir: m.s.dir, Node: n.Node, UUID: uuid, Tools: m.s.configured, Verifier: m.s.verifier,
		Measured: func(ctx context.Context) (*control.IMAList, error) {
			a, err := fleet.Measure(ctx, n.Node, n.measured, control.Measurement{Kind: control.ShowList, Node: n.Name})
			return a.IMA, err
		},
		RefState: func(context.Context) ([]byte, error) { return n.measured.RefState() },
		PCRs:     n.measured.PCRs,
	}, nil
}

// serveLogs has a Go agent serve what the node measured.
func (n *node) serveLogs(c *agent.Config) {
	if n.IMA != nil {
		c.IMAList = n.measured.OpenList
	}
	if n.MeasuredBoot != nil {
		c.MeasuredBootLog = n.measured.BootLog
	}
}

// pushLogs has a Go agent of the push model send what the node measured.
func (n *node) pushLogs(c *push.Config) {
	if n.IMA != nil {
		c.IMA = n.listFrom
	}
	if n.MeasuredBoot != nil {
		c.BootLog = n.measured.BootLog
	}
}

// listFrom is the IMA list from an entry on, and how many entries there are in all.
func (n *node) listFrom(from int) (text string, total int, err error) {
	list, err := n.measured.OpenList()
	if err != nil {
		return "", 0, err
	}
	defer list.Close()
	all, err := io.ReadAll(list)
	if err != nil {
		return "", 0, fmt.Errorf("read the IMA list: %w", err)
	}
	text, total = ima.From(string(all), from)
	return text, total, nil
}

// logOptions tells the Rust agent where to read what the node measured.
func (n *node) logOptions(options map[string]string) {
	for option, path := range map[string]string{"IMA_ML_PATH": n.measured.ListPath(), "MEASUREDBOOT_ML_PATH": n.measured.LogPath()} {
		if path != "" {
			options[option] = path
		}
	}
}

// Measure implements control.Lab.
func (s *supervisor) Measure(ctx context.Context, m control.Measurement) (a control.Measured, err error) {
	if err := s.mustBeUp(); err != nil {
		return a, err
	}
	n, release, err := s.hold(m.Node)
	if err != nil {
		return a, err
	}
	defer release()
	if n.isOff() {
		return a, fmt.Errorf("%s is off: `keylab node start %s` starts it", n.Name, n.Name)
	}
	known, err := fleet.WithAllowed(s.dir, n.Node)
	if err != nil {
		return a, err
	}
	if err := fleet.Sign(s.dir, known, &m); err != nil {
		return a, err
	}
	a, err = fleet.Measure(ctx, known, n.measured, m)
	if err == nil && (m.Kind == control.TamperBoot || m.Kind == control.UpdateFirmware) {
		var rebooted string
		rebooted, err = fleet.Act(ctx, machines{s}, control.Action{Kind: control.ActionReboot, Node: n.Name})
		a.Done += "; " + rebooted
	}
	s.log.Info("measurement", "kind", m.Kind, "node", m.Node, "error", err)
	return a, err
}

func (n *node) isOff() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.off
}
