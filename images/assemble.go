package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageFile is where an artifact that is an image keeps it, in the form of docker save.
const imageFile = "image.tar"

// layerOf is a layer that holds a tar archive.
func layerOf(archive string) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return os.Open(archive) })
}

// programLayer is a layer of programs: path in the image to path on this machine.
func programLayer(files map[string]string) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, to := range sortedKeys(files) {
		data, err := os.ReadFile(files[to])
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", files[to], err)
		}
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(to, "/"), Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return nil, fmt.Errorf("pack %s: %w", to, err)
		}
		if _, err := w.Write(data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", to, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack programs: %w", err)
	}
	data := b.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
}

// writeImage puts layers together and writes the image.
func writeImage(dir, reference string, config v1.Config, layers ...v1.Layer) error {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err == nil {
		image, err = mutate.Config(image, config)
	}
	if err == nil {
		image, err = withPlatform(image)
	}
	if err != nil {
		return fmt.Errorf("put image %s together: %w", reference, err)
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("name of image %s: %w", reference, err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, imageFile), tag, image); err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	return nil
}

// withPlatform says in the image for which machines it is.
func withPlatform(image v1.Image) (v1.Image, error) {
	c, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", goarch
	return mutate.ConfigFile(image, c)
}

// bundle writes many images as one archive, each under its own name, for containerd, which unpacks zstd in a fraction of the time that gzip takes.
func bundle(to string, archives map[string]string) error {
	refs := map[name.Reference]v1.Image{}
	for reference, archive := range archives {
		image, err := tarball.ImageFromPath(archive, nil)
		if err == nil {
			image, err = inZstd(image)
		}
		if err != nil {
			return fmt.Errorf("read image %s: %w", reference, err)
		}
		tag, err := name.NewTag(reference)
		if err != nil {
			return fmt.Errorf("name of image %s: %w", reference, err)
		}
		refs[tag] = image
	}
	if err := tarball.MultiRefWriteToFile(to, refs); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	return nil
}

// inZstd is the same image, by its ID too, with its layers compressed otherwise.
func inZstd(image v1.Image) (v1.Image, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	again := empty.Image
	for _, l := range layers {
		l, err := tarball.LayerFromOpener(l.Uncompressed, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd),
			tarball.WithCompressionLevel(zstdLevel), tarball.WithCompressedCaching)
		if err != nil {
			return nil, err
		}
		if again, err = mutate.AppendLayers(again, l); err != nil {
			return nil, err
		}
	}
	c, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(again, c)
}

// zstdLevel is quick to compress with, and no other is quicker to unpack.
const zstdLevel = 3

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
