package netroles_test

import (
	"fmt"
	"io"
	"os"
	"testing"

	"keylab.dev/keylab/internal/nstest"
	"keylab.dev/keylab/lab/kind/roles"
)

// Where the test program is started as keylab is in containers, it plays that role.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roles.Marker {
		os.Exit(playRole())
	}
	nstest.Main(m, nstest.Options{Mounts: true})
}

// playRole is the main process of a container, as far as it can tell: it has a /run that nobody else has. It ends with the test program at the
// latest, which holds the other end of its standard input.
func playRole() int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if err := nstest.PrivateRun(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the role's mount namespace:", err)
		return 1
	}
	status, _ := roles.Main(os.Args)
	return status
}
