// Package machine tells what this machine has to give.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// AvailableMemory is what can still be used without swapping, in MiB (proc_meminfo(5), MemAvailable); 0: unknown.
func AvailableMemory() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var kib int
		if strings.HasPrefix(lines.Text(), "MemAvailable:") {
			if _, err := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}
