package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/lab/kind"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

func newImages(s streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "images",
		Short: "Build or list the container images of labs of the substrate kind",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(newImagesBuild(s), newImagesList(s))
	return c
}

// imageOptions are the options that both verbs have.
type imageOptions struct{ source, registry, keylime string }

func (o *imageOptions) add(c *cobra.Command, source string) {
	c.Flags().StringVar(&o.source, "source", source, "where from: auto, registry or local")
	c.Flags().StringVar(&o.registry, "registry", "", "a mirror of the official registries, such as 127.0.0.1:5000")
	c.Flags().StringVar(&o.keylime, "keylime", spec.Default().Keylime.Version, "the version of Keylime")
}

// with calls do with the options for package images.
func (o imageOptions) with(do func(images.Options) error) error {
	switch images.Source(o.source) {
	case images.SourceAuto, images.SourceLocal, images.SourceRegistry:
	default:
		return usagef("--source %q is not one of auto, registry, local", o.source)
	}
	cache, err := state.CacheBase()
	if err != nil {
		return err
	}
	docker, err := kind.NewClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	return do(images.Options{Source: images.Source(o.source), Registry: o.registry, CacheDir: filepath.Join(cache, "images"), Keylime: o.keylime, Docker: docker})
}

func newImagesBuild(s streams) *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "build",
		Short: "Build all images on this machine, from Debian packages, PyPI and Go modules",
		Long: `Builds what is not in the cache yet; with --source registry, pulls the official images. The first build of all takes about ten minutes on two
cores, most of it Kubernetes.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.with(func(options images.Options) error {
				if _, err := kind.CheckDocker(c.Context(), options.Docker); err != nil {
					return err
				}
				start := time.Now()
				options.Log = func(line string) { fmt.Fprintf(s.err, "%6.1f s  %s\n", time.Since(start).Seconds(), line) }
				set, err := images.Ensure(c.Context(), options)
				if err != nil {
					return err
				}
				if set.Why != "" {
					fmt.Fprintln(s.err, set.Why)
				}
				fmt.Fprintf(s.err, "The images are there: source %s, node image %s.\n", set.Source, set.Node)
				return nil
			})
		},
	}
	o.add(c, "local")
	return c
}

func newImagesList(s streams) *cobra.Command {
	var o imageOptions
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the images, with their sizes, and what they are made of",
		Long: `Lists what a lab's images are made of. Each artifact of the cache has a manifest.json, which names every module and package that went into it, with its
version.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			return o.with(func(options images.Options) error {
				list, err := images.List(c.Context(), options)
				if err != nil {
					return err
				}
				if output == "json" {
					return writeJSON(s.out, list)
				}
				var rows [][]string
				for _, i := range list {
					size := "-"
					if i.Size > 0 {
						size = fmt.Sprintf("%d MB", i.Size/1e6)
					}
					rows = append(rows, []string{i.Name, i.Version, size, yesNo(i.Cached), yesNo(i.Loaded), orNothing(i.Reference), orNothing(i.Manifest)})
				}
				return table(s.out, "ARTIFACT|VERSION|SIZE|BUILT|IN DOCKER|IMAGE|MANIFEST", rows)
			})
		},
	}
	o.add(c, "local")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
