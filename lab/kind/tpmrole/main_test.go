package tpmrole

import (
	"context"
	"fmt"
	"os"
	"testing"

	"keylab.dev/keylab/internal/nstest"
)

// In a network namespace swtpm's ports are free. Called as `PROGRAM tpm-connect SOCKET` the test program is what a pod's tpm2-tools start.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "tpm-connect" {
		if err := Connect(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m, nstest.Options{})
}
