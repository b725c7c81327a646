package kind

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// freezerRoot is where control groups of version 1 have their freezer.
const freezerRoot = "/sys/fs/cgroup/freezer"

// thaw lets the frozen processes of a container go on, on this machine. A runc in a node freezes the processes of a pod while it changes what they may do; killed
// then, it leaves them frozen, and on control groups of version 1 a frozen process does not even die: its node could never be ended.
func thaw(root, container string) error {
	var errs []error
	for _, pattern := range []string{"docker/" + container, "*/docker/" + container, "*/docker-" + container + ".scope", "docker-" + container + ".scope"} {
		places, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, place := range places {
			errs = append(errs, filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // it has ended meanwhile
				}
				if err != nil || d.Name() != "freezer.state" {
					return err
				}
				if state, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(state)) == "THAWED" {
					return nil
				}
				return os.WriteFile(path, []byte("THAWED"), 0o644)
			}))
		}
	}
	return errors.Join(errs...)
}
