package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/container"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keylab.dev/keylab/keylime"
)

// venvScript makes a virtual environment with Keylime and all it needs, pinned by hash, in a container of the same root that will run it. The system's
// module gpg, which no wheel brings, is made visible in it.
const venvScript = `set -e
python3 -m venv /opt/keylime
/opt/keylime/bin/pip --no-cache-dir --no-input install --quiet --progress-bar=off --no-deps --only-binary=:all: --no-compile --require-hashes -r /build/requirements.txt
for d in /opt/keylime/lib/python3*/site-packages; do ln -s /usr/lib/python3/dist-packages/gpg "$d/gpg"; done
/opt/keylime/bin/python3 -c 'import gpg'
/opt/keylime/bin/python3 -m compileall -q /opt/keylime/lib
/opt/keylime/bin/pip list --format=freeze >/opt/keylime/packages.txt
rm -rf /opt/keylime/lib/python3*/site-packages/pip /opt/keylime/lib/python3*/site-packages/setuptools
`

// keylimeBase is the root of the services' image as an image, in which the virtual environment is made.
func (l local) keylimeBase() artifact {
	base := debian(debianRoots()["keylime"])
	a := artifact{name: "image-keylime-base", version: suite, inputs: []string{base.key()}}
	a.build = func(ctx context.Context, dir string, m *manifest) error {
		return l.overRoot(ctx, dir, m, base, nil, reference(a), v1.Config{}, nil)
	}
	return a
}

// keylimeServices is the one image for registrar, verifier and tenant.
func (l local) keylimeServices(version string) (artifact, error) {
	requirements, err := keylime.Requirements(version)
	if err != nil {
		return artifact{}, err
	}
	base := l.keylimeBase()
	a := artifact{name: "image-keylime", version: version, inputs: []string{base.key(), requirements, venvScript}}
	a.build = func(ctx context.Context, dir string, m *manifest) error {
		if _, err := l.ensure(ctx, base); err != nil {
			return err
		}
		if err := l.load(ctx, base); err != nil {
			return err
		}
		root := debian(debianRoots()["keylime"])
		venv := filepath.Join(dir, "venv.tar")
		defer os.Remove(venv)
		packages, err := l.buildVenv(ctx, dir, reference(base), requirements, venv)
		if err != nil {
			return err
		}
		from, err := l.ensure(ctx, root)
		if err != nil {
			return err
		}
		if in, ok := l.manifest(root); ok {
			m.Contents = in.Contents
		}
		for line := range strings.Lines(packages) {
			if name, v, ok := strings.Cut(strings.TrimSpace(line), "=="); ok {
				m.Contents["python "+name] = v
			}
		}
		m.Inputs = []string{"requirements of Keylime " + version, base.name + " " + base.key()}
		var layers []v1.Layer
		for _, archive := range []string{filepath.Join(from, "root.tar"), venv} {
			layer, err := layerOf(archive)
			if err != nil {
				return err
			}
			layers = append(layers, layer)
		}
		return writeImage(dir, reference(a), v1.Config{Env: []string{"PATH=/opt/keylime/bin:" + defaultPath}}, layers...)
	}
	return a, nil
}

// buildVenv runs venvScript with this machine's network and its settings for pip, and takes out /opt/keylime. It returns the list of packages.
func (l local) buildVenv(ctx context.Context, dir, base, requirements, venv string) (packages string, err error) {
	if err := os.WriteFile(filepath.Join(dir, "requirements.txt"), []byte(requirements), 0o644); err != nil {
		return "", err
	}
	docker := l.o.Docker
	host := &container.HostConfig{NetworkMode: "host", Binds: []string{dir + ":/build:ro"}}
	for _, settings := range []string{"/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"} {
		if _, err := os.Stat(settings); err == nil {
			host.Binds = append(host.Binds, settings+":"+settings+":ro")
		}
	}
	made, err := docker.ContainerCreate(ctx, &container.Config{
		Image: base, Entrypoint: []string{"sh", "-c", venvScript}, Env: append(pipSettings(), "PATH="+defaultPath), Labels: map[string]string{"keylab.build": "keylime"},
	}, host, nil, nil, "")
	if err != nil {
		return "", fmt.Errorf("make the container in which Keylime is installed: %w", err)
	}
	defer func() {
		_ = docker.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	}()
	if err := runContainer(ctx, docker, made.ID); err != nil {
		return "", fmt.Errorf("install Keylime: %w", err)
	}
	if err := l.copyOut(ctx, made.ID, "/opt/keylime", "opt/", venv); err != nil {
		return "", err
	}
	return l.readOut(ctx, made.ID, "/opt/keylime/packages.txt")
}

// pipSettings are those of this machine's environment that say where packages come from.
func pipSettings() []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case name == "PIP_FIND_LINKS", name == "PIP_CACHE_DIR": // paths that the container does not have
		case strings.HasPrefix(name, "PIP_"), strings.HasSuffix(strings.ToLower(name), "_proxy"):
			env = append(env, e)
		}
	}
	return env
}

// copyOut writes a folder of a container as a tar archive, whose names begin with prefix.
func (l local) copyOut(ctx context.Context, id, from, prefix, to string) error {
	r, _, err := l.o.Docker.CopyFromContainer(ctx, id, from)
	if err != nil {
		return fmt.Errorf("take %s out of the container: %w", from, err)
	}
	defer r.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	return renameEntries(f, r, prefix)
}

func (l local) readOut(ctx context.Context, id, from string) (string, error) {
	r, _, err := l.o.Docker.CopyFromContainer(ctx, id, from)
	if err != nil {
		return "", fmt.Errorf("take %s out of the container: %w", from, err)
	}
	defer r.Close()
	data, err := firstEntry(r)
	if err != nil {
		return "", fmt.Errorf("take %s out of the container: %w", from, err)
	}
	return string(data), nil
}
