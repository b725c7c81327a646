package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// payload looks at what has arrived in the memory of a node's agent: the pod's volume "secure", which the kubelet mounts on the node. Whatever image the
// agent is of, the node itself has this program.
func (l *Lab) payload(ctx context.Context, n plan.Node) (verify.Payload, error) {
	pod, err := l.agentPod(ctx, n)
	if err != nil {
		return verify.Payload{}, err
	}
	dir := path.Join("/var/lib/kubelet/pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/secure")
	out, err := l.execOutput(ctx, n.KubernetesName, keylabPath, "in-container", "payload", dir, fleet.PayloadFile(l.dir, l.planned))
	if err != nil {
		return verify.Payload{}, err
	}
	var found *agent.StoredPayload
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return verify.Payload{}, fmt.Errorf("read what %s says of its payload: %w", n.KubernetesName, err)
	}
	return fleet.Payload(l.dir, n, found)
}

// awaitTrusted waits for the verifier's first good quote of a node, and for what the node then gets.
func (l *Lab) awaitTrusted(ctx context.Context, v *keylime.VerifierClient, n plan.Node, uuid string) error {
	if err := fleet.AwaitAttested(ctx, v, n.Name, uuid); err != nil {
		return err
	}
	if n.Payload == nil {
		return nil
	}
	return fleet.AwaitPayload(ctx, n.Name, func(ctx context.Context) (verify.Payload, error) { return l.payload(ctx, n) })
}
