package tpmsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// orphanDir names, in a second process of this test binary, where that is to open a TPM and wait to be killed.
const orphanDir = "TPMSIM_TEST_ORPHAN_DIR"

func runOrphanParent() {
	name, dir, _ := strings.Cut(os.Getenv(orphanDir), ":")
	b, err := Select(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	tpm, err := Open(context.Background(), Options{Backend: b, Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(tpm.PID())
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
	os.Exit(1)
}

// A lab that is killed must leave no TPM behind, and the TPM's directory must be usable again.
func TestTPMEndsWithItsParent(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		dir := t.TempDir()
		parent := exec.Command("/proc/self/exe")
		parent.Env = append(os.Environ(), orphanDir+"="+b.Name()+":"+dir)
		stdin, err := parent.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		stdout, err := parent.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 200)
		n, err := stdout.Read(line)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:n])))
		if err != nil {
			t.Fatalf("the parent says %q", line[:n])
		}
		// A descriptor of the process tells of its end even when it is not our child and whoever reaps it is slow.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := parent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = parent.Wait()
		ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ended, 20000); err != nil || n != 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Errorf("the TPM's process is still there 20 s after its parent was killed (%v)", err)
		}
		openTPM(t, Options{Backend: b, Dir: dir})
	})
}

func TestCloseWithCommandRunning(t *testing.T) {
	tpm := openTPM(t, Options{Backend: Swtpm()})
	if err := syscall.Kill(tpm.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c := tpm.Client()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Send(newCommand(ccGetRandom, []byte{0, 8}))
		sent <- err
	}()
	for len(tpm.turn) == 0 {
		runtime.Gosched() // until the command runs
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tpm.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close of a stopped process: %v, want that the wait was over", err)
	}
	var pe *ProcessError
	if err := <-sent; !errors.As(err, &pe) {
		t.Errorf("the command that was running: %v", err)
	}
}

// A context that is over, as after Ctrl-C, must not turn the shutdown into a power cut.
func TestCloseOfIdleTPMIsOrderlyWhateverTheContext(t *testing.T) {
	o := Options{Backend: Swtpm(), Dir: t.TempDir()}
	for range 10 {
		tpm := openTPM(t, o)
		c := tpm.Client()
		if info := clockInfo(t, c); !info.Safe {
			t.Fatal("the clock is not safe")
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := tpm.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// Ctrl-C in a terminal signals the foreground process group: the TPM must not be in ours.
func TestTPMHasItsOwnProcessGroup(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		theirs, err := unix.Getpgid(tpm.PID())
		if err != nil {
			t.Fatal(err)
		}
		if theirs == unix.Getpgrp() {
			t.Error("the TPM's process is in the process group of this one")
		}
	})
}

func TestPermissionTroubleComesWithAHint(t *testing.T) {
	err := &ProcessError{PID: 1, Argv: []string{"swtpm", "socket"}, Status: "exit status 1", Output: "Could not open lockfile: Permission denied\n"}
	for _, want := range []string{"swtpm socket", "exit status 1", "lockfile", "AppArmor"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

func TestOpenRefusals(t *testing.T) {
	if _, err := Open(t.Context(), Options{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "Backend") {
		t.Errorf("no backend: %v", err)
	}
	if _, err := Open(t.Context(), Options{Backend: Swtpm()}); err == nil || !strings.Contains(err.Error(), "Options.Dir") {
		t.Errorf("no directory: %v", err)
	}
	dir := t.TempDir()
	tpm := openTPM(t, Options{Backend: Swtpm(), Dir: dir})
	if err := tpm.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Backend: otherBackend{Swtpm()}, Dir: dir}); err == nil || !strings.Contains(err.Error(), `made by backend "swtpm"`) {
		t.Errorf("another backend's state: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v (%v)", info.Mode(), err)
	}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == ".lock" {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

type otherBackend struct{ Backend }

func (otherBackend) Name() string { return "other" }

// Power may fail between any two steps of bringing in another state.
func TestInterruptedRestoreIsFinishedAtOpen(t *testing.T) {
	o := Options{Backend: Swtpm(), Dir: t.TempDir()}
	tpm := openTPM(t, o)
	id := manufacture(t, tpm, EKECCP256)
	if err := tpm.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	join := func(name string) string { return filepath.Join(o.Dir, name) }
	if err := errors.Join(os.Rename(join(stateName), join(oldName)), os.Mkdir(join(newName), 0o700)); err != nil {
		t.Fatal(err)
	}
	tpm = openTPM(t, o)
	if got, err := tpm.Identity(t.Context()); err != nil || !bytes.Equal(got.TPM2BPublic, id.TPM2BPublic) {
		t.Errorf("the TPM did not come back: %v", err)
	}
	if _, err := os.Stat(join(newName)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the unfinished state is left")
	}
}

func TestNothingIsLeftOpen(t *testing.T) {
	openFiles := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	files, routines := 0, 0
	for i := range 10 {
		t.Run("", func(sub *testing.T) {
			tpm := openTPM(sub, Options{Backend: Swtpm()})
			serveTCTI(sub, tpm)
			if err := errors.Join(tpm.Reboot(sub.Context()), tpm.Crash(sub.Context()), tpm.Kill(), tpm.Crash(sub.Context())); err != nil {
				sub.Fatal(err)
			}
		})
		if i == 0 {
			files, routines = openFiles(), runtime.NumGoroutine()
		}
	}
	if n := openFiles(); n > files {
		t.Errorf("%d open files after 10 TPMs, %d after the first", n, files)
	}
	if n := runtime.NumGoroutine(); n > routines {
		t.Errorf("%d goroutines after 10 TPMs, %d after the first", n, routines)
	}
}
