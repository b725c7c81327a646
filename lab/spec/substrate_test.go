package spec_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
)

// What only a cluster has is refused elsewhere, and what a cluster cannot have, there; each with its place.
func TestSubstrate(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"images: {source: local}", "4:1: images: is for the substrate kind; this lab's substrate is netns"},
		{"agent: {kind: image, image: a:1}", "agent.kind: is for the substrate kind"},
		{"nodes: [{labels: {a: b}}]", "nodes[0].labels: is for the substrate kind"},
		{"substrate: kind\nagent: {kind: image}", "agent.image: is missing"},
		{"substrate: kind\nagent: {image: a:1}", "agent.image: is for the agent kind image only"},
		{"substrate: kind\ntpm: {backend: simulator}", "tpm.backend: \"simulator\" is not there"},
		{"substrate: kind\nnodes: 64\nnetworks: {cluster: {cidr: 198.18.20.0/24}}", "has room for 63 nodes of the substrate kind"},
		{"substrate: kind\nnetworks: {cluster: {loadBalancer: 198.18.20.70}}", "out of which Docker gives the nodes their addresses"},
		{"substrate: kind\nkubernetes: {podCIDR: 198.18.0.0/16}", "kubernetes.podCIDR: 198.18.0.0/16 overlaps"},
		{"substrate: kind\nkubernetes: {serviceCIDR: 198.18.96.0/29}", "not of a size that fits: /16 to /24"},
		{"substrate: kind\nkubernetes: {version: \"1.34\"}", "kubernetes.version"},
		{"substrate: kind\nnodes: [{mounts: [{hostPath: /tmp, containerPath: /var/lib/keylab/x}]}]", "is the lab's own on every node"},
		{"substrate: kind\nnodes: [{mounts: [{hostPath: /a, containerPath: /m}, {hostPath: /b, containerPath: /m/}]}]", "is mounted twice"},
		{"substrate: kind\nnodes: [{labels: {\"a b\": c}}]", "nodes[0].labels: \"a b\" is no label's key"},
		{"substrate: kind\nnodes: [{labels: {Example.com/a: c}}]", "is no label's key"},
		{"substrate: kind\nnodes: [{labels: {a/b/c: d}}]", "is no label's key"},
		{"substrate: kind\nnodes: [{labels: {a: \"b,c=d\"}}]", "\"b,c=d\" is no label's value, of a"},
		{"substrate: kind\nnodes: [{labels: {keylab.dev/node: other}}]", "is one of the lab's own"},
		{"substrate: kind\nnodes: [{labels: {node-role.kubernetes.io/worker: \"\"}}]", "is one of Kubernetes' own"},
		{"substrate: kind\nnodes: [{labels: {kubernetes.io/hostname: a}}]", "is one of Kubernetes' own"},
		{"substrate: kind\nimages: {source: elsewhere}", "images.source: \"elsewhere\" is not one of auto, registry, local"},
	} {
		_, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\nname: x\n"+c.text+"\n"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n%v\nwant %q", c.text, err, c.want)
		}
	}
	const good = "apiVersion: keylab/v1alpha1\nkind: Lab\nsubstrate: kind\n" +
		"nodes: [{labels: {a: \"\", example.com/Rack_1.b: R-7, node.kubernetes.io/x: y, topology.kubernetes.io/zone: z}}]\n"
	if _, err := spec.Decode("lab.yaml", []byte(good)); err != nil {
		t.Errorf("labels that are good: %v", err)
	}
	s, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\nsubstrate: kind\nnodes: 100\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.SetDefaults(); s.Networks.Cluster.CIDR.String() != "198.18.20.0/22" || s.Timeouts.Ready.String() != "10m" || s.Images.Source != spec.ImagesAuto {
		t.Errorf("defaults of a large lab on kind: %s, %s, %s", s.Networks.Cluster.CIDR, s.Timeouts.Ready, s.Images.Source)
	}
}
