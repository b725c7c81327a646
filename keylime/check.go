package keylime

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Problem is something that the system lacks.
type Problem struct {
	What     string // e.g. "python module gpg is missing"
	Why      string // what needs it
	Fix      string // a command that brings it
	Optional bool   // true if Keylime runs without it and only some feature is lost
	// MeasuredBoot is true if that feature is the verifier's check of boot logs: it then fails every agent that has a measured-boot policy.
	MeasuredBoot bool
}

func (p Problem) String() string {
	s := p.What
	if p.Why != "" {
		s += " (" + p.Why + ")"
	}
	if p.Fix != "" {
		s += ": " + p.Fix
	}
	return s
}

// Check looks for everything that an installation needs from the system and that pip cannot bring. It needs no network.
// An empty result means that nothing is missing.
func Check(ctx context.Context, opts InstallOptions) []Problem {
	opts, err := opts.withDefaults()
	if err != nil {
		return []Problem{{What: err.Error()}}
	}
	var problems []Problem
	python, err := exec.LookPath(opts.Python)
	if err != nil {
		return []Problem{{What: fmt.Sprintf("python interpreter %s is missing", opts.Python), Why: "Keylime's services are written in Python",
			Fix: "apt-get install python3 python3-venv python3-gpg"}}
	}
	// One start of the interpreter answers all questions.
	const probe = `
import ctypes, importlib.util as u, sys
print("version" if sys.version_info < (3, 11) else "newest" if sys.version_info >= (3, 13) else "ok")
for m in "venv", "ensurepip", "gpg":
    print("ok" if u.find_spec(m) else m)
try:
    ctypes.CDLL("libefivar.so.1")
except OSError:
    print("efivar")
`
	out, err := exec.CommandContext(ctx, python, "-c", probe).Output()
	if err != nil {
		return []Problem{{What: fmt.Sprintf("python interpreter %s does not run: %v", python, err), Fix: "apt-get install --reinstall python3"}}
	}
	for _, word := range strings.Fields(string(out)) {
		switch word {
		case "version":
			problems = append(problems, Problem{What: fmt.Sprintf("python interpreter %s is older than 3.11", python),
				Why: "the packages are pinned for Python 3.11 to 3.13", Fix: "choose another interpreter"})
		case "newest":
			if opts.Version == "7.12.2" {
				problems = append(problems, Problem{What: fmt.Sprintf("python interpreter %s is newer than 3.12", python),
					Why: "SQLAlchemy 1.4, which Keylime 7.12.2 needs, has no wheels for it", Fix: "choose another interpreter, or another version of Keylime"})
			}
		case "venv", "ensurepip":
			problems = append(problems, Problem{What: "python module " + word + " is missing", Why: "it makes virtual environments",
				Fix: "apt-get install python3-venv"})
		case "gpg":
			problems = append(problems, Problem{What: "python module gpg is missing", Why: "Keylime imports it, and the package index has no usable copy",
				Fix: "apt-get install python3-gpg"})
		case "efivar":
			problems = append(problems, Problem{What: "library libefivar.so.1 is missing", Why: "the verifier reads device paths in measured boot logs with it",
				Fix: "apt-get install libefivar1", Optional: true, MeasuredBoot: true})
		}
	}
	if _, err := exec.LookPath("tpm2_eventlog"); err != nil {
		problems = append(problems, Problem{What: "program tpm2_eventlog is missing", Why: "the verifier parses measured boot logs with it",
			Fix: "apt-get install tpm2-tools", Optional: true, MeasuredBoot: true})
	}
	return problems
}

// fatalProblems is an error that names every problem that is not optional.
func fatalProblems(problems []Problem) error {
	var errs []error
	for _, p := range problems {
		if !p.Optional {
			errs = append(errs, errors.New(p.String()))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("keylime cannot be installed: %w", errors.Join(errs...))
}
