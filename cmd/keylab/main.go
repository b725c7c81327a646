// Command keylab builds a whole Keylime remote-attestation lab on one machine, proves that it is what it claims to be,
// and breaks it on purpose.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"keylab.dev/keylab/lab"
)

func main() {
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, streams{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	os.Exit(status)
}
