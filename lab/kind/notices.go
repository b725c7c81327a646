package kind

import (
	"context"
	"errors"

	"keylab.dev/keylab/lab/control"
)

// Notices implements the lab's side of `keylab events`: nothing gathers them here.
func (l *Lab) Notices(context.Context) ([]control.Notice, error) {
	return nil, errors.New("the substrate kind gathers no notices of the verifier: `keylab logs NODE` shows what an agent was told")
}
