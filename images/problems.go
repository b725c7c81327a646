package images

import (
	"errors"
	"fmt"
	"os/exec"
)

// Problem is something that this machine lacks for building images, and what to do.
type Problem struct{ What, Fix string }

func (p Problem) String() string { return p.What + ": " + p.Fix }

// Problems are what this machine lacks for building images.
func Problems() []Problem {
	var list []Problem
	for _, need := range []struct{ program, what, fix string }{
		{"go", "Go is missing, with which Kubernetes is built", "https://go.dev/dl/"},
		{"mmdebstrap", "mmdebstrap is missing, which makes Debian file systems", "sudo apt-get install mmdebstrap"},
	} {
		if _, err := exec.LookPath(need.program); err != nil {
			list = append(list, Problem{need.what, need.fix})
		}
	}
	return list
}

func problems(list []Problem) error {
	var errs []error
	for _, p := range list {
		errs = append(errs, errors.New(p.String()))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("images cannot be built on this machine: %w", errors.Join(errs...))
}
