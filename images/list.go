package images

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// Image is one artifact that a local build makes, or one that others publish.
type Image struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Reference string `json:"reference,omitempty"` // of one that is an image
	Size      int64  `json:"size"`                // bytes; 0: not there
	Cached    bool   `json:"cached"`              // in the cache
	Loaded    bool   `json:"loaded"`              // in Docker
	Manifest  string `json:"manifest,omitempty"`  // path: what went into it
}

// List tells which artifacts a local build is made of, or which images others publish, and which of them are there.
func List(ctx context.Context, o Options) ([]Image, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l := local{&store{dir: o.CacheDir, log: o.Log}, o}
	var list []Image
	if o.Source == SourceRegistry {
		published := o.published()
		for _, part := range sortedKeys(published) {
			ref := published[part]
			colon := strings.LastIndex(ref, ":") // a registry's name may have one of its own
			i := Image{Name: ref[:colon], Version: ref[colon+1:], Reference: ref}
			if info, err := o.Docker.ImageInspect(ctx, ref); err == nil {
				i.Loaded, i.Size = true, info.Size
			}
			list = append(list, i)
		}
		return list, nil
	}
	services, err := l.keylimeServices(o.Keylime)
	if err != nil {
		return nil, err
	}
	artifacts := []artifact{l.node(), l.nodeBase(), services, l.keylimeBase()}
	cluster := l.clusterImages()
	names := map[string]string{} // of the cluster's own images
	for _, ref := range sortedKeys(cluster) {
		artifacts = append(artifacts, cluster[ref])
		names[cluster[ref].name] = ref
	}
	for _, r := range programRecipes() {
		artifacts = append(artifacts, programs(r))
	}
	roots := debianRoots()
	for _, name := range sortedKeys(roots) {
		artifacts = append(artifacts, debian(roots[name]))
	}
	for _, a := range append(artifacts, pause(), metalLBFile()) {
		i := Image{Name: a.name, Version: a.version}
		if m, ok := l.manifest(a); ok {
			i.Cached, i.Size, i.Manifest = true, m.Size, filepath.Join(l.folder(a), manifestName)
		}
		if strings.HasPrefix(a.name, "image-") {
			i.Reference = reference(a)
			if ref, ok := names[a.name]; ok {
				i.Reference = ref
			}
			i.Loaded = l.loaded(ctx, i.Reference)
		}
		list = append(list, i)
	}
	return list, nil
}

// Kubectl is the path of the kubectl that a local build has made, of the cluster's own version; empty where there is none.
func Kubectl(cacheDir string) string {
	path := filepath.Join((&store{dir: cacheDir}).folder(programs(recipeNamed("kubernetes"))), "kubectl")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}
