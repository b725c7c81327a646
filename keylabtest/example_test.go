package keylabtest_test

import (
	"testing"

	"keylab.dev/keylab/keylabtest"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/scenario"
)

// t is what a test is given.
var t *testing.T

// The body of TestMain in a package with labs.
func ExampleMain() {
	_ = func(m *testing.M) { keylabtest.Main(m) }
}

// A lab of two nodes, which the test breaks and mends.
func ExampleNew() {
	l := keylabtest.New(t, lab.Spec{Nodes: lab.Nodes{Count: 2}})
	l.Verify()

	mend := l.Break(control.Fault{Kind: "dead-agent", Nodes: []string{"node-2"}})
	l.WaitState("node-2", "failed")
	l.Verify("* node-2") // checks of node-2 fail, and no others
	mend()
	l.WaitAttested(1)
}

// A lab from a file, which several subtests share.
func ExampleLab_With() {
	l := keylabtest.New(t, keylabtest.Spec(t, "testdata/lab.yaml"))
	t.Run("proofs", func(t *testing.T) { l.With(t).Verify() })
	t.Run("reboot", func(t *testing.T) {
		l := l.With(t)
		l.Do("reboot", "node-1")
		l.WaitAttested(2, "node-1")
	})
}

// A scenario of the library in the push model, and one of the test's own.
func ExampleRunScenario() {
	keylabtest.RunScenario(t, keylabtest.Scenario(t, "node-crash"), func(o *scenario.Options) { o.Mode = spec.ModePush })
	keylabtest.RunScenario(t, keylabtest.Scenario(t, "testdata/lost-node.yaml"))
}
