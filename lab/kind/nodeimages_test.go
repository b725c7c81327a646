package kind

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// Every node sees keylab, its image, and the service that loads the image before the kubelet looks for it.
func TestNodeMounts(t *testing.T) {
	dir, p := planned(t, "nodes: 2\n")
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.program, l.imageArchive = "/cache/keylab", "/cache/image.tar"
	c, err := l.clusterConfig()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Nodes) != 3 {
		t.Fatalf("%d nodes, want a control plane and two workers", len(c.Nodes))
	}
	sockets := map[string]bool{}
	for i, n := range c.Nodes {
		at := map[string]string{}
		for _, m := range n.ExtraMounts {
			at[m.ContainerPath] = m.HostPath
			if m.ContainerPath == nodeTPMDir {
				sockets[m.HostPath] = true
			} else if !m.Readonly {
				t.Errorf("node %d may write to %s", i, m.HostPath)
			}
		}
		if at[keylabPath] != l.program || at[nodeImage] != l.imageArchive {
			t.Errorf("node %d sees %v", i, at)
		}
		wants := map[string]string{
			"/etc/systemd/system/keylab-images.service":                   "images import",
			"/etc/systemd/system/containerd.service.d/keylab-images.conf": "Wants=keylab-images.service",
			"/etc/systemd/system/keylab-cgroups.service":                  "keylab-held",
			"/etc/systemd/system/kubelet.service.d/keylab-cgroups.conf":   "Wants=keylab-cgroups.service",
		}
		if n.Role == v1alpha4.WorkerRole {
			wants["/etc/systemd/system/kubelet.service.d/keylab-images.conf"] = "systemctl start keylab-images.service"
			wants["/etc/systemd/system/keylab-images.service"] = "/dev/tcp/" + l.planned.Kubernetes.ControlPlane + "/6443"
		}
		for path, want := range wants {
			if text, err := os.ReadFile(at[path]); err != nil || !strings.Contains(string(text), want) {
				t.Errorf("node %d: %s has not %q: %v\n%s", i, path, want, err, text)
			}
		}
	}
	if len(sockets) != 2 {
		t.Errorf("the workers see the TPMs' sockets of %v: each shall have its own", sockets)
	}
}
