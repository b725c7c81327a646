package netns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/proof"
)

var _ proof.Disks = target{}

// Names of a service's own disk: the file that takes all its room, and the folder where it is made ready.
const (
	fillerName = "filler"
	diskSuffix = ".disk"
)

// diskSize leaves a database room to grow when the filler is gone.
const diskSize = "64m"

// fillDisk leaves no byte free on the disk that a service has its database on. So that this is not the machine's own, the service first gets a small one
// for its working folder, to which it is restarted once.
func (s *supervisor) fillDisk(ctx context.Context, f fault) error {
	dir := s.configured.WorkDir(f.Component)
	s.mu.Lock()
	own := s.disks[f.Component]
	s.mu.Unlock()
	if !own {
		if err := s.service(f.Component).stop(ctx); err != nil {
			return err
		}
		if err := mountDisk(dir); err != nil {
			return errors.Join(fmt.Errorf("give the %s a disk of its own: %w", f.Component, err), s.serviceUp(ctx, f))
		}
		s.mu.Lock()
		s.disks[f.Component] = true
		s.mu.Unlock()
	}
	if err := s.serviceUp(ctx, f); err != nil {
		return err
	}
	if err := fill(filepath.Join(dir, fillerName)); err != nil {
		return fmt.Errorf("fill the disk of the %s: %w", f.Component, err)
	}
	return nil
}

func (s *supervisor) freeDisk(ctx context.Context, f fault) error {
	if err := os.Remove(filepath.Join(s.configured.WorkDir(f.Component), fillerName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make room on the disk of the %s: %w", f.Component, err)
	}
	return s.askAgain(ctx, f, s.allNodes())
}

// mountDisk puts a tmpfs with a copy of all its files over a folder.
func mountDisk(dir string) error {
	staging := dir + diskSuffix
	if err := os.MkdirAll(staging, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("disk", staging, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size="+diskSize); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	err := fleet.CopyPrivate(dir, staging)
	if err == nil {
		err = unix.Mount(staging, dir, "", unix.MS_BIND, "")
	}
	return errors.Join(err, unix.Unmount(staging, unix.MNT_DETACH), os.Remove(staging))
}

// fill writes zeros until the disk has no room left, by ever smaller pieces.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err != nil {
		return nil
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 16 {
		piece := make([]byte, size)
		for err == nil {
			_, err = f.Write(piece)
		}
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}

// DiskFree implements proof.Disks.
func (t target) DiskFree(_ context.Context, component string) (uint64, error) {
	var st unix.Statfs_t
	dir := t.s.configured.WorkDir(component)
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look at the disk of the %s: %w", component, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// LogEnd implements proof.Disks.
func (t target) LogEnd(_ context.Context, component string) (int64, error) {
	info, err := os.Stat(t.s.dir.Log(component))
	if err != nil {
		return 0, fmt.Errorf("look at the log of the %s: %w", component, err)
	}
	return info.Size(), nil
}

// maxSearched bounds how much of a log is looked through, in bytes.
const maxSearched = 8 << 20

// FindLog implements proof.Disks.
func (t target) FindLog(_ context.Context, component, text string, from int64) (line string, count int, err error) {
	f, err := os.Open(t.s.dir.Log(component))
	if err != nil {
		return "", 0, fmt.Errorf("read the log of the %s: %w", component, err)
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return "", 0, fmt.Errorf("read the log of the %s: %w", component, err)
	}
	in := bufio.NewScanner(io.LimitReader(f, maxSearched))
	in.Buffer(nil, maxSearched)
	for in.Scan() {
		if bytes.Contains(in.Bytes(), []byte(text)) {
			line, count = strings.TrimSpace(in.Text()), count+1
		}
	}
	if err := in.Err(); err != nil {
		return "", 0, fmt.Errorf("read the log of the %s: %w", component, err)
	}
	return line, count, nil
}
