package netns

import (
	"os"
	"path/filepath"
	"testing"
)

// What an agent of the push model said before it was started again does not make it registered.
func TestActivated(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	said := "INFO  keylime::agent_registration > SUCCESS: Agent u-1 activated\n"
	b := &binaryAgent{n: &node{uuid: "u-1"}, p: &process{log: log, from: int64(len(said))}}
	for text, want := range map[string]bool{said: false, said + "INFO  one more line\n" + said: true} {
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.activated(); (err == nil) != want {
			t.Errorf("after %q: %v, want it to be active: %v", text, err, want)
		}
	}
}
