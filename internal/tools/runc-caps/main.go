// Command runc-caps is runc for a machine on which even root lacks a capability. Docker gives a privileged container every
// capability there is, and runc fails when it cannot. This program takes those away that it does not have itself from what
// the container is to get, and then becomes runc. Where nothing is lacking it changes nothing.
//
//	runc-caps RUNC-PATH ARGUMENTS...
//
// Docker runs it as a default runtime, with the path in runtimeArgs.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	fmt.Fprintf(os.Stderr, "runc-caps: %v\n", run(os.Args))
	os.Exit(1)
}

// run becomes runc; when it returns, it says why it could not.
func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: runc-caps RUNC-PATH ARGUMENTS")
	}
	missing, err := missingCapabilities()
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if file, key := specification(args[2:]); file != "" {
			if err := restrict(file, key, missing); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("execute %s: %w", args[1], syscall.Exec(args[1], args[1:], os.Environ()))
}

// specification finds the file that says what the process gets: the bundle's config.json for create and run, in which the
// process is an object of its own, or the process file of exec.
func specification(args []string) (file, key string) {
	command := ""
	bundle, process := ".", ""
	for i, a := range args {
		name, value, joined := strings.Cut(a, "=")
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "create", "run", "exec":
			if command == "" {
				command = name
			}
		case "--bundle", "-b":
			bundle = value
		case "--process", "-p":
			process = value
		}
	}
	switch command {
	case "create", "run":
		return filepath.Join(bundle, "config.json"), "process"
	case "exec":
		return process, ""
	}
	return "", ""
}

// restrict takes capabilities out of a file of the OCI runtime specification.
func restrict(file, key string, missing []string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	spec := map[string]any{}
	numbers := json.NewDecoder(bytes.NewReader(data))
	numbers.UseNumber() // limits do not fit into a float
	if err := numbers.Decode(&spec); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	process := spec
	if key != "" {
		process, _ = spec[key].(map[string]any)
	}
	sets, _ := process["capabilities"].(map[string]any)
	for name, set := range sets {
		list, _ := set.([]any)
		sets[name] = slices.DeleteFunc(list, func(c any) bool { s, _ := c.(string); return slices.Contains(missing, s) })
	}
	if data, err = json.Marshal(spec); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.WriteFile(file, data, 0o600)
}

// names are those capabilities that a machine may be without, by number (linux/capability.h).
var names = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// missingCapabilities are those that this process could not pass on: they are not in its bounding set (capabilities(7)).
func missingCapabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		value, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read the bounding set %q: %w", line, err)
		}
		var missing []string
		for n, name := range names {
			if bits&(1<<n) == 0 {
				missing = append(missing, name)
			}
		}
		return missing, nil
	}
	return nil, fmt.Errorf("/proc/self/status names no bounding set")
}
