package scenarios_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"keylab.dev/keylab/keylabtest"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/scenario"
)

// envDisarmed asks for TestDisarmed: `make scenarios DISARM=1` sets it. Its value is the names of the scenarios, or all.
const envDisarmed = "KEYLAB_DISARMED"

// inTheLab are the scenarios whose cause is the lab itself, so that there is nothing to leave out.
var inTheLab = map[string]string{
	"push-token-expires": "its short sessions are options of its lab",
}

// TestDisarmed runs the library on real labs with all that is done or broken left out. A scenario that passes then would pass when Keylime, or keylab, did
// nothing. It takes long, as every expectation that is not met waits until its deadline; but the labs are idle, so -parallel may be many times the number
// of processors.
func TestDisarmed(t *testing.T) {
	names := os.Getenv(envDisarmed)
	if names == "" {
		return // not skipped: it is another check, which make has a target for
	}
	ran := 0
	for _, s := range library(t) {
		if names != "all" && !contains(names, s.Name) {
			continue
		}
		for _, mode := range s.Modes {
			ran++
			t.Run(fmt.Sprintf("%s-%s", s.Name, mode), func(t *testing.T) {
				t.Parallel()
				run := keylabtest.Play(t, s, func(o *scenario.Options) { o.Mode, o.Disarmed = mode, true })
				switch run.Verdict {
				case report.Failed:
					t.Log(run.Reason())
				case report.Passed:
					if why := inTheLab[s.Name]; why != "" {
						t.Logf("it passes, as it must: %s", why)
						return
					}
					t.Error("it passes though nothing was done or broken: nothing in it would notice")
				default:
					t.Errorf("it could not be carried out: %s: %s", run.Verdict, run.Reason())
				}
			})
		}
	}
	if ran == 0 {
		t.Errorf("%s=%s names no scenario of the library", envDisarmed, names)
	}
}

func contains(names, name string) bool {
	for n := range strings.FieldsSeq(names) {
		if n == name {
			return true
		}
	}
	return false
}
