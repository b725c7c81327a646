package lab_test

import (
	"context"
	"testing"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// An agent whose registrar does not answer has ended once the time for its registration is over, and the same fault, taken
// away again when the registrar is back, starts it anew.
func TestAgentCannotRegister(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"pull", "push"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := quick(t, "name: unregistered-"+mode+"\nnodes: [{name: a}]\nkeylime: {mode: "+mode+"}\n")
			s.Keylime.QuoteInterval = spec.Duration(time.Second)
			l := up(t, s)
			dead := control.Fault{Kind: control.FaultDeadAgent, Nodes: []string{"a"}}
			down := control.Fault{Kind: control.FaultServiceDown, Component: "registrar"}
			inflict(t, l, dead)
			inflict(t, l, down)
			dead.Clear = true
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if done, err := l.Fault(ctx, dead); err == nil {
				t.Fatalf("the agent was started without a registrar: %s", done)
			}
			await(t, "the agent to have ended", func() bool { return node(t, l, "a").State == "agent dead" })
			mend(t, l, down)
			inflict(t, l, dead)
			wantState(t, l, "a", "attested")
			verify(t, l)
		})
	}
}
