package scenario

import (
	"testing"
	"time"
)

// A lab is looked at several times between two quotes, and a slow one no more rarely than a report's times should be exact.
func TestPollInterval(t *testing.T) {
	for quotes, want := range map[time.Duration]time.Duration{
		100 * time.Millisecond: pollAtLeast, 500 * time.Millisecond: 100 * time.Millisecond, 750 * time.Millisecond: 150 * time.Millisecond,
		time.Second: 200 * time.Millisecond, time.Minute: pollAtMost, 0: pollAtMost,
	} {
		if got := pollInterval(quotes); got != want {
			t.Errorf("with a quote every %s a lab is asked every %s, want %s", quotes, got, want)
		}
	}
}
