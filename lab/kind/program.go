package kind

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// programDigits is how many digits of a program's hash name its folder.
const programDigits = 16

// runningProgram is this very program.
const runningProgram = "/proc/self/exe"

// storeProgram keeps a copy of a program, which is keylab, in the cache, by its content, and returns its path. A lab goes on with the program that it was
// made with, whatever becomes of the one on the disk.
func storeProgram(cache, program string) (string, error) {
	if err := checkStatic(program); err != nil {
		return "", err
	}
	in, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("read the keylab program: %w", err)
	}
	defer in.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, in); err != nil {
		return "", fmt.Errorf("read the keylab program: %w", err)
	}
	path := filepath.Join(programsDir(cache), hex.EncodeToString(hash.Sum(nil))[:programDigits], "keylab")
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		if err := os.Chtimes(filepath.Dir(path), now, now); err != nil {
			return "", fmt.Errorf("mark the copy of keylab as used: %w", err)
		}
		return path, nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read the keylab program: %w", err)
	}
	return path, writeFile(path, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}

// checkStatic refuses a program that needs a dynamic linker, which its container does not have.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read the keylab program: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("this keylab is linked dynamically and cannot run in the lab's containers: build it with CGO_ENABLED=0 (make build)")
		}
	}
	return nil
}

// writeFile writes a large file whole or not at all.
func writeFile(path string, mode os.FileMode, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	if err := write(f); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Chmod(mode); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// programImage makes an image that holds nothing but the program, and returns its name and the archive (docker save) that has it.
func programImage(cache, program string) (image, archive string, err error) {
	id := filepath.Base(filepath.Dir(program))
	image, archive = "keylab.test/keylab:"+id, filepath.Join(filepath.Dir(program), "image.tar")
	if _, err := os.Stat(archive); err == nil {
		return image, archive, nil
	}
	made, err := fileImage(empty.Image, program, podProgram)
	if err != nil {
		return "", "", err
	}
	made, err = mutate.Config(made, v1.Config{Entrypoint: []string{podProgram}})
	if err != nil {
		return "", "", fmt.Errorf("make image %s: %w", image, err)
	}
	return image, archive, writeImage(made, image, archive)
}

// fileImage puts one executable file over an image.
func fileImage(base v1.Image, from, to string) (v1.Image, error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err = w.WriteHeader(&tar.Header{Name: to[1:], Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", from, err)
	}
	// Not compressed: it never leaves this machine, and every node would have to unpack it.
	image, err := mutate.AppendLayers(base, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", from, err)
	}
	return image, nil
}

// writeImage writes an image as an archive that docker and containerd load.
func writeImage(image v1.Image, reference, archive string) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("name of image %s: %w", reference, err)
	}
	return writeFile(archive, 0o644, func(w io.Writer) error { return tarball.Write(tag, image, w) })
}

// binaryAgentPath is where an image made of an agent's program has it.
const binaryAgentPath = "/usr/local/bin/keylime_agent"

// agentImages makes images of agents that are programs on this machine, over the tools' image, which has the libraries of the TPM software stack; and has
// Docker pull the images that agents are.
func (l *Lab) agentImages(ctx context.Context, list ...plan.Node) error {
	for _, n := range list {
		switch {
		case n.Agent.Image != "":
			if err := images.Pull(ctx, l.docker, n.Agent.Image); err != nil {
				return fmt.Errorf("the agent of %s: %w", n.Name, err)
			}
		case n.Agent.Kind == string(spec.AgentBinary):
			image, err := l.binaryImage(ctx, n.Agent.Path)
			if err != nil {
				return fmt.Errorf("the agent of %s: %w", n.Name, err)
			}
			if err := l.learn(func(f *facts) { f.BinaryImages[n.Agent.Path] = image }); err != nil {
				return err
			}
		}
	}
	return nil
}

// binaryImage makes Docker know an image of one program, named after its content.
func (l *Lab) binaryImage(ctx context.Context, path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	image := "keylab.test/agent:" + hex.EncodeToString(sum[:])[:16]
	if _, err := l.docker.ImageInspect(ctx, image); err == nil {
		return image, nil
	}
	archive, err := l.overTools(ctx, path, binaryAgentPath, image)
	if err != nil {
		return "", err
	}
	defer os.Remove(archive)
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	resp, err := l.docker.ImageLoad(ctx, f)
	if err != nil {
		return "", fmt.Errorf("load image %s into Docker: %w", image, err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return image, err
}

// overTools makes an image of a program over the tools' image, and returns an archive that has it.
func (l *Lab) overTools(ctx context.Context, program, at, reference string) (archive string, err error) {
	base := filepath.Join(l.dir.Path, "containers", "tools.tar")
	if err := l.saveImages(ctx, base, l.images().Tools); err != nil {
		return "", err
	}
	defer os.Remove(base)
	tools, err := tarball.ImageFromPath(base, nil)
	if err != nil {
		return "", fmt.Errorf("read the image %s: %w", l.images().Tools, err)
	}
	made, err := fileImage(tools, program, at)
	if err != nil {
		return "", err
	}
	archive = filepath.Join(l.dir.Path, "containers", "agent.tar")
	return archive, writeImage(made, reference, archive)
}
