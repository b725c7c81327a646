// Package lab is keylab as a library: a Keylime remote-attestation lab from a Go program or a Go test.
//
//	func TestMain(m *testing.M) {
//		lab.Init() // answers the calls by which the lab's supervisor is started
//		os.Exit(m.Run())
//	}
//
//	func TestAttestation(t *testing.T) {
//		l, err := lab.Up(t.Context(), lab.Spec{Nodes: lab.Nodes{Count: 2}}, lab.UpOptions{})
//		if err != nil {
//			t.Fatal(err)
//		}
//		defer l.Wipe(context.Background())
//		result, err := l.Verify(t.Context())
//		...
//	}
//
// What the user writes is a Spec (package spec); what will be built follows from it alone, a plan (package plan); a
// substrate carries the plan out (package netns); and verify proves that the result is what it claims to be
// (package verify).
package lab
