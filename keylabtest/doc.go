// Package keylabtest is Keylime labs and scenarios in Go tests.
//
//	func TestMain(m *testing.M) { keylabtest.Main(m) }
//
//	func TestFleet(t *testing.T) {
//		l := keylabtest.New(t, lab.Spec{Nodes: lab.Nodes{Count: 2}})
//		l.Verify()
//		mend := l.Break(control.Fault{Kind: "dead-agent", Nodes: []string{"node-2"}})
//		l.WaitState("node-2", "failed")
//		mend()
//		l.WaitAttested(1)
//	}
//
//	func TestLostNode(t *testing.T) {
//		keylabtest.RunScenario(t, keylabtest.Scenario(t, "testdata/lost-node.yaml"))
//	}
//
// Every lab has a name of its own, so tests can be parallel, and is gone when its test ends; also when the test binary is killed, is interrupted, or runs
// into its -timeout: a process of this package outlives it for that. A lab of three nodes takes some seconds, and the first one on a machine installs
// Keylime, so a package of many labs may need a longer -timeout than go test's ten minutes.
//
// The test fails, it is not skipped, where the machine cannot run a lab; it says what is missing and what mends it, as `keylab doctor` does.
//
// # After a failure
//
// The ends of the lab's logs are in the test's output. To keep more, give an absolute folder in KEYLAB_ARTIFACTS, or `go test -artifacts`: a failed test
// then leaves all logs, the configuration, the plan and the certificates there, but no private key; and every scenario, failed or not, its report.
package keylabtest
