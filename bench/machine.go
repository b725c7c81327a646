package bench

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Machine is where the figures come from: figures of different machines cannot be compared.
type Machine struct {
	CPUs        int    `json:"cpus"`
	CPU         string `json:"cpu"` // the model, as /proc/cpuinfo has it
	MemoryMiB   int    `json:"memory_mib"`
	Kernel      string `json:"kernel"`
	OS          string `json:"os"`
	Go          string `json:"go"`
	Keylab      string `json:"keylab"`        // the commit of this program, if it was stamped
	LoadAtStart string `json:"load_at_start"` // load averages over 1, 5 and 15 minutes
	LoadAtEnd   string `json:"load_at_end"`
}

// Busy says that the machine had other work at the start: runnable processes for more than a quarter of its processors.
func (m Machine) Busy() bool {
	first, _, _ := strings.Cut(m.LoadAtStart, " ")
	load, err := strconv.ParseFloat(first, 64)
	return err == nil && load > 0.25*float64(m.CPUs)
}

// String is the machine in a few lines.
func (m Machine) String() string {
	text := fmt.Sprintf("%d CPUs (%s), %d MiB, Linux %s, %s, %s, keylab %s\nload average at start %s",
		m.CPUs, m.CPU, m.MemoryMiB, m.Kernel, m.OS, m.Go, m.Keylab, m.LoadAtStart)
	if m.Busy() {
		text += "  ! the machine is busy with other work: wall times will be too long, processor times and ratios are the better figures"
	}
	return text
}

// readMachine describes this machine, and keylab by its version. What is not told is "unknown".
func readMachine(version string) Machine {
	m := Machine{CPUs: runtime.NumCPU(), CPU: "unknown", Kernel: "unknown", OS: "unknown", Go: runtime.Version(), Keylab: "unknown", LoadAtStart: loadAverage()}
	if v, ok := field("/proc/cpuinfo", "model name", ":"); ok {
		m.CPU = v
	}
	if v, ok := field("/proc/meminfo", "MemTotal", ":"); ok {
		kib, err := strconv.Atoi(strings.TrimSuffix(v, " kB"))
		if err == nil {
			m.MemoryMiB = kib / 1024
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(data))
	}
	if v, ok := field("/etc/os-release", "PRETTY_NAME", "="); ok {
		m.OS = strings.Trim(v, `"`)
	}
	if version != "" {
		m.Keylab = version
	} else if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && s.Value != "" {
				m.Keylab = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return m
}

// field finds the value of the first line that begins with key, in a file of lines such as "key : value".
func field(path, key, separator string) (string, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(data)) {
		k, v, ok := strings.Cut(line, separator)
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// loadAverage is /proc/loadavg's first three numbers (proc_loadavg(5)).
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	fields := strings.Fields(string(data))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
