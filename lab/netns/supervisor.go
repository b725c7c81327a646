package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/lab/steps"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/report"
)

// supervisor is a running lab.
type supervisor struct {
	plan    plan.Plan // the lab as it was brought up; planNow has the nodes that it has now
	dir     state.Dir
	handoff Handoff
	log     *slog.Logger
	journal *journal
	started time.Time

	network *netlab.Lab

	mu            sync.Mutex
	nodes         []*node   // replaced, never changed in place
	members       plan.Plan // the plan with these nodes
	state         control.LabState
	router        *netlab.Router
	dns           []*netlab.DNS
	ingress       *netlab.Ingress
	ingressIsDown bool                     // by a fault
	disks         map[string]bool          // services that have a disk of their own, by a fault
	skew          map[string]time.Duration // by which services' clocks are wrong, by a fault
	ingressStarts int                      // since the first
	ingressAt     netip.Addr               // where a fault has moved it; the zero Addr: where the plan has it
	cas           *authority.Set
	forks         *keylime.ForkServer // of which the services and the tenant are forks
	configured    *keylime.Configured
	services      map[string]*process
	registrar     *keylime.RegistrarClient
	verifier      *keylime.VerifierClient
	tenant        *keylime.Enroller
	tenantLog     io.Writer
	open          []io.Closer // log files
	unbridge      func() error
	notices       fleet.Notices

	changing  sync.Mutex    // one node joins or leaves at a time
	verifying sync.Mutex    // one verify at a time: they count packets
	crypto    chan struct{} // slots for steps that cost processor time
	down      chan struct{}
	downOnce  sync.Once
}

// Supervise is the whole life of a lab, from inside its sandbox. It returns when the lab has ended: nil after an
// orderly `down`, and else why it did not come up.
func Supervise(lab string, args []string, files func(int) *os.File) error {
	s := &supervisor{
		log: slog.New(slog.NewTextHandler(os.Stderr, nil)), journal: newJournal(), started: time.Now(),
		state: control.Starting, services: map[string]*process{}, disks: map[string]bool{}, skew: map[string]time.Duration{},
		crypto: make(chan struct{}, runtime.NumCPU()), down: make(chan struct{}),
	}
	if len(args) != 1 {
		return fmt.Errorf("supervisor of %s: needs its orders", lab)
	}
	if err := json.Unmarshal([]byte(args[0]), &s.handoff); err != nil {
		return fmt.Errorf("read the supervisor's orders: %w", err)
	}
	s.dir = s.handoff.Dir
	data, err := os.ReadFile(s.dir.Plan())
	if err != nil {
		return fmt.Errorf("read the lab's plan: %w", err)
	}
	if err := json.Unmarshal(data, &s.plan); err != nil {
		return fmt.Errorf("read the lab's plan %s: %w", s.dir.Plan(), err)
	}
	for _, p := range s.plan.Nodes {
		n := &node{Node: p, s: s}
		if n.measured, err = fleet.Measured(s.dir, s.plan.Lab, p, n.openTPM); err != nil {
			return err
		}
		s.nodes = append(s.nodes, n)
	}
	s.members = s.plan
	listener, err := control.Adopt(files(fileControl))
	if err != nil {
		return err
	}
	server := control.NewServer(s)
	go func() {
		if err := server.Serve(listener); err != nil {
			s.log.Error("control socket", "error", err)
		}
	}()
	defer func() {
		// Who follows the lab's end is to read it to the end, but cannot hold the lab back.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			s.log.Error("control socket", "error", err)
		}
	}()

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		<-s.down
		cancel(errTakenDown) // a lab that is still starting goes no further
	}()
	go watchLeash(files(fileLeash), func() {
		cancel(errAborted)
		s.Down()
	})
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cancel(errAborted)
		s.Down()
	}()
	return s.live(ctx)
}

// Why the steps of a lab end early: its `up` was interrupted, or it was taken down before it was up.
var (
	errAborted   = errors.New("the start of the lab was interrupted")
	errTakenDown = errors.New("the lab was taken down while it was starting")
)

// undoParallel is how many parts of the lab end at once.
const undoParallel = 16

// live carries out the steps, waits for the end, and undoes them.
func (s *supervisor) live(ctx context.Context) error {
	ready, cancel := context.WithTimeoutCause(ctx, time.Duration(s.plan.Ready), fmt.Errorf("not ready within %s (timeouts.ready)", time.Duration(s.plan.Ready)))
	defer cancel()
	undo, err := steps.Run(ready, s.steps(), steps.Options{Retain: s.handoff.Retain, OnEvent: s.stepEvent, UndoParallel: undoParallel})
	defer s.closeFiles()
	if err != nil {
		s.log.Error("the lab did not come up", "error", err)
		if !s.handoff.Retain || ctx.Err() != nil {
			if s.handoff.First {
				if left := s.dir.Forget(); left != nil {
					err = errors.Join(err, left)
				}
			}
			s.end(err)
			return err
		}
		s.journal.add(control.Event{State: control.EventReady, Error: err.Error()})
		s.setPhase(control.Degraded)
	} else {
		s.log.Info("the lab is up", "elapsed", time.Since(s.started))
		s.setPhase(control.Running)
		s.journal.add(control.Event{State: control.EventReady, Elapsed: time.Since(s.started)})
	}
	<-s.down
	s.setPhase(control.Stopping)
	s.log.Info("taking the lab down")
	s.changing.Lock() // until a node that was joining has been taken back
	defer s.changing.Unlock()
	err = errors.Join(s.endJoined(context.Background()), undo.Undo(context.Background()))
	s.end(err)
	return err
}

// end gives those who follow the progress their last line.
func (s *supervisor) end(err error) {
	e := control.Event{State: control.EventEnded}
	if err != nil {
		e.Error = err.Error()
	}
	s.journal.add(e)
}

// stepEvent hands a step's progress on to who follows it, and to the log.
func (s *supervisor) stepEvent(e steps.Event) {
	c := control.Event{Time: e.Time, Step: e.Step, State: string(e.State), Elapsed: e.Elapsed}
	if e.Err != nil {
		c.Error = e.Err.Error()
	}
	s.journal.add(c)
	s.log.Info("step", "name", e.Step, "state", e.State, "elapsed", e.Elapsed, "error", e.Err)
}

// Down implements control.Lab.
func (s *supervisor) Down() { s.downOnce.Do(func() { close(s.down) }) }

// Events implements control.Lab.
func (s *supervisor) Events(ctx context.Context, emit func(control.Event) error) error {
	return s.journal.follow(ctx, emit)
}

// Verify implements control.Lab.
func (s *supervisor) Verify(ctx context.Context) (report.Result, error) {
	if err := s.mustBeUp(); err != nil {
		return report.Result{}, err
	}
	s.verifying.Lock()
	defer s.verifying.Unlock()
	return verify.Run(ctx, target{s}, verify.Options{}), nil
}

// mustBeUp is the error for what needs a lab that has come up.
func (s *supervisor) mustBeUp() error {
	if phase := s.phase(); phase != control.Running && phase != control.Degraded {
		return fmt.Errorf("the lab is %s: wait until it is up", phase)
	}
	return nil
}

func (s *supervisor) phase() control.LabState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *supervisor) setPhase(p control.LabState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = p
}

// allNodes are the nodes that the lab has now.
func (s *supervisor) allNodes() []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes
}

// node finds a running node by name.
func (s *supervisor) node(name string) (*node, error) {
	for _, n := range s.allNodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the lab has no node %q; it has %s", name, s.planNow().NodeNames())
}

func (s *supervisor) keep(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, c)
}

func (s *supervisor) closeFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		c.Close()
	}
}
