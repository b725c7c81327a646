package tpmsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// ErrClosed is what [TPM.Err] and the operations of a TPM return after [TPM.Close].
var ErrClosed = errors.New("tpmsim: TPM is closed")

// Options say which TPM to open.
type Options struct {
	// Name is for messages only.
	Name string
	// Dir holds the state; it is made with mode 0700 and survives restarts. One process may have it open at a time.
	Dir string
	// Backend comes from [Select], [Swtpm] or [Simulator].
	Backend Backend
	// Seed, of any length but at least 16 bytes, determines the primary seeds of a TPM that is made new; nil makes random
	// ones. An existing TPM that was made from another seed is refused.
	Seed []byte
	// Log receives what the TPM's process prints; nil discards it.
	Log io.Writer
}

// TPM is one simulated TPM, powered on and started.
type TPM struct {
	opts  Options
	state *stateDir

	// turn is held by whoever talks to the TPM or changes what follows; a channel so that waiting can be cancelled.
	turn chan struct{}
	*resources
	off error // why there is no device: ErrClosed or a failed start

	life sync.Mutex // guards what follows; never held while waiting for a process
	dev  *device    // the running process, nil while there is none
	done chan struct{}
	err  error
}

// Open starts the TPM in o.Dir, making it first if the directory holds none, and sends TPM2_Startup(CLEAR). ctx bounds the
// start only. The TPM has no endorsement key in NV before [TPM.Manufacture].
func Open(ctx context.Context, o Options) (*TPM, error) {
	if o.Backend == nil {
		return nil, fmt.Errorf("tpmsim: opening %s: Options.Backend is nil; get one from Select", label(o))
	}
	if err := o.Backend.Available(); err != nil {
		return nil, fmt.Errorf("tpmsim: opening %s: %w", label(o), err)
	}
	if o.Seed != nil && len(o.Seed) < minSeed {
		return nil, fmt.Errorf("tpmsim: opening %s: Options.Seed has %d bytes; at least %d are needed", label(o), len(o.Seed), minSeed)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("tpmsim: opening %s: %w", label(o), err)
	}
	state, err := openStateDir(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("tpmsim: opening %s: %w", label(o), err)
	}
	t := &TPM{opts: o, state: state, turn: make(chan struct{}, 1), resources: newResources(), done: make(chan struct{})}
	if err := t.powerOn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("tpmsim: opening %s: %w", label(o), err), state.close())
	}
	return t, nil
}

func label(o Options) string {
	if o.Name == "" {
		return "TPM in " + o.Dir
	}
	return "TPM " + o.Name
}

// Name returns Options.Name.
func (t *TPM) Name() string { return t.opts.Name }

// Backend returns Options.Backend.
func (t *TPM) Backend() Backend { return t.opts.Backend }

// take waits for the turn to use the TPM. A free TPM is taken even if ctx is over.
func (t *TPM) take(ctx context.Context) error {
	select {
	case t.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case t.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tpmsim: waiting for %s to finish another command: %w", label(t.opts), ctx.Err())
	}
}

func (t *TPM) give() { <-t.turn }

// powerOn starts the process and the TPM in it. The caller has the turn, or the only reference.
func (t *TPM) powerOn(ctx context.Context) error {
	d, err := t.opts.Backend.start(t.state.current(), t.opts.Log)
	if err != nil {
		return t.stayOff(err)
	}
	response, err := d.first(ctx, newCommand(ccStartup, []byte{0, suClear}))
	if err == nil && messageCode(response) != rcSuccess {
		err = &responseError{"TPM2_Startup", messageCode(response)}
	}
	if err == nil {
		err = t.resources.connect(d)
	}
	if err != nil {
		_ = d.kill()
		return t.stayOff(err)
	}
	t.off = nil
	t.life.Lock()
	defer t.life.Unlock()
	t.dev = d
	if t.err != nil {
		t.err, t.done = nil, make(chan struct{})
	}
	go t.watch(d)
	return nil
}

// stayOff notes that the TPM could not be powered on, which is the end of it for those who wait on Done.
func (t *TPM) stayOff(err error) error {
	t.off = err
	t.resources.disconnect()
	t.end(err)
	return err
}

// end closes Done with the reason, if it is not closed yet.
func (t *TPM) end(reason error) {
	t.life.Lock()
	defer t.life.Unlock()
	if t.err == nil {
		t.err = reason
		close(t.done)
	}
}

// watch notes when the process ends without having been told to.
func (t *TPM) watch(d *device) {
	<-d.done
	t.life.Lock()
	defer t.life.Unlock()
	if t.dev == d {
		t.dev = nil
		t.err = d.ended()
		close(t.done)
	}
}

// powerOff takes the process out of sight of watch and returns it, nil if it has died already. The caller has the turn.
func (t *TPM) powerOff() *device {
	t.life.Lock()
	defer t.life.Unlock()
	d := t.dev
	t.dev = nil
	t.resources.disconnect()
	return d
}

// shutdown sends TPM2_Shutdown(CLEAR), which makes the clock and the reset counters safe. A TPM that does not answer within
// stopGrace is killed. The caller has the turn.
func (t *TPM) shutdown() error {
	limit := time.AfterFunc(stopGrace, func() { _ = t.Kill() })
	defer limit.Stop()
	response, err := t.resources.transact(newCommand(ccShutdown, []byte{0, suClear}))
	if err == nil && messageCode(response) != rcSuccess {
		err = &responseError{"TPM2_Shutdown", messageCode(response)}
	}
	return err
}

// Reboot shuts the TPM down in order and powers it on again: PCRs are reset, resetCount grows by one, the clock goes on and
// stays safe. Clients stay connected, but their transient objects and sessions are gone. If the process has died before,
// Reboot starts it again and the TPM sees a power cut.
func (t *TPM) Reboot(ctx context.Context) error {
	return t.cycle(ctx, "rebooting", true, nil)
}

// Crash cuts the power of the TPM without a shutdown and powers it on again: as Reboot, but the clock may lose up to some
// seconds and is not safe (TPMS_CLOCK_INFO.safe = NO) for as long (TPM 2.0 Library, Part 1, Timing Components). It also
// revives a TPM whose process has died.
func (t *TPM) Crash(ctx context.Context) error {
	return t.cycle(ctx, "crashing", false, nil)
}

// cycle powers the TPM off, in order if wanted, lets change alter its state, and powers it on.
func (t *TPM) cycle(ctx context.Context, what string, orderly bool, change func() error) error {
	fail := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("tpmsim: %s %s: %w", what, label(t.opts), err)
	}
	if err := t.take(ctx); err != nil {
		return fail(err)
	}
	defer t.give()
	if errors.Is(t.off, ErrClosed) {
		return ErrClosed
	}
	if orderly && t.Alive() {
		if err := t.shutdown(); err != nil {
			return fail(err)
		}
	}
	if d := t.powerOff(); d != nil {
		end := d.kill
		if orderly {
			end = d.stop
		}
		if err := end(); err != nil {
			return fail(err)
		}
	}
	if change != nil {
		if err := change(); err != nil {
			return fail(errors.Join(err, t.powerOn(ctx)))
		}
	}
	return fail(t.powerOn(ctx))
}

// Close shuts the TPM down in order and ends its process; that takes milliseconds and at most some seconds. Clients get
// [ErrClosed] from then on. A second Close does nothing. ctx bounds only the wait for a command that is being run: when it
// is over before the TPM is free, the power is cut instead, and the error says so. An idle TPM is shut down in order even if
// ctx is over already.
func (t *TPM) Close(ctx context.Context) error {
	var errs []error
	if err := t.take(ctx); err != nil {
		// Killing the process ends the command that holds the turn.
		errs = append(errs, err, t.Kill())
		t.turn <- struct{}{}
	}
	defer t.give()
	if errors.Is(t.off, ErrClosed) {
		return nil
	}
	if t.Alive() {
		errs = append(errs, t.shutdown())
	}
	if d := t.powerOff(); d != nil {
		errs = append(errs, d.stop())
	}
	t.off = ErrClosed
	t.end(ErrClosed)
	errs = append(errs, t.state.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tpmsim: closing %s: %w", label(t.opts), err)
	}
	return nil
}

// Kill kills the TPM's process and nothing else, as a fault: [TPM.Done] closes and [TPM.Err] tells. [TPM.Crash] brings it
// back.
func (t *TPM) Kill() error {
	t.life.Lock()
	d, done := t.dev, t.done
	t.life.Unlock()
	if d == nil {
		return nil
	}
	if err := d.kill(); err != nil {
		return err
	}
	// Return only when Err tells of it, unless the end was taken as an orderly one.
	select {
	case <-done:
	case <-time.After(stopGrace):
	}
	return nil
}

// Alive tells whether the TPM's process runs.
func (t *TPM) Alive() bool {
	t.life.Lock()
	defer t.life.Unlock()
	return t.dev != nil
}

// Done returns a channel that is closed when the process dies unasked or the TPM is closed. A reboot does not close it.
// After a TPM has been revived there is a new channel.
func (t *TPM) Done() <-chan struct{} {
	t.life.Lock()
	defer t.life.Unlock()
	return t.done
}

// Err returns why Done is closed: a [*ProcessError] with the output of the process, or [ErrClosed]; nil while the TPM is
// well.
func (t *TPM) Err() error {
	t.life.Lock()
	defer t.life.Unlock()
	return t.err
}

// PID returns the id of the TPM's process, 0 if there is none. It changes with every reboot.
func (t *TPM) PID() int {
	t.life.Lock()
	defer t.life.Unlock()
	if t.dev == nil {
		return 0
	}
	return t.dev.pid()
}

// unusable explains why commands cannot be run now, nil if they can. The caller has the turn.
func (t *TPM) unusable() error {
	if t.off != nil {
		return t.off
	}
	return t.Err()
}

// Snapshot writes the whole state of the TPM into dir, which must not exist yet or be empty. The state is that of an orderly
// shutdown at this moment; the TPM itself goes on.
func (t *TPM) Snapshot(ctx context.Context, dir string) error {
	if err := t.take(ctx); err != nil {
		return fmt.Errorf("tpmsim: snapshot of %s: %w", label(t.opts), err)
	}
	defer t.give()
	err := t.unusable()
	if err == nil {
		err = t.shutdown()
	}
	if err == nil {
		err = t.state.copyTo(dir)
	}
	if err != nil {
		return fmt.Errorf("tpmsim: snapshot of %s into %s: %w", label(t.opts), dir, err)
	}
	return nil
}

// Restore powers the TPM off, replaces its whole state by that in dir, which [TPM.Snapshot] wrote, and powers it on. Clients
// stay connected, as with [TPM.Reboot]. Clock and counters go back with the rest: a verifier that has seen later ones will
// notice.
func (t *TPM) Restore(ctx context.Context, dir string) error {
	meta, err := readMeta(dir)
	if err == nil {
		err = meta.fits(t.opts.Backend)
	}
	if err != nil {
		return fmt.Errorf("tpmsim: restoring %s from %s: %w", label(t.opts), dir, err)
	}
	return t.cycle(ctx, "restoring "+dir+" to", false, func() error { return t.state.replaceBy(dir) })
}

// removeAll is os.RemoveAll with an error that says why it was called.
func removeAll(path, why string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing %s: %w", why, err)
	}
	return nil
}
