package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/lab/netns/sandbox"
)

func TestMain(m *testing.M) {
	roles := sandbox.Roles{Supervise: supervise, Test: func(context.Context) error { return errors.New(os.Getenv("TRY")) }}
	if os.Getenv("TRY") == "" {
		roles.Test = func(context.Context) error { return nil }
	}
	if status, handled := sandbox.Main(os.Args, roles); handled {
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// supervise is the supervisor of these tests. It makes a grandchild that nobody asks after, tells through its first file
// what it is and sees, and then does as it is told through its second.
func supervise(lab string, args []string, files func(int) *os.File) error {
	tell, orders := files(0), files(1)
	child := exec.Command("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!") // it must not hold our pipe
	orphan, err := child.Output()
	if err != nil {
		return err
	}
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	run, err := os.ReadDir("/run")
	if err != nil {
		return err
	}
	var inRun []string
	for _, e := range run {
		inRun = append(inRun, e.Name())
	}
	fmt.Fprintf(tell, "%s %s pid %d ppid %d uid %d orphan %s links %s run %s\n", lab, strings.Join(args, ","), os.Getpid(), os.Getppid(), os.Getuid(),
		strings.TrimSpace(string(orphan)), strings.Join(names, ","), strings.Join(inRun, ","))
	order, err := bufio.NewReader(orders).ReadString('\n')
	switch {
	case err != nil:
		return fmt.Errorf("no orders: %w", err)
	case order == "fail\n":
		return errors.New("as ordered")
	}
	return nil
}

// box is a sandbox with the test's supervisor in it.
type box struct {
	*sandbox.Process
	told   string
	orders *os.File
	log    *os.File
	pipe   *bufio.Reader // whose other end every process of the sandbox may have: its end is theirs
}

func start(t *testing.T) *box {
	t.Helper()
	tell, far := pipe(t)
	order, orders := pipe(t)
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	p, err := sandbox.Start(sandbox.Config{Lab: "box", Args: []string{"a", "b c"}, Files: []*os.File{far, order}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	order.Close()
	t.Cleanup(func() { _ = p.Kill() })
	if err := tell.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := &box{Process: p, orders: orders, log: log, pipe: bufio.NewReader(tell)}
	if b.told, err = b.pipe.ReadString('\n'); err != nil {
		t.Fatalf("the supervisor tells nothing: %v\n%s", err, b.logged(t))
	}
	return b
}

func (b *box) logged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(b.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ended waits for the sandbox's end and for that of every process in it.
func (b *box) ended(t *testing.T, inside []*os.File) {
	t.Helper()
	select {
	case <-b.Done():
	case <-time.After(time.Minute):
		t.Fatal("waited a minute for the sandbox to end")
	}
	for _, f := range inside {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, 0); err != nil || n != 1 {
			t.Errorf("a process of the sandbox outlived it (%d, %v)", n, err)
		}
		f.Close()
	}
	if _, err := b.pipe.ReadByte(); err == nil {
		t.Error("something still holds the supervisor's file")
	}
}

// processes holds the supervisor and the orphan by pidfds: their children in this PID namespace.
func (b *box) processes(t *testing.T) []*os.File {
	t.Helper()
	var held []*os.File
	for todo := []int{b.PID()}; len(todo) > 0; todo = todo[1:] {
		fd, err := unix.PidfdOpen(todo[0], 0)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, os.NewFile(uintptr(fd), "process"))
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", todo[0]))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", todo[0], task.Name()))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range strings.Fields(string(children)) {
				pid, err := strconv.Atoi(c)
				if err != nil {
					t.Fatal(err)
				}
				todo = append(todo, pid)
			}
		}
	}
	if len(held) < 3 {
		t.Fatalf("%d processes in the sandbox, want init, supervisor and an orphan", len(held))
	}
	return held
}

func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	return read, write
}

// The supervisor is root in namespaces of its own, with nothing of the host's in its network and its /run.
func TestSandbox(t *testing.T) {
	b := start(t)
	const want = "box a,b c pid "
	if !strings.HasPrefix(b.told, want) || !strings.Contains(b.told, " ppid 1 uid 0 ") || !strings.Contains(b.told, " links lo run keylab,netns\n") {
		t.Errorf("the supervisor sees: %s", b.told)
	}
	inside := b.processes(t)
	fmt.Fprintln(b.orders, "end")
	b.ended(t, inside)
	if err := b.Err(); err != nil {
		t.Errorf("an orderly end: %v\n%s", err, b.logged(t))
	}
}

// However a sandbox ends, nothing of it is left.
func TestEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, b *box)
		log  string // what is said about it
	}{
		{"supervisor fails", func(_ *testing.T, b *box) { fmt.Fprintln(b.orders, "fail") }, "keylab: as ordered"},
		{"starter is gone", func(_ *testing.T, b *box) { b.orders.Close() }, "keylab: no orders: EOF"},
		{"init is killed", func(t *testing.T, b *box) {
			if err := b.Kill(); err != nil {
				t.Error(err)
			}
		}, ""},
		{"supervisor is killed", func(t *testing.T, b *box) {
			// Process 2 of the sandbox is the first child of its init.
			if err := unix.Kill(firstChild(t, b.PID()), unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}, "the lab's supervisor was ended by signal killed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := start(t)
			inside := b.processes(t)
			test.end(t, b)
			b.ended(t, inside)
			if b.Err() == nil {
				t.Error("the end is not told as an error")
			}
			if log := b.logged(t); !strings.Contains(log, test.log) {
				t.Errorf("the log says %q, want %q", log, test.log)
			}
		})
	}
}

// firstChild is the oldest child of a process that is not an adopted orphan: the one that runs this program.
func firstChild(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range strings.Fields(string(children)) {
			args, err := os.ReadFile("/proc/" + c + "/cmdline")
			if err == nil && strings.Contains(string(args), "\x00supervisor\x00") {
				n, err := strconv.Atoi(c)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	t.Fatalf("process %d has no supervisor", pid)
	return 0
}

func TestTry(t *testing.T) {
	if out, err := sandbox.Try(t.Context()); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Setenv("TRY", "the kernel says no")
	if out, err := sandbox.Try(t.Context()); err == nil || !strings.Contains(out, "keylab: the kernel says no") {
		t.Errorf("a failing test: %q, %v", out, err)
	}
}

func TestMainLeavesUsersAlone(t *testing.T) {
	for _, args := range [][]string{{"keylab"}, {"keylab", "up"}, {"keylab", "up", "a", "b", "c"}, {"keylab", sandbox.Marker, "init"}} {
		if status, handled := sandbox.Main(args, sandbox.Roles{}); handled {
			t.Errorf("%q was answered, with status %d", args, status)
		}
	}
}
