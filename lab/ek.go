package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// EKCAs are the lab's EK CAs, whether it runs or not. They are read from its folder.
func (l *Lab) EKCAs() (*authority.Set, error) {
	p, err := l.Planned()
	if err != nil {
		return nil, err
	}
	return authority.Open(l.dir, p.EKCA), nil
}

// Planned is the plan that was carried out last, with which the lab runs if it does; an empty one when there is none.
func (l *Lab) Planned() (plan.Plan, error) {
	var p plan.Plan
	data, err := os.ReadFile(l.dir.Plan())
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("read the lab's plan %s: %w", l.dir.Plan(), err)
	}
	return p, nil
}

// EK does one thing with the lab's EK CAs, its tpm_cert_store or a node's EK certificate, and says what came of it. What is about no node works in a lab
// that does not run, too: one that nobody trusts could not be brought up otherwise.
func (l *Lab) EK(ctx context.Context, o control.EKOrder) (control.EKDone, error) {
	r, done, err := l.open()
	if err != nil {
		return control.EKDone{}, err
	}
	defer done()
	answer, err := r.EK(ctx, o)
	if errors.Is(err, ErrNotRunning) && !o.AboutNodes() && l.dir.Made() {
		return l.stoppedEK(o)
	}
	return answer, err
}

// stoppedEK carries out an order in the folder of a lab that does not run, and keeps it from being brought up meanwhile.
func (l *Lab) stoppedEK(o control.EKOrder) (control.EKDone, error) {
	socket, err := control.Reserve(l.dir.Key())
	if err != nil {
		return control.EKDone{}, err
	}
	defer socket.Close()
	cas, err := l.EKCAs()
	if err != nil {
		return control.EKDone{}, err
	}
	return fleet.OrderCA(l.dir, cas, o)
}
