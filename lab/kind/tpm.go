package kind

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/tpmrole"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

const (
	// tpmSocketDir is where a TPM's container serves it, and where its programs find the sockets.
	tpmSocketDir = "/run/keylab-tpm"
	// nodeTPMDir is the same folder on the node.
	nodeTPMDir = manifests.NodeTPMDir
	// tpmStateDir is where the TPM's state is, in its container.
	tpmStateDir = "/state"
)

// tpmPart is the name of a node's TPM container, and of the volume of the TPM that it was made with.
func tpmPart(node string) string { return "tpm-" + node }

// socketDir is the folder of one node's TPM sockets on this machine: nobody but that node and the TPM's container has it mounted.
func (l *Lab) socketDir(node string) string { return filepath.Join(l.dir.Path, "tpm-sockets", node) }

// startTPM starts a node's TPM in a container of its own, without a network, and completes its manufacture with a certificate of the lab's
// EK CA. Its state is in a volume that outlives container, node and `down`.
func (l *Lab) startTPM(n plan.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := l.makeSocketDir(n.Name); err != nil {
			return err
		}
		home, err := l.tpmVolume(n.Name)
		if err != nil {
			return err
		}
		volume, err := l.makeVolume(ctx, home, true)
		if err != nil {
			return err
		}
		p := l.container(tpmPart(n.Name), l.images().Tools, "tpm", configPath)
		p.host.ReadonlyRootfs = true
		p.host.CapDrop = []string{"ALL"}
		p.host.CapAdd = []string{"DAC_OVERRIDE"} // the sockets' folder belongs to whoever runs keylab
		p.host.Tmpfs["/tmp"] = ""
		p.volume(volume, tpmStateDir)
		p.bind(l.socketDir(n.Name), tpmSocketDir, false)
		if err := l.makeMeasuredDir(n.Name); err != nil {
			return err
		}
		p.bind(l.dir.Measured(n.Name), measuredDir, false)
		seed, err := fleet.TPMSeed(l.dir, n)
		if err != nil {
			return err
		}
		without, err := fleet.WithoutEK(l.dir, n)
		if err != nil {
			return err
		}
		if err := p.writeConfig(l, tpmrole.Config{
			Name: n.Name, Dir: tpmStateDir, SocketDir: tpmSocketDir, Algorithm: n.TPM.EKAlgorithm, Seed: hex.EncodeToString(seed), WithoutCertificate: without,
			Lab: l.planned.Lab, MeasuredDir: measuredDir, IMA: n.IMA, MeasuredBoot: n.MeasuredBoot,
		}); err != nil {
			return err
		}
		if err := l.start(ctx, p); err != nil {
			return err
		}
		if err := l.awaitControl(ctx, tpmPart(n.Name)); err != nil {
			return err
		}
		return l.manufacture(ctx, n)
	}
}

// manufacture gives the TPM its EK certificate, if it has none, and learns who it is.
func (l *Lab) manufacture(ctx context.Context, n plan.Node) error {
	client := l.tpm(n.Name)
	id, err := client.Identity(ctx)
	if err != nil {
		return fmt.Errorf("ask the TPM of %s for its EK: %w", n.Name, err)
	}
	ek, err := x509.ParsePKIXPublicKey(id.EKSPKI)
	if err != nil {
		return fmt.Errorf("read the EK of %s: %w", n.Name, err)
	}
	certificate := id.Certificate
	without, err := fleet.WithoutEK(l.dir, n)
	if err != nil {
		return err
	}
	if len(certificate) == 0 && !without {
		if certificate, err = fleet.IssueEK(l.authorities(), n, ek); err != nil {
			return err
		}
		if err := client.SetCertificate(ctx, certificate); err != nil {
			return fmt.Errorf("write the EK certificate into the TPM of %s: %w", n.Name, err)
		}
	}
	uuid, err := fleet.UUID(l.dir, n, ek)
	if err != nil {
		return err
	}
	hostname, err := fleet.Hostname(l.dir, n, uuid, l.planned.Domain)
	if err != nil {
		return err
	}
	return l.learnNode(n.Name, func(f *nodeFacts) {
		f.UUID, f.Hostname, f.EKCertificate = uuid, hostname, certificate
	})
}

// makeSocketDir makes the folder whose contents a node and its pods see; the folder above it keeps everybody else out.
func (l *Lab) makeSocketDir(node string) error {
	dir := l.socketDir(node)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make the folder of the TPM's sockets: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the TPM's sockets: %w", err)
	}
	return os.Chmod(dir, 0o755)
}

// tpm speaks with the main process of a node's TPM container.
func (l *Lab) tpm(node string) *tpmrole.Client {
	return tpmrole.NewClient(l.dialControl(tpmPart(node)))
}

// tpmFault says that a node's TPM does not run.
func (l *Lab) tpmFault(running map[string]container.Summary, node string) *fleet.Fault {
	c, ok := running[l.resource(tpmPart(node))]
	switch {
	case !ok:
		return &fleet.Fault{State: fleet.StateTPMDead, Detail: "its container is gone"}
	case c.State != "running":
		return &fleet.Fault{State: fleet.StateTPMDead, Detail: "its container: " + strings.ToLower(c.Status)}
	}
	return nil
}
