package kind

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// A log goes on where it ended, with what a successor prints, and has no line twice.
func TestFollow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked []time.Time
	turns := []string{
		"2026-01-01T10:00:00.100000000Z one\n2026-01-01T10:00:00.200000000Z \n2026-01-01T10:00:00.300000000Z two words\n",
		"", // cannot be read
		// The source knows whole seconds only.
		"2026-01-01T10:00:00.200000000Z \n2026-01-01T10:00:00.300000000Z two words\n2026-01-01T10:00:01Z three\n",
	}
	s := logSource{"node-1", func(_ context.Context, since time.Time) (io.ReadCloser, error) {
		asked = append(asked, since)
		text := turns[0]
		turns = turns[1:]
		if len(turns) == 0 {
			cancel()
		}
		if text == "" {
			return nil, errors.New("no such pod")
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}}
	var out bytes.Buffer
	s.follow(ctx, &out)
	if want := "one\n\ntwo words\nthree\n"; out.String() != want {
		t.Errorf("the log is %q, want %q", out.String(), want)
	}
	if last := time.Date(2026, 1, 1, 10, 0, 0, 3e8, time.UTC); len(asked) != 3 || !asked[0].IsZero() || !asked[2].Equal(last) {
		t.Errorf("it was asked for what was printed after %v, want nothing and %v", asked, last)
	}
}
