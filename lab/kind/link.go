package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"keylab.dev/keylab/lab/kind/hostlink"
	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// links are the sessions with keylab in the lab's containers, one for each container, made when first needed.
type links struct {
	mu   sync.Mutex
	open map[string]*linkEntry
}

type linkEntry struct {
	once   sync.Once
	made   atomic.Bool
	client *hostlink.Client
	err    error
}

// linkCommand is what runs in a container at the inner end of a session.
var linkCommand = []string{keylabPath, "in-container", "link"}

// link is the session with one of the plan's hosts; for the ingress, with the pod that it is.
func (l *Lab) link(ctx context.Context, host string) (*hostlink.Client, error) {
	l.links.mu.Lock()
	e := l.links.open[host]
	if e != nil && e.made.Load() && e.client != nil && e.client.Closed() {
		e = nil // the container was restarted
	}
	if e == nil {
		e = &linkEntry{}
		l.links.open[host] = e
	}
	l.links.mu.Unlock()
	e.once.Do(func() {
		// The session outlives the call that happens to be the first.
		e.client, e.err = l.connect(context.WithoutCancel(ctx), host)
		e.made.Store(true)
	})
	if e.err != nil {
		l.links.mu.Lock()
		if l.links.open[host] == e {
			delete(l.links.open, host)
		}
		l.links.mu.Unlock()
		return nil, e.err
	}
	return e.client, nil
}

func (l *Lab) connect(ctx context.Context, host string) (*hostlink.Client, error) {
	if host == plan.Ingress {
		return l.podLink(ctx, l.plan().Kubernetes.SystemNamespace, ingressSelector, manifests.ContainerIngress)
	}
	stream, err := l.execStream(ctx, l.containerOf(host), linkCommand)
	if err != nil {
		if c, look := l.docker.ContainerInspect(ctx, l.containerOf(host)); look == nil && !c.State.Running {
			err = errNotRunning // Docker's own words are long
		}
		return nil, fmt.Errorf("reach into container %s: %w", l.containerOf(host), err)
	}
	c, err := hostlink.NewClient(stream)
	if err != nil {
		stream.Close()
		return nil, fmt.Errorf("reach into %s: %w", host, err)
	}
	return c, nil
}

var errNotRunning = errors.New("it does not run")

// containerOf is the container that is one of the plan's hosts: for a node, kind's.
func (l *Lab) containerOf(host string) string {
	if n, ok := l.planned.Node(host); ok {
		return n.KubernetesName
	}
	if host == l.planned.Kubernetes.ControlPlane {
		return host
	}
	return l.resource(host)
}

// closeLink ends one session.
func (l *Lab) closeLink(host string) {
	l.links.mu.Lock()
	defer l.links.mu.Unlock()
	if e := l.links.open[host]; e != nil && e.made.Load() && e.client != nil {
		e.client.Close()
	}
	delete(l.links.open, host)
}

// closeLinks ends all sessions.
func (l *Lab) closeLinks() {
	l.links.mu.Lock()
	defer l.links.mu.Unlock()
	for _, e := range l.links.open {
		if e.made.Load() && e.client != nil {
			e.client.Close()
		}
	}
	l.links.open = map[string]*linkEntry{}
}

// execStream runs a command in a container and returns its standard input and output as one stream.
func (l *Lab) execStream(ctx context.Context, name string, argv []string) (io.ReadWriteCloser, error) {
	made, err := l.docker.ContainerExecCreate(ctx, name, container.ExecOptions{AttachStdin: true, AttachStdout: true, AttachStderr: true, Cmd: argv})
	if err != nil {
		return nil, fmt.Errorf("run %s in container %s: %w", strings.Join(argv, " "), name, err)
	}
	attached, err := l.docker.ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		return nil, fmt.Errorf("run %s in container %s: %w", strings.Join(argv, " "), name, err)
	}
	s := &execStream{attached: attached}
	r, w := io.Pipe()
	s.Reader = r
	go func() {
		_, err := stdcopy.StdCopy(w, &s.stderr, attached.Reader)
		if said := s.stderr.String(); said != "" {
			err = errors.Join(err, errors.New(strings.TrimSpace(said)))
		}
		w.CloseWithError(err) // nil: io.EOF
	}()
	return s, nil
}

// execStream is a running command's standard input and output.
type execStream struct {
	io.Reader
	attached types.HijackedResponse
	stderr   tail
}

func (s *execStream) Write(p []byte) (int, error) { return s.attached.Conn.Write(p) }

func (s *execStream) Close() error {
	s.attached.Close()
	return nil
}

// tail keeps the last few kilobytes written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b.Len() > 4096 {
		t.b.Reset()
	}
	return t.b.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// dialControl connects to the control API of the main process of one of keylab's own containers.
func (l *Lab) dialControl(host string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		link, err := l.link(ctx, host)
		if err != nil {
			return nil, err
		}
		return link.Dial(ctx, "unix", netroles.ControlSocket)
	}
}

// dialFrom connects from one of the lab's hosts.
func (l *Lab) dialFrom(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		link, err := l.link(ctx, host)
		if err != nil {
			return nil, err
		}
		return link.Dial(ctx, network, address)
	}
}

// awaitControl waits until the main process of one of keylab's own containers answers.
func (l *Lab) awaitControl(ctx context.Context, name string) error {
	dial := l.dialControl(name)
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	return l.awaitContainer(ctx, name, name+" to answer", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://keylab/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("its health is %s", resp.Status)
		}
		return nil
	})
}
