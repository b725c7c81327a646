package kind

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/manifests"
)

// unitImages is the service of a node that puts keylab's own image into its store.
const unitImages = "keylab-images"

// nodeImage is where a node finds the archive of keylab's own image.
const nodeImage = "/var/lib/keylab/image.tar"

// imagesUnit is that service. A node does it by itself, while kind is still busy: a kubelet would otherwise look for an image that is not there, and again only
// after ten seconds. kind restarts containerd once, and this with it. What is to be run before comes in place of %s.
const imagesUnit = `[Unit]
Description=keylab's own image for the node's pods
After=containerd.service
PartOf=containerd.service
ConditionPathExists=!/var/lib/keylab/image.imported
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
Restart=on-failure
RestartSec=500ms
%sExecStart=/bin/sh -c 'set -- ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter="$$(sed -n "s/^ *snapshotter = //p" /etc/containerd/config.toml | head -n1 | tr -cd a-z-)"; "$$@" --local ` + nodeImage + ` || exec "$$@" ` + nodeImage + `'
ExecStartPost=/bin/touch /var/lib/keylab/image.imported
`

// imagesLater has a worker wait for the cluster's API server with that, at most half a minute: until it listens, everything else waits for it, and the processors
// are better left to it. Then it leaves them idle for a while.
const imagesLater = `ExecStartPre=/bin/bash -c 'for i in {1..120}; do (exec 3<>/dev/tcp/%s/6443) 2>/dev/null && break; sleep 0.25; done'
`

// imagesDropIn has containerd bring it along.
const imagesDropIn = "[Unit]\nWants=" + unitImages + ".service\n"

// imagesFirst has a worker's kubelet wait for it. An order of the two would hold up the start of the node: kind waits for that, and it includes a first attempt at the
// kubelet, which has no configuration yet.
const imagesFirst = "[Service]\nExecStartPre=-/bin/systemctl start " + unitImages + ".service\n"

// unitCgroups is the service of a node that holds the control groups of pods.
const unitCgroups = "keylab-cgroups"

// cgroupsUnit is that service, for machines with cgroups of version 1. The kubelet makes a group for each class of pods (QoS) in every hierarchy; and systemd, when
// it makes the group of the first pod there, removes from the hierarchy of devices those that are empty (cg_trim). Where that comes between the kubelet's making of
// one and of a pod's own in it, the pod fails, and is tried again only after ten seconds or more. A group with a process is not empty.
const cgroupsUnit = `[Unit]
Description=Keep the control groups of pods
ConditionPathExists=/sys/fs/cgroup/devices/cgroup.procs
Before=kubelet.service

[Service]
ExecStart=/bin/sh -c 'cd /sys/fs/cgroup/devices && for class in besteffort burstable; do \
  held=kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-$$class.slice/keylab-held; \
  mkdir -p "$$held" && { sleep infinity & echo $$! >"$$held/cgroup.procs"; }; done; wait'
`

// cgroupsDropIn has the kubelet bring it along.
const cgroupsDropIn = "[Unit]\nWants=" + unitCgroups + ".service\n"

// agentDirFirst has a kubelet make the folder for the keys of the node's agent, which is that agent's alone. The control plane has it too, for nothing: a node that joins later
// sees what the control plane sees.
var agentDirFirst = fmt.Sprintf("[Service]\nExecStartPre=/usr/bin/install -d -o %[1]d -g %[1]d -m 0700 %[2]s\n", manifests.AgentUser, manifests.AgentDataDir)

// unitFile is a file of systemd's that a node sees.
type unitFile struct{ path, text string }

// nodeUnits are the services that keylab gives a node.
func (l *Lab) nodeUnits(worker bool) []unitFile {
	const dir = "/etc/systemd/system/"
	before := ""
	files := []unitFile{
		{dir + "containerd.service.d/" + unitImages + ".conf", imagesDropIn},
		{dir + unitCgroups + ".service", cgroupsUnit},
		{dir + "kubelet.service.d/" + unitCgroups + ".conf", cgroupsDropIn},
		{dir + "kubelet.service.d/keylab-agent.conf", agentDirFirst},
	}
	if worker {
		before = fmt.Sprintf(imagesLater, l.planned.Kubernetes.ControlPlane)
		files = append(files, unitFile{dir + "kubelet.service.d/" + unitImages + ".conf", imagesFirst})
	}
	return append(files, unitFile{dir + unitImages + ".service", fmt.Sprintf(imagesUnit, before)})
}

// nodeMounts is what a node sees of this machine, besides what only one does: keylab, its image, and its services.
func (l *Lab) nodeMounts(worker bool) ([]v1alpha4.Mount, error) {
	mounts := []v1alpha4.Mount{
		{HostPath: l.program, ContainerPath: keylabPath, Readonly: true},
		{HostPath: l.imageArchive, ContainerPath: nodeImage, Readonly: true},
	}
	dir := filepath.Join(l.dir.Path, "containers", "control-plane")
	if worker {
		dir = filepath.Join(l.dir.Path, "containers", "worker")
	}
	for _, f := range l.nodeUnits(worker) {
		from := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(from), 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of what the nodes see: %w", err)
		}
		if err := atomicfile.Write(from, []byte(f.text), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, v1alpha4.Mount{HostPath: from, ContainerPath: f.path, Readonly: true})
	}
	return mounts, nil
}
