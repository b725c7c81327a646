package kind

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	kindexec "sigs.k8s.io/kind/pkg/exec"
)

// How much of what does not run is shown.
const (
	troubleLines = 8
	troubleNodes = 3
	troubleLimit = 10 * time.Second // for each look into a node
)

// whyNoCluster shows the last words of nodes whose services do not run well, of those that are not ready in any case, and says where kind's own log
// is. The nodes are there still.
func (l *Lab) whyNoCluster(ctx context.Context, unready ...string) string {
	var said []string
	more := 0
	for _, node := range append([]string{l.planned.Kubernetes.ControlPlane}, l.workers()...) {
		why := l.nodeTrouble(ctx, node, slices.Contains(unready, node))
		switch {
		case why == "":
		case len(said) == troubleNodes:
			more++
		default:
			said = append(said, why)
		}
	}
	if more > 0 {
		said = append(said, fmt.Sprintf("it is no better on %d more", more))
	}
	log := l.dir.Log("kind")
	if len(said) == 0 {
		return fmt.Sprintf("the end of kind's log %s:\n%s", log, indent(lastLines(readText(log), troubleLines)))
	}
	return strings.Join(append(said, "kind's log is "+log), "\n")
}

// nodeTrouble says what on a node does not run, with the end of its log; the kubelet's in any case where the node is known not to be ready. It is
// empty for a node that is well, or not there.
func (l *Lab) nodeTrouble(ctx context.Context, node string, unready bool) string {
	ctx, cancel := context.WithTimeout(ctx, troubleLimit)
	defer cancel()
	name := l.nodeTitle(node)
	c, err := l.docker.ContainerInspect(ctx, node)
	if err != nil {
		return "" // kind had not come that far
	}
	if !c.State.Running {
		return fmt.Sprintf("%s: the container does not run: %s, exit status %d; the end of its log:\n%s",
			name, c.State.Status, c.State.ExitCode, l.containerTail(ctx, node))
	}
	// In the order in which they need one another: what the first of them says is the reason.
	for _, unit := range []string{"containerd", unitImages, "kubelet"} {
		out, err := l.execOutput(ctx, node, "systemctl", "show", unit, "--property=ActiveState,SubState,Result,ExecMainStatus,NRestarts")
		if err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
		how := unitTrouble(out)
		if how == "" && unready && unit == "kubelet" {
			how = "runs, and the node is not ready"
		}
		if how != "" {
			return fmt.Sprintf("%s: its %s %s; the end of its log:\n%s", name, unit, how, indent(l.journal(ctx, node, unit)))
		}
	}
	return ""
}

// nodeTitle is a node as the user knows it, with its container.
func (l *Lab) nodeTitle(container string) string {
	for _, n := range l.planned.Nodes {
		if n.KubernetesName == container {
			return fmt.Sprintf("node %s (container %s)", n.Name, container)
		}
	}
	return fmt.Sprintf("the control plane (container %s)", container)
}

// restless is how often a service may have been started again: kubeadm itself restarts the kubelet once.
const restless = 3

// unitTrouble reads what systemctl shows of a service, and says how it does not run; nothing where it runs, or was not started yet.
func unitTrouble(shown string) string {
	p := map[string]string{}
	for line := range strings.Lines(shown) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			p[key] = value
		}
	}
	restarts, err := strconv.Atoi(p["NRestarts"])
	if err != nil {
		restarts = 0 // systemd does not say
	}
	switch {
	case restarts >= restless:
		return fmt.Sprintf("does not stay up: it was started again %d times", restarts)
	case p["ActiveState"] == "failed" || p["SubState"] == "auto-restart":
		return fmt.Sprintf("does not stay up: %s, result %s, exit status %s", p["ActiveState"], p["Result"], p["ExecMainStatus"])
	}
	return ""
}

// journal is the end of what a node's service printed, and what systemd says of its end.
func (l *Lab) journal(ctx context.Context, node, unit string) string {
	read := func(match string, lines int) string {
		out, err := l.execOutput(ctx, node, "journalctl", match, fmt.Sprintf("--lines=%d", lines), "--no-pager", "--output=cat", "--quiet")
		if err != nil {
			return err.Error()
		}
		return out
	}
	text := strings.TrimSpace(read("_SYSTEMD_UNIT="+unit+".service", troubleLines))
	ended := ""
	for line := range strings.Lines(read("--unit="+unit, 100)) {
		if strings.Contains(line, "Main process exited") || strings.Contains(line, "Failed at step") || strings.Contains(line, "Failed to start") {
			ended = strings.TrimSpace(line)
		}
	}
	lines := slices.Compact(strings.Split(text, "\n")) // it may say the same each time
	return strings.TrimSpace(strings.Join(append(lines, ended), "\n"))
}

// withOutput adds to an error of kind's the end of what the command printed that failed, and what is known to be behind it.
func withOutput(err error) error {
	run := kindexec.RunErrorForError(err)
	if run == nil {
		return explained(err)
	}
	text := lastLines(string(run.Output), troubleLines)
	err = fmt.Errorf("%w\n%s", err, indent(text))
	if p := shortage(text); p != nil {
		err = fmt.Errorf("%w\n%w", err, p)
	}
	return err
}

// lastLines are the last lines of a text that are not empty.
func lastLines(text string, count int) string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// readText is a file's text, or why it cannot be read.
func readText(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
