package kind

import (
	"context"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/kind/pkg/cluster/nodes"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// runsScripts tells whether a node's agent is keylab's own and runs what comes with payloads: its image must have a shell then, and what scripts call.
func (l *Lab) runsScripts(n plan.Node) bool {
	return n.Agent.Kind == string(spec.AgentGo) && (l.planned.HasActions() || n.Payload != nil && n.Payload.Autorun)
}

// scriptImage is the image of such agents: keylab over the tools' image. It is in the stores of the nodes alone, and gone with them.
func (l *Lab) scriptImage() string {
	_, id, _ := strings.Cut(l.known().Image, ":")
	return "keylab.test/keylab-tools:" + id
}

// loadScriptImage puts it into the stores of those of the nodes that need it.
func (l *Lab) loadScriptImage(ctx context.Context, all []nodes.Node) error {
	needed := map[string]bool{}
	for _, n := range l.planned.Nodes {
		needed[n.KubernetesName] = l.runsScripts(n)
	}
	all = slices.DeleteFunc(slices.Clone(all), func(n nodes.Node) bool { return !needed[n.String()] })
	if len(all) == 0 {
		return nil
	}
	archive, err := l.overTools(ctx, l.known().Program, podProgram, l.scriptImage())
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	return loadArchive(ctx, all, archive)
}
