package kind

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/pkg/stdcopy"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/kind/netroles"
)

const (
	// keylabPath is where every container and node finds the keylab program.
	keylabPath = "/usr/local/bin/keylab"
	// configPath is where one of keylab's own roles finds its configuration.
	configPath = "/etc/keylab/config.json"
)

// apiEndpointMAC is the version of Docker's API from which on a MAC belongs to a container's place in a network; before, to the container.
const apiEndpointMAC = "1.44"

// attachment is a container's place in one of the lab's networks.
type attachment struct {
	network string // the plan's name
	address netip.Addr
	mac     string
	aliases []string // more names under which Docker's own DNS knows it there
}

// part is a container to be.
type part struct {
	name     string
	config   container.Config
	host     container.HostConfig
	networks []attachment
	files    []file // written into it before it starts
}

// file is put into a container, in a folder that is there.
type file struct {
	path string
	data []byte
	mode int64
}

// container describes one of the lab's containers in which keylab plays a role.
func (l *Lab) container(name, image, role string, args ...string) *part {
	p := &part{name: name}
	p.config = container.Config{
		Image: image, Hostname: name, Labels: l.labels(name),
		Entrypoint: append([]string{keylabPath, "in-container", role}, args...),
	}
	p.host = container.HostConfig{RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}}
	p.bind(l.program, keylabPath, true)
	p.host.Tmpfs = map[string]string{filepath.Dir(netroles.ControlSocket): "mode=0700"}
	return p
}

// bind shows a file or folder of this machine to the container.
func (p *part) bind(from, to string, readOnly bool) {
	p.host.Mounts = append(p.host.Mounts, mount.Mount{Type: mount.TypeBind, Source: from, Target: to, ReadOnly: readOnly})
}

// volume mounts one of the lab's volumes.
func (p *part) volume(name, to string) {
	p.host.Mounts = append(p.host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: name, Target: to, VolumeOptions: &mount.VolumeOptions{NoCopy: true}})
}

// writeConfig gives a role its configuration: a file in the lab's folder that the container sees.
func (p *part) writeConfig(l *Lab, config any) error {
	path, err := l.writeRoleConfig(p.name, config)
	if err != nil {
		return err
	}
	p.bind(path, configPath, true)
	return nil
}

// writeRoleConfig writes the configuration that the container of this name reads whenever it starts, and returns the file's path.
func (l *Lab) writeRoleConfig(name string, config any) (string, error) {
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode the configuration of %s: %w", name, err)
	}
	path := filepath.Join(l.dir.Path, "containers", name+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return path, atomicfile.Write(path, append(data, '\n'), 0o600)
}

// start makes a container and starts it.
func (l *Lab) start(ctx context.Context, p *part) error {
	name := l.resource(p.name)
	first := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	if len(p.networks) > 0 && older(l.docker.ClientVersion(), apiEndpointMAC) {
		p.config.MacAddress, p.networks[0].mac = p.networks[0].mac, "" //lint:ignore SA1019 the only way before that version
	}
	p.host.NetworkMode = "none"
	if len(p.networks) > 0 {
		p.host.NetworkMode = container.NetworkMode(l.resource(p.networks[0].network))
		first.EndpointsConfig[l.resource(p.networks[0].network)] = p.networks[0].settings()
	}
	id, err := l.makeContainer(ctx, name, &p.config, &p.host, first, p.files...)
	if err != nil {
		return err
	}
	if len(p.networks) > 1 {
		for _, n := range p.networks[1:] {
			if err := l.enterNetwork(ctx, n.network, id, n.settings()); err != nil {
				return fmt.Errorf("connect container %s to network %s: %w", name, n.network, err)
			}
		}
	}
	start := l.startContainer
	if len(p.networks) == 0 {
		start = l.startAlone
	}
	if err := start(ctx, id); err != nil {
		return fmt.Errorf("start container %s: %w", name, explained(err))
	}
	return nil
}

// makeLimit is how long Docker may take to make a container.
const makeLimit = 2 * time.Minute

// makeContainer makes a container that does not run yet, with files in it. Docker brings to its end what it has begun, whether anybody waits for it or not: whoever gives
// up waits for that, so that what then takes the container back finds it.
func (l *Lab) makeContainer(ctx context.Context, name string, c *container.Config, h *container.HostConfig, n *network.NetworkingConfig, files ...file) (id string, err error) {
	if err := context.Cause(ctx); err != nil {
		return "", fmt.Errorf("make container %s: %w", name, err)
	}
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeLimit)
	defer cancel()
	done, err := l.making(patient, name)
	if err != nil {
		return "", err
	}
	made, err := l.docker.ContainerCreate(patient, c, h, n, nil, name)
	done()
	if err != nil {
		return "", fmt.Errorf("make container %s from image %s: %w", name, c.Image, err)
	}
	for _, f := range files {
		if err := l.put(ctx, made.ID, f); err != nil {
			return "", fmt.Errorf("write %s into container %s: %w", f.path, name, err)
		}
	}
	return made.ID, nil
}

func (a attachment) settings() *network.EndpointSettings {
	s := &network.EndpointSettings{MacAddress: a.mac, Aliases: a.aliases}
	if a.address.IsValid() {
		s.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: a.address.String()}
	}
	return s
}

// put writes one file into a container that need not run.
func (l *Lab) put(ctx context.Context, id string, f file) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: filepath.Base(f.path), Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := w.Write(f.data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return l.docker.CopyToContainer(ctx, id, filepath.Dir(f.path), &b, container.CopyToContainerOptions{})
}

// makeVolume makes one of the lab's volumes, if it is not there.
func (l *Lab) makeVolume(ctx context.Context, name string, keep bool) (string, error) {
	v := l.labels(name)
	if keep {
		v[LabelKeep] = "true"
	}
	made, err := l.docker.VolumeCreate(ctx, volume.CreateOptions{Name: l.resource(name), Labels: v})
	if err != nil {
		return "", fmt.Errorf("make volume %s: %w", l.resource(name), err)
	}
	return made.Name, nil
}

// died is the error for a container that does not run, with the end of its log; nil when it runs.
func (l *Lab) died(ctx context.Context, name string) error {
	c, err := l.docker.ContainerInspect(ctx, l.resource(name))
	if cerrdefs.IsNotFound(err) {
		return fmt.Errorf("container %s is not there", l.resource(name))
	}
	if err != nil {
		return fmt.Errorf("look at container %s: %w", l.resource(name), err)
	}
	if c.State.Running && !c.State.Restarting {
		return nil
	}
	how := fmt.Sprintf("%s, exit status %d", c.State.Status, c.State.ExitCode)
	if c.State.Error != "" {
		how += ", " + c.State.Error
	}
	return fmt.Errorf("container %s does not run: %s\nthe end of its log (docker logs %s):\n%s", c.Name[1:], how, c.Name[1:], l.logTail(ctx, name))
}

// logTail is the end of the log of one of the lab's containers, indented.
func (l *Lab) logTail(ctx context.Context, name string) string {
	return l.containerTail(ctx, l.resource(name))
}

// containerTail is logTail for a container by its own name.
func (l *Lab) containerTail(ctx context.Context, name string) string {
	r, err := l.docker.ContainerLogs(ctx, name, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "15"})
	if err != nil {
		return "  " + err.Error()
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, r); err != nil && !errors.Is(err, io.EOF) {
		return "  " + err.Error()
	}
	return indent(b.String())
}

func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return "  (nothing)"
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ")
}

// awaitContainer waits until ready succeeds; it fails at once when the container ends.
func (l *Lab) awaitContainer(ctx context.Context, name, what string, ready func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if died := l.died(ctx, name); died != nil && ctx.Err() == nil {
			return died
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; last: %w\nthe end of its log:\n%s", what, context.Cause(ctx), err, l.logTail(context.WithoutCancel(ctx), name))
		case <-tick.C:
		}
	}
}
