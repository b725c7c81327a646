package kind

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/pkg/stdcopy"

	"keylab.dev/keylab/lab/proof"
)

var _ proof.Disks = &target{}

const (
	// diskDir is where the container that holds a service's own disk has it, and filler the file that takes all its room.
	diskDir = "/disk"
	filler  = diskDir + "/filler"
	// diskSize leaves a database room to grow when the filler is gone.
	diskSize = "64m"
)

// diskPart is the name of a service's own disk, a tmpfs, and of the container that holds it: without one that has it mounted, Docker would forget what is on
// it when the service is stopped.
func diskPart(component string) string { return "disk-" + component }

// fillDisk leaves no byte free on the disk that a service has its database on. So that this is not Docker's own, which is everybody's, the service first gets
// a small one for its working folder, to which it is restarted once.
func (l *Lab) fillDisk(ctx context.Context, f fault) error {
	_, err := l.docker.ContainerInspect(ctx, l.resource(diskPart(f.Component)))
	if cerrdefs.IsNotFound(err) {
		err = l.moveToDisk(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("give the %s a disk of its own: %w", f.Component, err)
	}
	// tmpfs gives its room in pages, and cat writes what still fits.
	const fill = "cat /dev/zero >>" + filler + " 2>/dev/null; stat -f -c %a " + diskDir
	out, err := l.execOutput(ctx, l.resource(diskPart(f.Component)), "sh", "-c", fill)
	if err == nil && strings.TrimSpace(out) != "0" {
		err = fmt.Errorf("it has %s blocks free still", strings.TrimSpace(out))
	}
	if err != nil {
		return fmt.Errorf("fill the disk of the %s: %w", f.Component, err)
	}
	return nil
}

// moveToDisk makes the disk, copies the service's working folder onto it, and starts the service again with it.
func (l *Lab) moveToDisk(ctx context.Context, f fault) error {
	name := diskPart(f.Component)
	made, err := l.docker.VolumeCreate(ctx, volume.CreateOptions{Name: l.resource(name), Labels: l.labels(name), Driver: "local",
		DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "mode=0700,size=" + diskSize}})
	if err != nil {
		return fmt.Errorf("make volume %s: %w", l.resource(name), err)
	}
	holder := l.container(name, l.images().Tools, "pause")
	holder.volume(made.Name, diskDir)
	if err := l.start(ctx, holder); err != nil {
		return err
	}
	before, err := l.docker.ContainerInspect(ctx, l.resource(f.Component))
	if err != nil {
		return fmt.Errorf("look at the container of the %s: %w", f.Component, err)
	}
	if err := l.serviceDown(ctx, f); err != nil {
		return err
	}
	_, command, err := l.serviceCommand(f.Component)
	if err != nil {
		return err
	}
	configured, err := l.keylime()
	if err != nil {
		return err
	}
	files, _, err := l.docker.CopyFromContainer(ctx, l.resource(f.Component), configured.WorkDir(f.Component)+"/.")
	if err != nil {
		return fmt.Errorf("read the database of the %s: %w", f.Component, err)
	}
	defer files.Close()
	if err := l.docker.CopyToContainer(ctx, l.resource(name), diskDir, files, container.CopyToContainerOptions{CopyUIDGID: true}); err != nil {
		return fmt.Errorf("copy the database of the %s: %w", f.Component, err)
	}
	if err := l.remake(ctx, f.Component, made.Name, skewIn(before.Config.Env)); err != nil {
		return err
	}
	return l.awaitService(ctx, f.Component, command)
}

func (l *Lab) freeDisk(ctx context.Context, f fault) error {
	if _, err := l.execOutput(ctx, l.resource(diskPart(f.Component)), "rm", "-f", filler); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("make room on the disk of the %s: %w", f.Component, err)
	}
	return l.askAgain(ctx, f, l.planned.Nodes)
}

// DiskFree implements proof.Disks.
func (t *target) DiskFree(ctx context.Context, component string) (uint64, error) {
	out, err := t.l.execOutput(ctx, t.l.resource(diskPart(component)), "stat", "-f", "-c", "%a %S", diskDir)
	var blocks, size uint64
	if err == nil {
		_, err = fmt.Sscan(out, &blocks, &size)
	}
	if err != nil {
		return 0, fmt.Errorf("look at the disk of the %s: %w", component, err)
	}
	return blocks * size, nil
}

// LogEnd implements proof.Disks: a time, in nanoseconds, for the log begins anew with the service's container.
func (t *target) LogEnd(context.Context, string) (int64, error) { return time.Now().UnixNano(), nil }

// FindLog implements proof.Disks.
func (t *target) FindLog(ctx context.Context, component, text string, from int64) (line string, count int, err error) {
	since := time.Unix(0, from).UTC().Format(time.RFC3339Nano)
	r, err := t.l.docker.ContainerLogs(ctx, t.l.resource(component), container.LogsOptions{ShowStdout: true, ShowStderr: true, Since: since})
	if err != nil {
		return "", 0, fmt.Errorf("read the log of the %s: %w", component, err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, r); err != nil {
		return "", 0, fmt.Errorf("read the log of the %s: %w", component, err)
	}
	in := bufio.NewScanner(&b)
	in.Buffer(nil, b.Len()+1)
	for in.Scan() {
		if strings.Contains(in.Text(), text) {
			line, count = strings.TrimSpace(in.Text()), count+1
		}
	}
	return line, count, errors.Join(in.Err())
}
