package scenario

import (
	"slices"
	"testing"
	"time"

	"keylab.dev/keylab/lab/spec"
)

// Of jobs that go side by side those begin first that may take long.
func TestOrder(t *testing.T) {
	waits := func(s ...Step) Job { return Job{Scenario: Scenario{Steps: s}} }
	minute := spec.Duration(time.Minute)
	jobs := []Job{
		waits(Step{}), waits(Step{Within: minute}, Step{}), waits(Step{Within: minute}, Step{Hold: minute}), waits(), waits(Step{}, Step{Within: minute}),
	}
	if got, want := order(jobs, 2), []int{2, 1, 4, 0, 3}; !slices.Equal(got, want) {
		t.Errorf("two at once: %v, want %v", got, want)
	}
	if got, want := order(jobs, 1), []int{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("one by one: %v, want %v", got, want)
	}
}
