package kind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Docker brings to its end what it was asked to make, also when whoever asked has been killed. So a name lies in the lab's folder as long as Docker has not
// answered: who takes the lab away afterwards knows what may still come.

// makingLimit is how long that is waited for. It may have been made and taken away already, or never have been asked for.
const makingLimit = 10 * time.Second

func makingDir(lab string) string { return filepath.Join(lab, "containers", "making") }

// making notes that Docker is asked for something of this name; made takes the note away, unless ctx ended before Docker answered.
func (l *Lab) making(ctx context.Context, name string) (made func(), err error) {
	path := filepath.Join(makingDir(l.dir.Path), name)
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("note that %s is being made: %w", name, err)
	}
	return func() {
		if ctx.Err() == nil {
			_ = os.Remove(path) // a note too many costs makingLimit, once
		}
	}, nil
}

// beingAsked are the names of what Docker was asked for by a keylab that did not live to see it.
func beingAsked(lab string) (map[string]bool, error) {
	list, err := os.ReadDir(makingDir(lab))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what was being made: %w", err)
	}
	names := map[string]bool{}
	for _, e := range list {
		names[e.Name()] = true
	}
	return names, nil
}

// forgetAsked removes the notes, once all that they name is gone.
func forgetAsked(lab string) error {
	if err := os.RemoveAll(makingDir(lab)); err != nil {
		return fmt.Errorf("forget what was being made: %w", err)
	}
	return nil
}
