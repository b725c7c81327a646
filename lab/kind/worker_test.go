package kind

import (
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// A worker is what the control plane is, but for what is the control plane's alone, which stays as it is.
func TestTwin(t *testing.T) {
	const port = nat.Port("6443/tcp")
	model := &container.Config{
		Hostname: "keylab-x-control-plane", Image: "node:1", Tty: true, Env: []string{"KUBECONFIG=/etc/kubernetes/admin.conf", "HTTP_PROXY=http://p"},
		ExposedPorts: nat.PortSet{port: {}}, Labels: map[string]string{"io.x-k8s.kind.cluster": "keylab-x", "io.x-k8s.kind.role": "control-plane"},
		Volumes: map[string]struct{}{"/var": {}},
	}
	on := &container.HostConfig{
		Binds: []string{"/lib/modules:/lib/modules:ro"}, Privileged: true, PortBindings: nat.PortMap{port: {{HostIP: "127.0.0.1", HostPort: "40000"}}},
		Tmpfs: map[string]string{"/run": ""}, NetworkMode: "keylab-x-cluster",
	}
	config, host := twin(model, on, "keylab-x-worker4", []v1alpha4.Mount{{HostPath: "/s", ContainerPath: "/var/lib/keylab/tpm"}, {HostPath: "/d", ContainerPath: "/data", Readonly: true}})
	if config.Hostname != "keylab-x-worker4" || config.Labels["io.x-k8s.kind.role"] != "worker" || config.Labels["io.x-k8s.kind.cluster"] != "keylab-x" ||
		config.Image != "node:1" || !config.Tty || len(config.Volumes) != 1 || len(config.ExposedPorts) != 0 || !slices.Equal(config.Env, []string{"HTTP_PROXY=http://p"}) {
		t.Errorf("%+v", config)
	}
	if want := []string{"/lib/modules:/lib/modules:ro", "/s:/var/lib/keylab/tpm", "/d:/data:ro"}; !slices.Equal(host.Binds, want) ||
		!host.Privileged || len(host.PortBindings) != 0 || host.NetworkMode != "keylab-x-cluster" || len(host.Tmpfs) != 1 {
		t.Errorf("%+v", host)
	}
	if model.Labels["io.x-k8s.kind.role"] != "control-plane" || len(model.Env) != 2 || len(on.Binds) != 1 || len(on.PortBindings) != 1 {
		t.Errorf("the control plane's was changed: %+v, %+v", model, on)
	}
}

// A node is started when its control groups are, on either version of them; a log that ends before is a node that did not start.
func TestAwaitLine(t *testing.T) {
	for _, ready := range []string{"INFO: detected cgroup v1", "[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mMulti-User System\x1b[0m."} {
		if err := awaitLine(strings.NewReader("INFO: starting\n"+ready+"\nmore\n"), cgroupsReady); err != nil {
			t.Errorf("%q: %v", ready, err)
		}
	}
	if err := awaitLine(strings.NewReader("INFO: starting\nfatal\n"), cgroupsReady); err == nil || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Errorf("%v", err)
	}
}

// Pods that others take the place of leave a node before it goes; those that are the node's own go with it.
func TestMovable(t *testing.T) {
	owned := func(kind string) corev1.Pod {
		yes := true
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{Kind: kind, Controller: &yes}}}}
	}
	mirror, ended := corev1.Pod{}, owned("ReplicaSet")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	ended.Status.Phase = corev1.PodSucceeded
	for name, c := range map[string]struct {
		pod  corev1.Pod
		want bool
	}{
		"a user's own": {corev1.Pod{}, true}, "of a ReplicaSet": {owned("ReplicaSet"), true},
		"of a DaemonSet": {owned("DaemonSet"), false}, "the kubelet's own": {mirror, false}, "one that has ended": {ended, false},
	} {
		if got := movable(c.pod); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCheckRoom(t *testing.T) {
	if err := checkRoom(memoryWorker - 1); err == nil || !strings.Contains(err.Error(), "one more node needs about 230 MiB of memory, and 229 MiB are available") {
		t.Errorf("%v", err)
	}
	for _, enough := range []int{0, memoryWorker} { // 0: unknown
		if err := checkRoom(enough); err != nil {
			t.Errorf("%d MiB: %v", enough, err)
		}
	}
}
