package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"keylab.dev/keylab/internal/atomicfile"
)

// readCount is the number in a file: 0 where there is none. what says what is counted, for the error.
func readCount(file, what string) (int, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	count := 0
	if err == nil {
		count, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return count, nil
}

// writeCount puts a number into a file.
func writeCount(file string, count int) error {
	return atomicfile.Write(file, []byte(strconv.Itoa(count)+"\n"), 0o600)
}
