package netroles

import (
	"context"
	"net/http"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// RunPause is the main process of a container that only holds a place in a network, for what others run in it: it reaps what is left to it.
func RunPause(ctx context.Context) error { return HoldPlace(ctx, http.NewServeMux()) }

// HoldPlace is RunPause with something to ask by the control API.
func HoldPlace(ctx context.Context, mux *http.ServeMux) error {
	ended := make(chan os.Signal, 16)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	go func() {
		for range ended {
			for {
				if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}()
	return ServeControl(ctx, ControlSocket, mux)
}
