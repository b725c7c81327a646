package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// proc is one process, told from a later one with the same number by its start.
type proc struct {
	pid     int
	state   string // R, S, Z, …
	started string // in clock ticks after boot (proc_pid_stat(5), field 22)
	args    string
}

func (p proc) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.args) }

// readProc reads a process and the number of its parent.
func readProc(pid int) (p proc, parent int, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, 0, err
	}
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, 0, err
	}
	// The name, in parentheses, may hold anything; the state is the first field after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return p, 0, fmt.Errorf("%s/stat: %q", dir, stat)
	}
	parent, err = strconv.Atoi(fields[1])
	return proc{pid, fields[0], fields[19], string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte(" ")))}, parent, err
}

// family is a process and all that descend from it.
func family(t *testing.T, root int) []proc {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	all, children := map[int]proc{}, map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, parent, err := readProc(pid); err == nil {
			all[pid] = p
			children[parent] = append(children[parent], pid)
		}
	}
	var out []proc
	for todo := []int{root}; len(todo) > 0; todo = todo[1:] {
		if p, ok := all[todo[0]]; ok {
			out = append(out, p)
			todo = append(todo, children[todo[0]]...)
		}
	}
	return out
}

// labProcesses are all processes of a lab, by its supervisor; the first is the sandbox' first process.
func labProcesses(t *testing.T, supervisor int) []proc {
	t.Helper()
	_, init, err := readProc(supervisor)
	if err != nil {
		t.Fatalf("the supervisor, %d: %v", supervisor, err)
	}
	return family(t, init)
}

// find are the processes whose command lines hold all these words.
func find(t *testing.T, all []proc, words ...string) []proc {
	t.Helper()
	var out []proc
	for _, p := range all {
		found := true
		for _, w := range words {
			found = found && strings.Contains(p.args, w)
		}
		if found {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no process with %q among %v", words, all)
	}
	return out
}

// kill9 kills processes and returns when they are gone.
func kill9(t *testing.T, all ...proc) {
	t.Helper()
	for _, p := range all {
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatalf("kill %v: %v", p, err)
		}
	}
	awaitGone(t, all...)
}

// awaitGone waits until processes are gone, or are zombies whose parent has not asked for them yet.
func awaitGone(t *testing.T, all ...proc) {
	t.Helper()
	for _, p := range all {
		await(t, fmt.Sprintf("the end of process %v", p), func() bool {
			now, _, err := readProc(p.pid)
			return err != nil || now.started != p.started || now.state == "Z" || now.state == "X"
		})
	}
}

// await polls until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	// A verifier gives an agent up after max_retries (3) requests more, each of which may take its 20 s.
	const limit = 2 * time.Minute
	deadline := time.After(limit)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", limit, what)
		}
	}
}

// nothingOnHost checks that this machine itself shows nothing of a lab: no mount, no link, and, of a lab that has ended,
// no socket.
func nothingOnHost(t *testing.T, key string, running bool) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "dockerd") {
			continue // a Docker daemon's own (scripts/dockerd.sh)
		}
		if strings.Contains(line, "keylab") || strings.Contains(line, "/run/netns/") {
			t.Errorf("a mount on the host: %s", line)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.HardwareAddr.String(), "02:4b:4c:") {
			t.Errorf("a link on the host: %s %s", l.Name, l.HardwareAddr)
		}
	}
	await(t, fmt.Sprintf("the lab's control socket to be there: %v", running), func() bool {
		sockets, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(sockets), "/"+key) == running
	})
}
