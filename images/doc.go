// Package images finds, builds and lists the container images of a lab on Kubernetes.
//
// They come from the official registries, or are made on this machine from Debian packages, PyPI and Go modules alone: [Ensure] returns a
// [Set] of references that Docker and the cluster know, however they came to be. What is built is kept in a cache, in a folder for
// each artifact that is named after the hash of its inputs, with a manifest.json of what went in.
//
//	kubernetes, containerd, …   Go programs, from modules pinned by recipes/*.mod and *.sum
//	root-node, root-tools, …    Debian file systems
//	tools, keylime, metallb-…   images (archives as docker save writes them), made without Docker
//	node                        kind's node image: it holds all images that the cluster needs, so that nothing is loaded into it later
package images
