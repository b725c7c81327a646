package spec_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

func TestRevocationActionMistakes(t *testing.T) {
	const agents = "keylime:\n  revocation:\n    agent: true\n    actions: "
	for _, c := range []struct{ text, want string }{
		{agents + "[{name: a, file: x, inline: y}]", "keylime.revocation.actions[0].inline: is set beside file: an action is one or the other"},
		{agents + "[{name: a}]", "keylime.revocation.actions[0]: is no program: name its file, or give it inline"},
		{agents + "[{inline: y}]", "keylime.revocation.actions[0].name"},
		{agents + "[{name: ../a, inline: y}]", `keylime.revocation.actions[0].name: "../a"`},
		{agents + "[{name: action_list, inline: y}]", `keylime.revocation.actions[0].name: "action_list" is the name of something else in the package`},
		{agents + "[{name: payload, inline: y}]", `keylime.revocation.actions[0].name: "payload" is the name of something else in the package`},
		{agents + "[{name: a, inline: y}, {name: a, inline: z}]", `keylime.revocation.actions[1].name: "a" is keylime.revocation.actions[0] too`},
		{"keylime: {revocation: {webhook: true, actions: [{name: a, inline: y}]}}", "keylime.revocation.actions: are run by agents that are told, and keylime.revocation.agent is false"},
	} {
		_, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\nname: x\n"+c.text+"\n"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n%v\nwant %q", c.text, err, c.want)
		}
	}
}
