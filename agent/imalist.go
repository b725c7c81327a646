package agent

import (
	"bytes"
	"fmt"
	"io"
)

// imaList reads the IMA list from entry number nth on. It returns the text and
// the number of its first entry, which is 0 when the list has no entry nth yet
// (the verifier then replays the whole list); nth equal to the number of entries
// gives an empty text.
func (a *Agent) imaList(nth uint64) (text string, first uint64, err error) {
	file, err := a.cfg.IMAList()
	if err != nil {
		return "", 0, fmt.Errorf("opening the IMA list: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(file)
	if err != nil {
		return "", 0, fmt.Errorf("reading the IMA list: %w", err)
	}
	rest := data
	for range nth {
		_, after, found := bytes.Cut(rest, []byte("\n"))
		if !found {
			return string(data), 0, nil
		}
		rest = after
	}
	return string(rest), nth, nil
}
