package kind

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// taskRunning is containerd's word for a container whose process runs.
const taskRunning = "RUNNING"

// task is the agent's container on a node, and what containerd says of it.
func (l *Lab) task(ctx context.Context, n plan.Node) (id, status string, err error) {
	if id, err = l.agentTask(ctx, n); err != nil {
		return "", "", err
	}
	out, err := l.execOutput(ctx, n.KubernetesName, "ctr", "--namespace=k8s.io", "tasks", "list")
	return id, taskStatus(out, id), err
}

// killAgent kills the agent's process. The kubelet would start another one at once, and so is stopped first; what it would tell of the pod, keylab tells.
// The pod's network stays, where nobody listens any more.
func (l *Lab) killAgent(ctx context.Context, f fault) error {
	n := f.On[0]
	id, status, err := l.task(ctx, n)
	if err != nil {
		return err
	}
	if status != taskRunning {
		return fmt.Errorf("no agent runs on %s: containerd says that its task is %s", n.Name, status)
	}
	if _, err := l.execOutput(ctx, n.KubernetesName, "systemctl", "stop", "kubelet"); err != nil {
		return err
	}
	if err := l.learnNode(n.Name, func(f *nodeFacts) { f.Killed = id }); err != nil {
		return err
	}
	if _, err := l.execOutput(ctx, n.KubernetesName, "ctr", "--namespace=k8s.io", "tasks", "kill", "--signal", "SIGKILL", id); err != nil {
		return err
	}
	err = fleet.Await(ctx, "the agent of "+n.Name+" to end", func(ctx context.Context) (string, error) {
		_, status, err := l.task(ctx, n)
		if err == nil && status == taskRunning {
			return "its task is " + status, nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	return l.markUnready(ctx, n)
}

// markUnready has Kubernetes know that the agent's pod is not ready, in place of a kubelet that does not run.
func (l *Lab) markUnready(ctx context.Context, n plan.Node) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	pod, err := l.agentPod(ctx, n)
	if err != nil {
		return err
	}
	const patch = `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"ContainersNotReady"},{"type":"ContainersReady","status":"False","reason":"ContainersNotReady"}]}}`
	_, err = k.typed.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("mark pod %s as not ready: %w", pod.Name, err)
	}
	return nil
}

// reviveAgent has the kubelet start the agent again, and waits until it has registered.
func (l *Lab) reviveAgent(ctx context.Context, f fault) error {
	n := f.On[0]
	if _, err := l.execOutput(ctx, n.KubernetesName, "systemctl", "start", "kubelet"); err != nil {
		return err
	}
	killed := l.node(n.Name).Killed
	err := fleet.Await(ctx, "the kubelet to start the agent of "+n.Name+" again", func(ctx context.Context) (string, error) {
		now, err := l.agentTask(ctx, n)
		if err == nil && now == killed {
			return "Kubernetes still shows the one that was killed", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	if err := l.awaitAgent(n)(ctx); err != nil {
		return err
	}
	if err := l.learnNode(n.Name, func(f *nodeFacts) { f.Killed = "" }); err != nil {
		return err
	}
	if err := l.awaitRoute(ctx, n, n); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}
