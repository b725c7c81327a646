package netns

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// An agent of the push model is registered when it has said so since it was started, whatever it said before.
func TestActivated(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	said := "INFO  keylime::agent_registration > SUCCESS: Agent u-1 activated\n"
	b := &binaryAgent{n: &node{uuid: "u-1"}, p: &process{log: log, from: int64(len(said))}}
	for _, test := range []struct {
		name, text string
		want       bool
	}{
		{"said before", said, false},
		{"registered alone", said + "INFO  keylime::agent_registration > SUCCESS: Agent u-1 registered\n", false},
		{"another agent", said + "INFO  keylime::agent_registration > SUCCESS: Agent u-2 activated\n", false},
		{"said now", said + "INFO  one more line\n" + said, true},
	} {
		if err := os.WriteFile(log, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.activated(); (err == nil) != test.want || errors.Is(err, errForbidden) {
			t.Errorf("%s: %v, want it to be active: %v", test.name, err, test.want)
		}
	}
	forbidden := said + "ERROR keylime_push_model_agent::state_machine > Registration failed: RegistrarClient(RegistrationForbidden { message: \"no\" })\n"
	if err := os.WriteFile(log, []byte(forbidden), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.activated(); !errors.Is(err, errForbidden) {
		t.Errorf("one that is not allowed to: %v", err)
	}
}
