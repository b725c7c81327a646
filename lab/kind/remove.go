package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"keylab.dev/keylab/lab/state"
)

// found is what Docker has of one lab.
type found struct {
	containers []container.Summary
	networks   []network.Summary
	volumes    []*volume.Volume
}

func (f found) running() bool { return len(f.containers) > 0 || len(f.networks) > 0 }

// find asks Docker for all that it has of a lab, by labels: no file is needed for it.
func find(ctx context.Context, docker *client.Client, lab string) (f found, err error) {
	for _, label := range []string{LabelLab + "=" + lab, labelKindCluster + "=keylab-" + lab} {
		list, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", label))})
		if err != nil {
			return f, fmt.Errorf("list the containers of lab %s: %w", lab, err)
		}
		f.containers = append(f.containers, list...)
	}
	if f.networks, err = docker.NetworkList(ctx, network.ListOptions{Filters: labelled(lab)}); err != nil {
		return f, fmt.Errorf("list the networks of lab %s: %w", lab, err)
	}
	volumes, err := docker.VolumeList(ctx, volume.ListOptions{Filters: labelled(lab)})
	if err != nil {
		return f, fmt.Errorf("list the volumes of lab %s: %w", lab, err)
	}
	f.volumes = volumes.Volumes
	return f, nil
}

// Has tells whether Docker has containers or networks of the lab, and whether it keeps volumes of it, as it does those of TPMs after down.
func (l *Lab) Has(ctx context.Context) (running, kept bool, err error) {
	f, err := find(ctx, l.docker, l.planned.Lab)
	return f.running(), len(f.volumes) > 0, err
}

// foreign is the folder of the lab, if that is another one than dir and is still there: then the lab is somebody else's who uses the same name.
func (f found) foreign(dir string) string {
	var all []map[string]string
	for _, c := range f.containers {
		all = append(all, c.Labels)
	}
	for _, n := range f.networks {
		all = append(all, n.Labels)
	}
	for _, v := range f.volumes {
		all = append(all, v.Labels)
	}
	for _, l := range all {
		if other := l[LabelDir]; other != "" && other != dir && exists(other) {
			return other
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkOwner refuses to touch what belongs to another folder's lab of the same name.
func (f found) checkOwner(lab, dir string) error {
	if other := f.foreign(dir); other != "" {
		return fmt.Errorf("a lab %q is in Docker already, whose folder is %s: take another name, or set %s to where that is", lab, other, state.EnvBase)
	}
	return nil
}

// Remains are the labs of which Docker has something, and whose folders are gone.
func Remains(ctx context.Context, docker *client.Client) ([]string, error) {
	label := filters.NewArgs(filters.Arg("label", LabelLab))
	var all []map[string]string
	containers, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: label})
	if err != nil {
		return nil, fmt.Errorf("list Docker's containers: %w", err)
	}
	for _, c := range containers {
		all = append(all, c.Labels)
	}
	networks, err := docker.NetworkList(ctx, network.ListOptions{Filters: label})
	if err != nil {
		return nil, fmt.Errorf("list Docker's networks: %w", err)
	}
	for _, n := range networks {
		all = append(all, n.Labels)
	}
	volumes, err := docker.VolumeList(ctx, volume.ListOptions{Filters: label})
	if err != nil {
		return nil, fmt.Errorf("list Docker's volumes: %w", err)
	}
	for _, v := range volumes.Volumes {
		all = append(all, v.Labels)
	}
	names := map[string]bool{}
	for _, l := range all {
		if !exists(l[LabelDir]) {
			names[l[LabelLab]] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// removal says what of a lab goes.
type removal struct {
	dir     string // the lab's folder
	volumes bool   // TPMs' states too
}

// Down removes all that Docker has of a lab but its TPMs' state, whoever made it and whatever of its folder is left. It returns whether
// there was anything.
func Down(ctx context.Context, docker *client.Client, dir state.Dir) (was bool, err error) {
	f, err := find(ctx, docker, dir.Lab)
	if err == nil {
		err = f.checkOwner(dir.Lab, dir.Path)
	}
	if err != nil {
		return false, err
	}
	return f.running(), remove(ctx, docker, dir.Lab, removal{dir: dir.Path})
}

// Wipe is Down, and removes the TPMs' state too.
func Wipe(ctx context.Context, docker *client.Client, dir state.Dir) (was bool, err error) {
	f, err := find(ctx, docker, dir.Lab)
	if err == nil {
		err = f.checkOwner(dir.Lab, dir.Path)
	}
	if err != nil {
		return false, err
	}
	return f.running() || len(f.volumes) > 0, remove(ctx, docker, dir.Lab, removal{dir: dir.Path, volumes: true})
}

// tpmStopTimeout is how long a TPM may take for its orderly end, in seconds; without that its clock is not safe at the next start.
const tpmStopTimeout = 5

// Of an up that was killed, kind's last docker command may still be making a container when the rest is taken away.
const (
	removeLimit = 3 * time.Minute // Docker deletes the nodes' files one after the other, and on a busy machine that takes its time
	removePause = 200 * time.Millisecond
)

// errRemoveLimit ends a removal that takes too long.
var errRemoveLimit = fmt.Errorf("it is not all gone after %s", removeLimit)

// remove takes away what Docker has of a lab: TPMs end in order, all else at once. It looks again until nothing is left and nobody is making more.
func remove(ctx context.Context, docker *client.Client, lab string, r removal) error {
	ctx, cancel := context.WithTimeoutCause(ctx, removeLimit, errRemoveLimit)
	defer cancel()
	tick := time.NewTicker(removePause)
	defer tick.Stop()
	awaited, err := beingAsked(r.dir)
	if err != nil {
		return err
	}
	began := time.Now()
	more := func() bool { return beingMade(lab) || len(awaited) > 0 && time.Since(began) < makingLimit }
	var last error // why something would not go
	var left found
	for {
		f, err := find(ctx, docker, lab)
		if err != nil && ctx.Err() == nil {
			return errors.Join(err, last)
		}
		if err == nil {
			f.volumes = slices.DeleteFunc(f.volumes, func(v *volume.Volume) bool { return v.Labels[LabelKeep] != "" && !r.volumes })
			left = f
			for name := range awaited {
				if f.has(name) {
					delete(awaited, name)
				}
			}
			if !f.running() && len(f.volumes) == 0 && !more() {
				return forgetAsked(r.dir)
			}
			if err = removeFound(ctx, docker, f, r); err != nil && ctx.Err() == nil {
				last = err
			}
		}
		if err == nil && !more() {
			continue // most likely nothing is left: look at once
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%w; when it was last looked there were %s", context.Cause(ctx), left), last)
		case <-tick.C:
		}
	}
}

// has tells whether a container or a network of this name was found.
func (f found) has(name string) bool {
	return slices.ContainsFunc(f.containers, func(c container.Summary) bool { return slices.Contains(c.Names, "/"+name) }) ||
		slices.ContainsFunc(f.networks, func(n network.Summary) bool { return n.Name == name })
}

// String names all that was found.
func (f found) String() string {
	var names []string
	for _, c := range f.containers {
		names = append(names, "container "+strings.TrimPrefix(strings.Join(c.Names, ", "), "/"))
	}
	for _, n := range f.networks {
		names = append(names, "network "+n.Name)
	}
	for _, v := range f.volumes {
		names = append(names, "volume "+v.Name)
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// beingMade tells whether a docker command, whose keylab may be dead, is making one of the lab's nodes.
func beingMade(lab string) bool {
	mark := labelKindCluster + "=keylab-" + lab
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return false
	}
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		argv := strings.Split(string(line), "\x00")
		if !slices.Contains(argv, mark) {
			continue
		}
		// The command, or the script that stands before it.
		for i, word := range argv[:min(len(argv)-1, 2)] {
			if next := argv[i+1]; filepath.Base(word) == "docker" && (next == "run" || next == "create") {
				return true
			}
		}
	}
	return false
}

func removeFound(ctx context.Context, docker *client.Client, f found, r removal) error {
	if err := removeAll(ctx, docker, f.containers, r); err != nil {
		return err
	}
	for _, n := range f.networks {
		err := docker.NetworkRemove(ctx, n.ID)
		if err != nil && strings.Contains(err.Error(), "active endpoints") && len(f.containers) == 0 {
			err = fmt.Errorf("%w\nno container of the lab is left: if none of yours is in it either, Docker has lost count, and forgets the network when it is restarted", err)
		}
		if err != nil && !cerrdefs.IsNotFound(err) {
			return fmt.Errorf("remove network %s: %w", n.Name, err)
		}
	}
	for _, v := range f.volumes {
		if err := docker.VolumeRemove(ctx, v.Name, true); err != nil && !cerrdefs.IsNotFound(err) {
			return fmt.Errorf("remove volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// removeAll ends all containers, and when all have ended removes them with their anonymous volumes. Docker deletes a volume's files, which for a node are
// many, while it lets no other container come to its end: a container that is ended then looks as if it could not be killed.
func removeAll(ctx context.Context, docker *client.Client, list []container.Summary, r removal) error {
	each := func(do func(container.Summary) error) error {
		var wg sync.WaitGroup
		errs := make([]error, len(list))
		for i, c := range list {
			wg.Go(func() {
				err := do(c)
				if err != nil && !cerrdefs.IsNotFound(err) && !strings.Contains(err.Error(), "is already in progress") {
					errs[i] = fmt.Errorf("remove container %s: %w", strings.TrimPrefix(strings.Join(c.Names, ", "), "/"), err)
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	// What would not end is removed by force, whose error counts.
	ended := each(func(c container.Summary) error {
		if c.State != "running" && c.State != "paused" && c.State != "restarting" {
			return nil
		}
		if strings.HasPrefix(c.Labels[LabelPart], "tpm-") && !r.volumes {
			timeout := tpmStopTimeout
			return docker.ContainerStop(ctx, c.ID, container.StopOptions{Timeout: &timeout})
		}
		err := docker.ContainerKill(ctx, c.ID, "KILL")
		if cerrdefs.IsConflict(err) {
			return nil // it had ended meanwhile
		}
		if err != nil { // most likely it did not end
			err = errors.Join(err, thaw(freezerRoot, c.ID))
		}
		return err
	})
	removed := each(func(c container.Summary) error {
		return docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	})
	if removed != nil {
		return errors.Join(removed, ended)
	}
	return nil
}

// removeContainers removes the containers with a label.
func removeContainers(ctx context.Context, docker *client.Client, label string) error {
	list, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", label))})
	if err != nil {
		return fmt.Errorf("list the containers with label %s: %w", label, err)
	}
	return removeAll(ctx, docker, list, removal{})
}

// demultiplex reads what a command without a terminal printed.
func demultiplex(r io.Reader) (string, error) {
	var b strings.Builder
	_, err := stdcopy.StdCopy(&b, &b, r)
	return b.String(), err
}
