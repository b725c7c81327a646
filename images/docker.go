package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

// load gives an image of the cache to Docker, if it does not have it.
func (l local) load(ctx context.Context, a artifact) error {
	if l.loaded(ctx, reference(a)) {
		return nil
	}
	dir, err := l.ensure(ctx, a)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, imageFile))
	if err != nil {
		return fmt.Errorf("load image %s into Docker: %w", reference(a), err)
	}
	defer f.Close()
	resp, err := l.o.Docker.ImageLoad(ctx, f)
	if err != nil {
		return fmt.Errorf("load image %s into Docker: %w", reference(a), err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && !l.loaded(ctx, reference(a)) {
		err = fmt.Errorf("it is not there afterwards; Docker said: %s", said)
	}
	if err != nil {
		return fmt.Errorf("load image %s into Docker: %w", reference(a), err)
	}
	return nil
}

// loaded tells whether Docker has an image.
func (l local) loaded(ctx context.Context, ref string) bool {
	_, err := l.o.Docker.ImageInspect(ctx, ref)
	return err == nil
}

// putFile writes a file into a container that need not run.
func putFile(ctx context.Context, docker *client.Client, id, name string, data []byte) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: path.Base(name), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return docker.CopyToContainer(ctx, id, path.Dir(name), &b, container.CopyToContainerOptions{})
}

// runContainer starts a container and waits for its end; an exit status other than 0 is an error with what it printed.
func runContainer(ctx context.Context, docker *client.Client, id string) error {
	if err := docker.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	ended, failed := docker.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case err := <-failed:
		return fmt.Errorf("wait for the container: %w", err)
	case r := <-ended:
		if r.StatusCode == 0 {
			return nil
		}
		logs, err := docker.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "20"})
		if err != nil {
			return errors.Join(fmt.Errorf("exit status %d", r.StatusCode), err)
		}
		defer logs.Close()
		var said bytes.Buffer
		_, err = stdcopy.StdCopy(&said, &said, logs)
		return errors.Join(fmt.Errorf("exit status %d\n%s", r.StatusCode, lastLines(said.String())), err)
	}
}
