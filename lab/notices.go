package lab

import (
	"context"

	"keylab.dev/keylab/lab/control"
)

// Notices are what the verifier has told, since the lab is up, of agents that it no longer trusts: those that came to the lab's receiver, and those that came
// to agents built into keylab.
func (l *Lab) Notices(ctx context.Context) ([]control.Notice, error) {
	r, done, err := l.open()
	if err != nil {
		return nil, err
	}
	defer done()
	return r.Notices(ctx)
}
