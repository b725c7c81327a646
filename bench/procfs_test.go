package bench

import (
	"os"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	// A name may hold spaces and parentheses.
	line := "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 1 0 12345 0 0\n"
	p, err := parseStat(line)
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != 42 || p.parent != 7 || p.cpu != 2*time.Second {
		t.Errorf("got pid %d, parent %d, %s", p.pid, p.parent, p.cpu)
	}
	for _, wrong := range []string{"", "42 no name S 7", "42 (short) S 7 42", "x (n) S 7 42 42 0 -1 4194560 1 2 3 4 100 50 30 20"} {
		if _, err := parseStat(wrong); err == nil {
			t.Errorf("%q was taken for a line of /proc/PID/stat", wrong)
		}
	}
}

func TestProcessTree(t *testing.T) {
	tree, err := processTree(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	if tree[0].pid != os.Getppid() {
		t.Errorf("the first process is %d, not the root %d", tree[0].pid, os.Getppid())
	}
	if !slices.ContainsFunc(tree, func(p process) bool { return p.pid == os.Getpid() && p.argv[0] == os.Args[0] }) {
		t.Errorf("this process %d is not among its parent's: %v", os.Getpid(), tree)
	}
	const none = 1 << 30 // above the kernel's largest process id
	if _, err := processTree(none); err == nil {
		t.Error("a process that does not exist has a tree")
	}
}

func TestPSS(t *testing.T) {
	size, err := pss(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if size < 0.5 || size > 1024 {
		t.Errorf("this test uses %g MiB", size)
	}
}

func TestPartOf(t *testing.T) {
	for want, argv := range map[string][]string{
		partTPM:       {"swtpm", "socket", "--tpm2"},
		partAgent:     {"/opt/keylime_agent"},
		partRegistrar: {"/v/bin/python", "/v/bin/keylime_registrar"},
		partVerifier:  {"/v/bin/python", "/v/bin/keylime_verifier"},
		partTenant:    {"/v/bin/python", "/lab/tenant/enroll.py", "4"},
		partOther:     {"sh", "-c", "true"},
	} {
		if got := partOf(argv); got != want {
			t.Errorf("%q is %s, not %s", argv, got, want)
		}
	}
}

func TestMemoryPerNode(t *testing.T) {
	one := &memory{nodes: 1, parts: map[string][]float64{partSupervisor: {12}}}
	many := &memory{nodes: 9, parts: map[string][]float64{partSupervisor: {16}, partTPM: {1, 1, 1}, partVerifier: {70, 80}}}
	if got := perNode(one, many); got != 0.5 {
		t.Errorf("the supervisor grows by %g MiB for each node, not 0.5", got)
	}
	if got := many.sum(partVerifier); got != 150 {
		t.Errorf("the verifier's processes have %g MiB, not 150", got)
	}
	if got := perNode(one, one); got != 0 {
		t.Errorf("growth between labs of one size is %g", got)
	}
}
