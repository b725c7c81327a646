package kind

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// CollectLogs writes what the lab's containers and agents have printed into the lab's folder, one file for each.
func (l *Lab) CollectLogs(ctx context.Context) error {
	containers, err := l.running(ctx)
	if err != nil {
		return err
	}
	for name, c := range containers {
		part := c.Labels[LabelPart]
		if part == "" || part == plan.Tenant { // the tenant's own log is written by who runs it
			continue
		}
		if err := l.collect(ctx, name, part); err != nil {
			return err
		}
	}
	k, err := l.cluster()
	if err != nil {
		return nil // there is none yet
	}
	for _, n := range l.planned.Nodes {
		pod, err := l.agentPod(ctx, n)
		if err != nil {
			continue
		}
		text, err := k.typed.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: manifests.ContainerAgent}).DoRaw(ctx)
		if err != nil {
			continue // it has not started
		}
		if err := atomicfile.Write(l.dir.Log(n.Name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) collect(ctx context.Context, name, part string) error {
	r, err := l.docker.ContainerLogs(ctx, name, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return fmt.Errorf("read the log of container %s: %w", name, err)
	}
	defer r.Close()
	var text bytes.Buffer
	if _, err := stdcopy.StdCopy(&text, &text, r); err != nil {
		return fmt.Errorf("read the log of container %s: %w", name, err)
	}
	return atomicfile.Write(l.dir.Log(part), text.Bytes(), 0o600)
}

// logSource is where a log comes from: open gives what was printed since a time, or all, and goes on until who prints it ends. Every line begins with its
// time, as RFC 3339 has it.
type logSource struct {
	name string // of the log
	open func(ctx context.Context, since time.Time) (io.ReadCloser, error)
}

// FollowLogs has the logs of these components and nodes grow in the lab's folder, as they are printed, until ctx ends; also those of containers and pods that
// are started again. When it returns, the files are there, and begin with what was printed so far.
func (l *Lab) FollowLogs(ctx context.Context, names []string) error {
	containers, err := l.running(ctx)
	if err != nil {
		return err
	}
	var sources []logSource
	for name, c := range containers {
		if part := c.Labels[LabelPart]; part != "" && part != plan.Tenant && slices.Contains(names, part) {
			sources = append(sources, l.containerLog(name, part))
		}
	}
	for _, n := range l.planned.Nodes {
		if slices.Contains(names, n.Name) {
			sources = append(sources, l.agentLog(n))
		}
	}
	for _, s := range sources {
		// Another file in place of the one that is there: whoever reads that one reads it to its end.
		path := l.dir.Log(s.name)
		if err := atomicfile.Write(path, nil, 0o600); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("write the log of %s: %w", s.name, err)
		}
		go func() {
			defer f.Close()
			s.follow(ctx, f)
		}()
	}
	return nil
}

// containerLog is what a container prints.
func (l *Lab) containerLog(name, part string) logSource {
	return logSource{part, func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
		options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true, Timestamps: true}
		if !since.IsZero() {
			options.Since = since.Format(time.RFC3339Nano)
		}
		both, err := l.docker.ContainerLogs(ctx, name, options)
		if err != nil {
			return nil, err
		}
		r, w := io.Pipe()
		go func() {
			defer both.Close()
			_, err := stdcopy.StdCopy(w, w, both)
			w.CloseWithError(err)
		}()
		return r, nil
	}}
}

// agentLog is what the agent of a node prints, in whichever pod it runs.
func (l *Lab) agentLog(n plan.Node) logSource {
	return logSource{n.Name, func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
		k, err := l.cluster()
		if err != nil {
			return nil, err
		}
		pod, err := l.agentPod(ctx, n)
		if err != nil {
			return nil, err
		}
		options := &corev1.PodLogOptions{Container: manifests.ContainerAgent, Follow: true, Timestamps: true}
		if !since.IsZero() {
			options.SinceTime = &metav1.Time{Time: since}
		}
		return k.typed.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	}}
}

// logRetry is how long a log's source is left alone when it has ended or cannot be read.
const logRetry = 500 * time.Millisecond

// follow copies lines, without their times, until ctx ends. A source that ends may begin again: a container is restarted, a pod has a successor.
func (s logSource) follow(ctx context.Context, w io.Writer) {
	tick := time.NewTicker(logRetry)
	defer tick.Stop()
	var last time.Time
	for {
		if r, err := s.open(ctx, last); err == nil {
			last = copyTimed(w, r, last)
			r.Close()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// copyTimed copies the lines that are later than a time, without their times, and returns the time of the last one. Sources round the time from which on they
// are asked, so that some lines come twice.
func copyTimed(w io.Writer, r io.Reader, after time.Time) (last time.Time) {
	last = after
	for in := bufio.NewReader(r); ; {
		line, err := in.ReadString('\n')
		stamp, text, _ := strings.Cut(line, " ")
		if at, e := time.Parse(time.RFC3339Nano, stamp); e == nil && at.After(after) {
			if at.After(last) {
				last = at
			}
			if _, e := io.WriteString(w, text); e != nil {
				return last
			}
		}
		if err != nil {
			return last
		}
	}
}
