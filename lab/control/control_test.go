package control_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// key is a lab's key of a test's own.
func key(t *testing.T) string { return fmt.Sprintf("%s-%d", t.Name(), os.Getpid()) }

// fake is a lab that answers what it was given.
type fake struct {
	control.Lab // what a test does not need
	err         error
	events      []control.Event
	fault       control.Fault
	down        chan struct{}
}

func (f *fake) Status(context.Context) (control.Status, error) {
	return control.Status{Lab: "x", State: control.Running, Nodes: []control.Node{{Name: "node-1", AttestationCount: 3}}}, f.err
}

func (f *fake) Verify(context.Context) (report.Result, error) {
	return report.Result{Lab: "x", Checks: []report.Check{{ID: "uuid", Status: report.Pass}}}, f.err
}

func (f *fake) Fault(_ context.Context, c control.Fault) (string, error) {
	f.fault = c
	return "broken", f.err
}

func (f *fake) Mark(context.Context) (control.Mark, error) {
	return control.Mark{Router: map[string]uint64{"dropped": 7}, Refused: 1}, f.err
}

func (f *fake) Fired(_ context.Context, c control.Fault, since control.Mark) (control.Proof, error) {
	return control.Proof{Fired: true, Evidence: fmt.Sprintf("%s since %d", c.Kind, since.Router["dropped"])}, f.err
}

func (f *fake) Events(_ context.Context, emit func(control.Event) error) error {
	for _, e := range f.events {
		if err := emit(e); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fake) Down() { close(f.down) }

// serve serves a lab at the test's key until the test ends.
func serve(t *testing.T, lab control.Lab) *control.Client {
	t.Helper()
	socket, err := control.Reserve(key(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := control.Adopt(socket)
	if err != nil {
		t.Fatal(err)
	}
	server := control.NewServer(lab)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(context.Background()), <-done); err != nil {
			t.Error(err)
		}
	})
	return control.NewClient(key(t))
}

// Of two that start a lab at once, one gets the socket; it is free again as soon as that one has ended.
func TestReserve(t *testing.T) {
	c := control.NewClient(key(t))
	if _, err := c.Status(t.Context()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("no socket: %v, want ErrNotRunning", err)
	}
	first, err := control.Reserve(key(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Reserve(key(t)); !errors.Is(err, control.ErrRunning) {
		t.Errorf("a taken socket: %v, want ErrRunning", err)
	}
	if other, err := control.Reserve(key(t) + "-other"); err != nil {
		t.Errorf("another lab's socket: %v", err)
	} else {
		other.Close()
	}
	if c.Running(t.Context()) {
		t.Error("a lab that is only reserved is running")
	}
	first.Close()
	again, err := control.Reserve(key(t))
	if err != nil {
		t.Fatalf("a socket whose holder is gone: %v", err)
	}
	again.Close()
}

func TestCalls(t *testing.T) {
	lab := &fake{down: make(chan struct{})}
	c := serve(t, lab)
	if pid, err := c.PID(t.Context()); err != nil || pid != os.Getpid() {
		t.Errorf("the supervisor's process is %d, %v; want %d", pid, err, os.Getpid())
	}
	if s, err := c.Status(t.Context()); err != nil || s.Lab != "x" || s.PID != os.Getpid() || len(s.Nodes) != 1 || s.Nodes[0].AttestationCount != 3 {
		t.Errorf("status: %+v, %v", s, err)
	}
	if r, err := c.Verify(t.Context()); err != nil || !r.Passed() || r.Checks[0].ID != "uuid" {
		t.Errorf("verify: %+v, %v", r, err)
	}
	if done, err := c.Fault(t.Context(), control.Fault{Kind: "k", Nodes: []string{"a", "b"}, Clear: true}); err != nil || done != "broken" {
		t.Errorf("fault: %q, %v", done, err)
	}
	if f := lab.fault; f.Kind != "k" || !slices.Equal(f.Nodes, []string{"a", "b"}) || !f.Clear {
		t.Errorf("the fault that arrived: %+v", f)
	}
	mark, err := c.Mark(t.Context())
	if err != nil || mark.Router["dropped"] != 7 || mark.Refused != 1 {
		t.Errorf("mark: %+v, %v", mark, err)
	}
	p, err := c.Fired(t.Context(), control.Fault{Kind: "k"}, mark)
	if err != nil || !p.Fired || p.Evidence != "k since 7" {
		t.Errorf("fired: %+v, %v", p, err)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Errorf("down: %v", err)
	}
	select {
	case <-lab.down:
	default:
		t.Error("down did not arrive")
	}
}

// The lab's own words arrive as an error.
func TestErrors(t *testing.T) {
	c := serve(t, &fake{err: errors.New(`the lab has no node "x"`)})
	_, statusErr := c.Status(t.Context())
	_, verifyErr := c.Verify(t.Context())
	_, faultErr := c.Fault(t.Context(), control.Fault{})
	for what, err := range map[string]error{"status": statusErr, "verify": verifyErr, "fault": faultErr} {
		if err == nil || !strings.Contains(err.Error(), `the lab has no node "x"`) {
			t.Errorf("%s: %v", what, err)
		}
		if errors.Is(err, control.ErrNotRunning) {
			t.Errorf("%s: a running lab's error says that it does not run", what)
		}
	}
}

// Progress ends with the event that ends it, or with the connection.
func TestEvents(t *testing.T) {
	for _, end := range []string{control.EventReady, control.EventEnded, ""} {
		t.Run("end "+end, func(t *testing.T) {
			want := []string{"start", "done"}
			lab := &fake{events: []control.Event{{Step: "network", State: "start"}, {Step: "network", State: "done", Text: "t", Error: "e"}}}
			if end != "" {
				want = append(want, end)
				lab.events = append(lab.events, control.Event{State: end}, control.Event{State: "after the end"})
			}
			var got []string
			if err := serve(t, lab).Events(t.Context(), func(e control.Event) { got = append(got, e.State) }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("events %q, want %q", got, want)
			}
		})
	}
}

// A peer that is not a lab, or that hangs up, is an error and not a lab that does not run.
func TestStranger(t *testing.T) {
	l, err := net.Listen("unix", fmt.Sprintf("@keylab/%d/%s", os.Geteuid(), key(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if _, err := control.NewClient(key(t)).Status(t.Context()); err == nil || errors.Is(err, control.ErrNotRunning) {
		t.Errorf("a peer that hangs up: %v", err)
	}
}
