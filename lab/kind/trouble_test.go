package kind

import (
	"errors"
	"strings"
	"testing"

	kinderrors "sigs.k8s.io/kind/pkg/errors"
	kindexec "sigs.k8s.io/kind/pkg/exec"
)

// What systemctl shows of a service that runs, that waits for kubeadm, that is tried again and again, and that has given up.
func TestUnitTrouble(t *testing.T) {
	for _, c := range []struct{ shown, want string }{
		{"Result=success\nNRestarts=0\nExecMainStatus=0\nActiveState=active\nSubState=running\n", ""},
		{"Result=success\nNRestarts=1\nExecMainStatus=0\nActiveState=active\nSubState=running\n", ""},
		{"Result=success\nNRestarts=0\nExecMainStatus=0\nActiveState=inactive\nSubState=dead\n", ""},
		{"Result=exit-code\nNRestarts=2\nExecMainStatus=7\nActiveState=activating\nSubState=auto-restart\n", "result exit-code, exit status 7"},
		{"Result=success\nNRestarts=30\nExecMainStatus=0\nActiveState=activating\nSubState=start-pre\n", "started again 30 times"},
		{"Result=exit-code\nNRestarts=0\nExecMainStatus=203\nActiveState=failed\nSubState=failed\n", "exit status 203"},
	} {
		if got := unitTrouble(c.shown); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%q: %q, want %q", c.shown, got, c.want)
		}
	}
}

func TestLastLines(t *testing.T) {
	if got := lastLines("a\n\nb\n  \nc\n", 2); got != "b\nc" {
		t.Errorf("the last two lines are %q", got)
	}
	if got := lastLines("a\n", 5); got != "a" {
		t.Errorf("the last five of one are %q", got)
	}
}

// What a command of kind's printed is in the error, and with it what Docker lacks.
func TestWithOutput(t *testing.T) {
	cause := &kindexec.RunError{Command: []string{"docker", "run"}, Inner: errors.New("exit status 125"),
		Output: []byte("\nabc123\ndocker: Error response from daemon: " + noCaps + "\n")}
	err := withOutput(kinderrors.Wrap(cause, "docker run error"))
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "docker run error") || !strings.Contains(err.Error(), "  docker: Error response from daemon") {
		t.Errorf("the error is %v", err)
	}
	wantProblem(t, err, "lacks capabilities", "", "--privileged")
	if other := errors.New("no node"); withOutput(other) != other {
		t.Errorf("%v became %v", other, withOutput(other))
	}
}
