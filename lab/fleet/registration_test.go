package fleet

import (
	"errors"
	"strings"
	"testing"
)

// An agent of the push model is registered when it has said so of the UUID that is asked for, whichever program it is.
func TestActivated(t *testing.T) {
	rust := "INFO  keylime::agent_registration > SUCCESS: Agent u-1 activated\n"
	for name, test := range map[string]struct {
		log  string
		want bool
	}{
		"the Rust agent":        {"INFO  one more line\n" + rust, true},
		"registered alone":      {"INFO  keylime::agent_registration > SUCCESS: Agent u-1 registered\n", false},
		"another UUID":          {"INFO  keylime::agent_registration > SUCCESS: Agent u-2 activated\n", false},
		"keylab's agent":        {"level=INFO msg=agent uuid=u-1\nlevel=INFO msg=registered agent=u-1 registrar=198.18.10.11:8890 attempt=1\n", true},
		"keylab's, another one": {"level=INFO msg=registered agent=u-11 registrar=198.18.10.11:8890 attempt=1\n", false},
		"nothing":               {"", false},
	} {
		if err := Activated(strings.NewReader(test.log), "u-1"); (err == nil) != test.want || errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v, want it to be active: %v", name, err, test.want)
		}
	}
	forbidden := "ERROR keylime_push_model_agent::state_machine > Registration failed: RegistrarClient(RegistrationForbidden { message: \"no\" })\n"
	if err := Activated(strings.NewReader(forbidden), "u-1"); !errors.Is(err, ErrForbidden) {
		t.Errorf("one that is not allowed to: %v", err)
	}
}

// What an agent said last tells a refusal, for which starting it again is of no use, from any other end.
func TestRefusedRegistration(t *testing.T) {
	refused := `register: http://198.18.10.11:8890/v2.1/agents/u-1 answered 403 Forbidden: not identical (to register another TPM or AK under this UUID, delete the agent at the registrar first)`
	for said, want := range map[string]string{
		"level=INFO msg=agent uuid=u-1\nkeylab: " + refused + "\n": "keylab: " + refused,
		"ERROR Registration failed: RegistrationForbidden":         "ERROR Registration failed: RegistrationForbidden",
		"keylab: KEYLAB_TPM_SOCKET is not set: the pod has no TPM": "",
		"register: http://198.18.10.11:8890/ answered 503 Service": "",
		"listening at 10403": "",
	} {
		if got := RefusedRegistration(said); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}
