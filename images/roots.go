package images

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// suite is the Debian release that the images are made from.
const suite = "bookworm"

// root is a Debian file system.
type root struct {
	name     string
	packages []string
	// extra says what else goes in, as mmdebstrap's own options, made when it is built.
	extra  func(ctx context.Context, dir string) ([]string, error)
	inputs []string // of extra
}

func debianRoots() map[string]root {
	return map[string]root{
		"tools":   {name: "root-tools", packages: []string{"ca-certificates", "haproxy", "iproute2", "libtss2-tcti-cmd0", "libtss2-tcti-swtpm0", "openssl", "swtpm", "tpm2-tools"}},
		"keylime": {name: "root-keylime", packages: []string{"ca-certificates", "libefivar1", "libfaketime", "procps", "python3", "python3-gpg", "python3-venv", "tpm2-tools"}},
		"node": {
			name: "root-node",
			// Those of the file images/base/Dockerfile of kind, less what only other snapshotters and storages need; and runc.
			packages: []string{"bash", "ca-certificates", "conntrack", "curl", "ethtool", "iproute2", "iptables", "jq", "kmod", "libseccomp2",
				"mount", "nftables", "pigz", "procps", "runc", "socat", "systemd", "systemd-sysv", "util-linux"},
			extra: kindFiles, inputs: []string{kindModule, nodeHook},
		},
	}
}

const (
	kindModule     = "sigs.k8s.io/kind"
	kindRecipe     = "kind"
	kindBaseFiles  = "images/base/files"
	nodeHookScript = "node-hook.sh"
)

// nodeHook prepares systemd for a container, as kind's own base image does: only the services of a node are started.
const nodeHook = `set -e
root=$1
rm -f "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
rm -f "$root"/lib/systemd/system/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* "$root"/lib/systemd/system/local-fs.target.wants/*
rm -f "$root"/lib/systemd/system/sockets.target.wants/*udev* "$root"/lib/systemd/system/sockets.target.wants/*initctl* "$root"/lib/systemd/system/basic.target.wants/*
echo ReadKMsg=no >>"$root"/etc/systemd/journald.conf
cp -r --no-preserve=mode,ownership "$2"/. "$root"/
chmod 0755 "$root"/usr/local/bin/* "$root"/kind/bin "$root"/kind/bin/*
mkdir -p "$root"/etc/kubernetes/manifests "$root"/kind/manifests "$root"/opt/cni/bin
chroot "$root" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
chroot "$root" systemctl mask systemd-binfmt.service
`

// kindFiles takes the files of kind's base image out of its module.
func kindFiles(ctx context.Context, dir string) ([]string, error) {
	module, err := moduleDir(ctx, dir, kindRecipe, kindModule)
	if err != nil {
		return nil, err
	}
	script := filepath.Join(dir, nodeHookScript)
	if err := os.WriteFile(script, []byte(nodeHook), 0o644); err != nil {
		return nil, err
	}
	files := filepath.Join(module, filepath.FromSlash(kindBaseFiles))
	return []string{"--customize-hook=sh '" + script + "' \"$1\" '" + files + "'"}, nil
}

// debian is the artifact of one root: root.tar.
func debian(r root) artifact {
	return artifact{
		name: r.name, version: suite, inputs: append([]string{suite, strings.Join(r.packages, " "), runtime.GOARCH}, r.inputs...),
		build: func(ctx context.Context, dir string, m *manifest) error {
			m.Inputs = append([]string{"Debian " + suite, runtime.GOARCH}, r.packages...)
			// No documentation, and no lists that only apt needs.
			argv := []string{"mmdebstrap", "--quiet", "--variant=minbase", "--include=" + strings.Join(r.packages, ","),
				`--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-include=/usr/share/doc/*/copyright`, `--dpkgopt=path-exclude=/usr/share/man/*`,
				`--dpkgopt=path-exclude=/usr/share/locale/*`}
			if r.extra != nil {
				extra, err := r.extra(ctx, dir)
				if err != nil {
					return err
				}
				defer os.Remove(filepath.Join(dir, nodeHookScript))
				argv = append(argv, extra...)
			}
			archive := filepath.Join(dir, "root.tar")
			if _, err := run(ctx, dir, nil, append(argv, suite, archive)...); err != nil {
				return err
			}
			return debianPackages(archive, m)
		},
	}
}

// debianPackages notes which packages a root holds, from its own dpkg database.
func debianPackages(archive string, m *manifest) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return fmt.Errorf("%s holds no dpkg database", archive)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", archive, err)
		}
		if strings.TrimPrefix(h.Name, "./") != "var/lib/dpkg/status" {
			continue
		}
		lines, name := bufio.NewScanner(t), ""
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "Package: "); ok {
				name = v
			} else if v, ok := strings.CutPrefix(lines.Text(), "Version: "); ok {
				m.Contents["debian "+name] = v
			}
		}
		return lines.Err()
	}
}
