package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every Linux architecture that Go has.
const ticksPerSecond = 100

// process is a line of the process table.
type process struct {
	pid, parent int
	argv        []string
	cpu         time.Duration // user and system, of itself and of the children that it has waited for
}

// processTree is the process root and everything below it, root first. Processes that end meanwhile are left out.
func processTree(root int) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	children := map[int][]process{}
	var first *process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readProcess(pid)
		if err != nil {
			if gone(err) {
				continue
			}
			return nil, err
		}
		if pid == root {
			first = &p
		}
		children[p.parent] = append(children[p.parent], p)
	}
	if first == nil {
		return nil, fmt.Errorf("there is no process %d", root)
	}
	tree := []process{*first}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i].pid]...)
	}
	return tree, nil
}

// gone tells that a process has ended between two looks at it.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func readProcess(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	p, err := parseStat(string(stat))
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	p.argv = strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	return p, nil
}

// parseStat reads a line of /proc/PID/stat (proc_pid_stat(5)). The name in parentheses may hold anything, parentheses too.
func parseStat(line string) (process, error) {
	open, end := strings.Index(line, "("), strings.LastIndex(line, ")")
	if open < 0 || end < open {
		return process{}, fmt.Errorf("%q is no line of /proc/PID/stat", line)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	if err != nil {
		return process{}, fmt.Errorf("%q is no line of /proc/PID/stat: %w", line, err)
	}
	// The fields after the name: state is the 3rd of the line, ppid the 4th, utime, stime, cutime and cstime the 14th to 17th.
	fields := strings.Fields(line[end+1:])
	const state, ppid, utime, cstime = 3, 4, 14, 17
	if len(fields) <= cstime-state {
		return process{}, fmt.Errorf("%q is no line of /proc/PID/stat: too short", line)
	}
	p := process{pid: pid}
	if p.parent, err = strconv.Atoi(fields[ppid-state]); err != nil {
		return process{}, fmt.Errorf("parent in %q: %w", line, err)
	}
	ticks := 0
	for i := utime - state; i <= cstime-state; i++ {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return process{}, fmt.Errorf("time in %q: %w", line, err)
		}
		ticks += n
	}
	p.cpu = time.Duration(ticks) * time.Second / ticksPerSecond
	return p, nil
}

// cpuTime is the processor time of all processes of the tree below root, root included.
func cpuTime(root int) (time.Duration, error) {
	parts, err := cpuByPart(root)
	var sum time.Duration
	for _, cpu := range parts {
		sum += cpu
	}
	return sum, err
}

// cpuByPart is the processor time of the tree below a lab's supervisor, by part of the lab.
func cpuByPart(supervisor int) (map[string]time.Duration, error) {
	tree, err := processTree(supervisor)
	if err != nil {
		return nil, err
	}
	parts := map[string]time.Duration{}
	for _, p := range tree {
		part := partOf(p.argv)
		if p.pid == supervisor {
			part = partSupervisor
		}
		parts[part] += p.cpu
	}
	return parts, nil
}

// pss is a process' proportional set size in MiB: its own pages, and its share of those that others use too (proc_pid_smaps(5)).
func pss(pid int) (float64, error) {
	path := filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup")
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")))
			if err != nil {
				return 0, fmt.Errorf("%s: %q: %w", path, line, err)
			}
			return float64(kib) / 1024, nil
		}
	}
	return 0, fmt.Errorf("%s has no line Pss", path)
}
