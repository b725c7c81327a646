package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/images/registrytest"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// A lab of images that others publish, out of a registry on the loopback. What stands for the official images there is like them in what differs from those that
// keylab builds: the node's brings the network of its pods, which kind sets up, and Keylime is installed for the system's own Python.
// One of the nodes has an EK certificate of a stranger's CA: it is refused by name, and the other one attested.
func TestRegistryLab(t *testing.T) {
	turn(t)
	needDocker(t)
	mirror := registrytest.Start(t)
	l := newLab(t, "e2e-registry", 42, "nodes:\n- name: good\n- name: bad\n  ek: {issuer: stranger}\n")
	text, err := os.ReadFile(l.spec)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("{source: local}"), []byte(`{source: registry, registry: "`+mirror+`"}`), 1)
	if err := os.WriteFile(l.spec, text, 0o600); err != nil {
		t.Fatal(err)
	}
	publish(l, mirror)

	l.up()
	states := map[string]string{}
	for _, n := range l.status().Nodes {
		states[n.Name] = n.State
		if n.Name == "bad" && !strings.Contains(n.Detail, "EK") {
			t.Errorf("the refusal does not say why: %q", n.Detail)
		}
	}
	if states["good"] != "attested" || states["bad"] != "refused" {
		t.Errorf("states %v", states)
	}
	wantOnly(t, failed(l.verify()), "bad")
	for _, container := range []string{"verifier", "worker"} {
		if image := docker(t, "inspect", "--format", "{{.Config.Image}}", "keylab-e2e-registry-"+container); !strings.HasPrefix(image, mirror+"/") {
			t.Errorf("%s runs %s, which is not of %s", container, image, mirror)
		}
	}
	if pods := l.kubectl("get", "pods", "--all-namespaces", "-o", "name"); !strings.Contains(pods, standInCNI) || strings.Contains(pods, manifests.AppPodNetwork) {
		t.Errorf("the pods' network is not the node image's: %s", pods)
	}
	l.run("wipe", l.name)
	if s := left(t, l.name); s != "" {
		t.Errorf("left after wipe: %s", s)
	}
}

// publish fills a registry with images under the official paths, made of those in the cache, and has Docker forget them.
func publish(l *testLab, mirror string) {
	t, p := l.t, l.plan()
	t.Helper()
	l.run("images", "build")
	local := map[string]images.Image{}
	for _, i := range l.images() {
		local[i.Name] = i
	}
	keylime := docker(t, "create", "--entrypoint", "sh", local["image-keylime"].Reference, "-c", forSystemPython)
	defer docker(t, "rm", keylime)
	docker(t, "start", "--attach", keylime)
	for _, i := range l.images("--source", "registry", "--registry", mirror) {
		base := i.Name[strings.LastIndex(i.Name, "/")+1:]
		switch base {
		case "node":
			cni := filepath.Join(t.TempDir(), "default-cni.yaml")
			if err := os.WriteFile(cni, defaultCNI(t, p), 0o644); err != nil {
				t.Fatal(err)
			}
			node := docker(t, "create", local["image-node"].Reference)
			defer docker(t, "rm", node)
			docker(t, "cp", cni, node+":/kind/manifests/default-cni.yaml")
			commit(t, node, i.Reference)
		case "keylime_registrar", "keylime_verifier", "keylime_tenant":
			commit(t, keylime, i.Reference, "--change", `ENTRYPOINT ["`+base+`"]`, "--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		case "controller", "speaker":
			image, err := tarball.ImageFromPath(filepath.Join(filepath.Dir(local["image-metallb-"+base].Manifest), "image.tar"), nil)
			if err != nil {
				t.Fatal(err)
			}
			tag, err := name.NewTag(i.Reference, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(tag, image); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("nothing stands for %s", i.Reference)
		}
		t.Cleanup(func() {
			_ = exec.Command("docker", "rmi", "--force", i.Reference).Run() // it may not have been pulled
		})
	}
}

// images are those that keylab lists.
func (l *testLab) images(args ...string) []images.Image {
	l.t.Helper()
	var list []images.Image
	if err := json.Unmarshal([]byte(l.run(append([]string{"images", "list", "--output", "json"}, args...)...)), &list); err != nil {
		l.t.Fatal(err)
	}
	return list
}

// forSystemPython has Keylime where pip puts it without a virtual environment.
const forSystemPython = `set -e
mv /opt/keylime/lib/python3.*/site-packages/* /usr/local/lib/python3.*/dist-packages/
for script in /opt/keylime/bin/keylime*; do
  sed '1s|.*|#!/usr/bin/python3|' "$script" >"/usr/local/bin/${script##*/}"
  chmod 0755 "/usr/local/bin/${script##*/}"
done
rm -rf /opt/keylime
`

// commit makes an image of a container, pushes it, and has Docker forget it.
func commit(t *testing.T, container, ref string, changes ...string) {
	t.Helper()
	docker(t, append(append([]string{"commit"}, changes...), container, ref)...)
	docker(t, "push", "--quiet", ref)
	docker(t, "rmi", ref)
}

// standInCNI is the name of the pods' network that stands for kindnet.
const standInCNI = "stand-in-cni"

// defaultCNI is a network of pods as kind finds it in an official node image: keylab's own, under another name.
func defaultCNI(t *testing.T, p plan.Plan) []byte {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	objects := manifests.System(manifests.Lab{
		Name: p.Lab, SystemNamespace: metav1.NamespaceSystem, KeylabImage: "keylab.test/keylab:" + hex.EncodeToString(sum[:8]),
		APIServer: "https://" + p.Kubernetes.ControlPlane + ":6443", PodCIDR: p.Kubernetes.PodCIDR, ServiceCIDR: p.Kubernetes.ServiceCIDR, InstallCNI: true,
	})
	objects = slices.DeleteFunc(objects, func(o runtime.Object) bool {
		named, ok := o.(metav1.Object)
		return !ok || named.GetName() != manifests.AppPodNetwork
	})
	var b bytes.Buffer
	if err := manifests.Encode(&b, objects); err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b.Bytes(), []byte(manifests.AppPodNetwork), []byte(standInCNI))
}
