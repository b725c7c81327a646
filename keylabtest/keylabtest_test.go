package keylabtest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/keylabtest"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

func TestMain(m *testing.M) {
	os.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock") // what this machine's Docker has must not show
	keylabtest.Main(m)
}

// quick is a lab in which the verifier finds out sooner than by default.
func quick(nodes int) lab.Spec {
	s := lab.Spec{Nodes: lab.Nodes{Count: nodes}}
	s.Keylime.QuoteInterval = spec.Duration(500 * time.Millisecond)
	s.Keylime.Options = map[string]map[string]string{"verifier": {"max_retries": "2"}}
	return s
}

// A lab comes up, is proved, broken, seen to be broken, and mended; subtests share it.
func TestLab(t *testing.T) {
	l := keylabtest.New(t, quick(2))
	if !strings.HasPrefix(l.Name(), "testlab-") {
		t.Errorf("the lab's name is %q", l.Name())
	}
	l.Verify()
	before := l.Node("node-1").AttestationCount
	l.WaitAttested(2)
	if now := l.Node("node-1").AttestationCount; now < before+2 {
		t.Errorf("%d attestations, then %d; want 2 more", before, now)
	}
	if out := l.Exec("tenant", "getent", "hosts", "registrar."+l.Name()+".test"); !strings.Contains(out, "198.18.10.11") {
		t.Errorf("the tenant finds the registrar at %q", out)
	}
	t.Run("fault", func(t *testing.T) {
		l := l.With(t)
		mend := l.Break(control.Fault{Kind: "dead-agent", Nodes: []string{"node-2"}})
		l.WaitState("node-2", "agent dead")
		l.Verify("certificate node-2", "quote *", "attested node-2")
		mend()
		l.WaitAttested(1, "node-2")
	})
}

// tests that TestFailures runs in a process of its own, for they are to fail.
var inside = map[string]func(t *testing.T){
	"a check that fails": func(t *testing.T) {
		l := keylabtest.New(t, quick(1))
		l.Break(control.Fault{Kind: "open-router"})
		l.Verify("blocked *", "quote node-1")
	},
	"nothing of the kind happens": func(t *testing.T) {
		s := quick(1)
		s.Timeouts.Ready = spec.Duration(30 * time.Second)
		keylabtest.New(t, s).WaitState("node-1", "off")
	},
	"a lab that cannot come up": func(t *testing.T) {
		os.Setenv("PATH", filepath.Join(t.TempDir(), "empty")) // no swtpm
		keylabtest.New(t, quick(1))
	},
	"a scenario": func(t *testing.T) {
		keylabtest.RunScenario(t, keylabtest.Scenario(t, filepath.Join("testdata", "fails.yaml")))
	},
	"a killed test": func(t *testing.T) {
		l := keylabtest.New(t, quick(1))
		fmt.Printf("folder %s supervisor %d\n", os.Getenv(state.EnvBase), l.Now().PID)
		p, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = p.Kill()
		}
		t.Fatal(err)
	},
}

// envInside names one of those tests.
const envInside = "KEYLABTEST_INSIDE"

func TestInside(t *testing.T) {
	if test := inside[os.Getenv(envInside)]; test != nil {
		test(t)
	}
}

// fails runs one of those tests, which must fail, and returns what was printed and where it keeps things.
func fails(t *testing.T, name string) (out, kept string) {
	t.Helper()
	kept = t.TempDir()
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run", "^TestInside$")
	c.Env = append(os.Environ(), envInside+"="+name, keylabtest.EnvArtifacts+"="+kept)
	text, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%v, want an exit status other than 0\n%s", err, text)
	}
	return string(text), kept
}

func wants(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("the output does not say %q", text)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func exists(t *testing.T, pattern string) {
	t.Helper()
	if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
		t.Errorf("nothing is kept as %s: %v", pattern, err)
	}
}

// A failed test says which check failed and why, shows the logs' ends, and keeps the logs where it was told to.
func TestFailedCheck(t *testing.T) {
	t.Parallel()
	out, kept := fails(t, "a check that fails")
	wants(t, out, ": check drops-counted dropped-services-to-cluster failed: ", ": check quote node-1 should have failed, and did not", "the log of verifier of lab testinside-", "--- FAIL: TestInside")
	exists(t, filepath.Join(kept, "TestInside", "testinside-*", "logs", "verifier.log"))
	exists(t, filepath.Join(kept, "TestInside", "testinside-*", "plan.json"))
}

// What does not happen is named, with what is there instead.
func TestTimeout(t *testing.T) {
	t.Parallel()
	out, _ := fails(t, "nothing of the kind happens")
	wants(t, out, "waiting for node-1 to be off: not within 30s; last: node-1 is attested")
}

// Where the machine lacks something, the test fails, and says what and what to do.
func TestMachineThatCannot(t *testing.T) {
	t.Parallel()
	out, _ := fails(t, "a lab that cannot come up")
	wants(t, out, "bring lab testinside-", "keylab doctor: swtpm: ", "apt-get install swtpm")
}

// A scenario's steps are subtests; one that fails says why, those after it are skipped, and the report is kept.
func TestScenarioThatFails(t *testing.T) {
	t.Parallel()
	out, kept := fails(t, "a scenario")
	wants(t, out,
		"--- PASS: TestInside/bring_the_lab_up", "--- PASS: TestInside/1_expect_node-1,_1_good_attestation_more", "--- FAIL: TestInside/2_it_is_off_by_itself",
		"not within 500ms; node-1 was attested", "--- SKIP: TestInside/3_", "--- PASS: TestInside/take_the_lab_down", "scenario fails (pull, netns): failed: step 2, it is off by itself")
	exists(t, filepath.Join(kept, "TestInside", "fails", "report.html"))
}

// A scenario that passes, also where -run leaves its steps' subtests out.
func TestScenario(t *testing.T) {
	t.Parallel()
	run := keylabtest.RunScenario(t, keylabtest.Scenario(t, filepath.Join("testdata", "lost-agent.yaml")))
	if !run.Passed() || len(run.Steps) != 7 || run.Polls < 2 || run.Polling <= 0 {
		t.Errorf("%s, %d steps, %d polls in %s", run.Verdict, len(run.Steps), run.Polls, run.Polling)
	}
}

// The lab of a test that was killed is gone soon, with its folder.
func TestKilled(t *testing.T) {
	t.Parallel()
	out, _ := fails(t, "a killed test")
	m := regexp.MustCompile(`folder (\S+) supervisor (\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no lab came up:\n%s", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, folder := os.Stat(m[1])
		_, process := os.Stat("/proc/" + m[2])
		if errors.Is(folder, fs.ErrNotExist) && errors.Is(process, fs.ErrNotExist) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited a minute for the folder %s (%v) and the supervisor %s (%v) to go", m[1], folder, m[2], process)
		}
	}
}
