package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// readActions reads the revocation actions of the specification by name, with the list of them, before anything is touched. A relative path is one from the
// working folder.
func readActions(s Spec, payloads map[string][]byte) (map[string][]byte, error) {
	if len(s.Keylime.Revocation.Actions) == 0 {
		return nil, nil
	}
	actions := map[string][]byte{}
	var names []string
	var errs []error
	size := 0
	for _, a := range s.Keylime.Revocation.Actions {
		data, err := []byte(a.Inline), error(nil)
		if a.File != "" {
			data, err = readLimited(a.File, spec.MaxAction, "the most that an action may be")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the revocation action %s: %w", a.Name, err))
		}
		actions[a.Name] = data
		names = append(names, a.Name)
		size += len(data)
	}
	actions[agent.ActionList] = []byte(strings.Join(names, "\n") + "\n")
	largest := 0
	for _, p := range payloads {
		largest = max(largest, len(p))
	}
	if size+largest > spec.MaxPayload {
		errs = append(errs, fmt.Errorf("the revocation actions of %d KiB and a payload of %d KiB are together larger than %d KiB, the most that fits through Keylime and "+
			"into the agent's memory", size>>10, largest>>10, spec.MaxPayload>>10))
	}
	return actions, errors.Join(errs...)
}

// writeActions puts them into a folder that Keylime's tenant includes in a package.
func writeActions(folder string, actions map[string][]byte) error {
	if len(actions) == 0 {
		return nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the folder of the revocation actions: %w", err)
	}
	for name, data := range actions {
		if err := atomicfile.Write(filepath.Join(folder, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// withActionFiles is the specification that the lab's folder keeps: its actions are the copies beside it.
func withActionFiles(s Spec) Spec {
	s.Keylime.Revocation.Actions = slices.Clone(s.Keylime.Revocation.Actions)
	for i := range s.Keylime.Revocation.Actions {
		a := &s.Keylime.Revocation.Actions[i]
		a.File, a.Inline = state.Dir{}.Action(a.Name), ""
	}
	return s
}
