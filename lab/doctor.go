package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/kind"
	"keylab.dev/keylab/lab/netns"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/tpmsim"
)

// Finding is one thing that a lab needs from the machine.
type Finding struct {
	What     string `json:"what"`
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional,omitempty"` // a lab runs without it, some verb does not
	Detail   string `json:"detail"`
	Fix      string `json:"fix,omitempty"` // a command that mends it
}

// Doctor looks at the machine for everything that a lab needs.
func Doctor(ctx context.Context) []Finding {
	findings := []Finding{namespaces(ctx), swtpm(), simulator()}
	findings = append(findings, keylimeNeeds(ctx)...)
	return append(findings,
		program("nsenter", "keylab exec, shell, tpm and tenant", "util-linux"),
		program("tpm2_pcrread", "keylab tpm NODE -- tpm2_…", "tpm2-tools"),
		faketime(),
		program("nft", "a look at the router's rules by hand", "nftables"),
		dockerFinding(ctx),
		imageBuilding(),
		space("the labs' state", state.Base, 64<<20),
		space("the cache", state.CacheBase, 512<<20),
	)
}

// namespaces tries for real whether a sandbox with a network can be made.
func namespaces(ctx context.Context) Finding {
	f := Finding{What: "namespaces"}
	out, err := sandbox.Try(ctx)
	if err == nil {
		f.OK, f.Detail = true, "user, PID, mount and network namespaces, bridges, veth and nftables work"
		if !sandbox.NeedsUserNamespace() {
			f.Detail = "PID, mount and network namespaces, bridges, veth and nftables work (as root)"
		}
		return f
	}
	f.Detail = strings.TrimSpace(fmt.Sprintf("%v %s", err, out))
	for _, p := range netlab.Available(ctx) {
		f.Detail, f.Fix = p.What, p.Fix
		if strings.HasPrefix(f.Fix, "sysctl") {
			f.Fix = "sudo " + f.Fix
		}
	}
	return f
}

func swtpm() Finding {
	f := Finding{What: "swtpm", OK: true, Detail: "found"}
	if err := tpmsim.Swtpm().Available(); err != nil {
		f.OK, f.Detail, f.Fix = false, err.Error(), "sudo apt-get install swtpm"
		if tpmsim.Simulator().Available() == nil {
			f.Detail += " (or use the simulator: keylab up --tpm-backend simulator)"
		}
	}
	return f
}

// faketime looks for what gives a service a wrong clock.
func faketime() Finding {
	f := Finding{What: "libfaketime", OK: true, Optional: true, Detail: "found"}
	if _, err := netns.Faketime(); err != nil {
		f.OK, f.Detail, f.Fix = false, "not found; needed for the fault clock-skew", "sudo apt-get install libfaketime"
	}
	return f
}

func simulator() Finding {
	f := Finding{What: "TPM simulator", OK: true, Optional: true, Detail: "built in"}
	if err := tpmsim.Simulator().Available(); err != nil {
		f.OK, f.Detail = false, err.Error()
	}
	return f
}

func keylimeNeeds(ctx context.Context) []Finding {
	cache, err := state.CacheBase()
	if err != nil {
		return []Finding{{What: "Keylime", Detail: err.Error()}}
	}
	var findings []Finding
	for _, p := range keylime.Check(ctx, keylime.InstallOptions{Version: spec.Default().Keylime.Version, CacheDir: cache}) {
		fix := p.Fix
		if strings.HasPrefix(fix, "apt-get") {
			fix = "sudo " + fix
		}
		findings = append(findings, Finding{What: "Keylime", Optional: p.Optional, Detail: p.What + " (" + p.Why + ")", Fix: fix})
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{What: "Keylime", OK: true, Detail: "Python has what the services need"})
	}
	return findings
}

// dockerFinding tells whether labs of the substrate kind can run.
func dockerFinding(ctx context.Context) Finding {
	f := Finding{What: "Docker", Optional: true}
	docker, err := kind.NewClient()
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	defer docker.Close()
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	version, err := kind.CheckDocker(ctx, docker)
	if err == nil {
		err = kind.TryPrivileged(ctx, docker)
	}
	var problem *kind.Problem
	switch {
	case errors.As(err, &problem):
		f.Detail, f.Fix = problem.What+" (needed for --substrate kind)", problem.Fix
	case err != nil:
		f.Detail = err.Error()
	default:
		f.OK, f.Detail = true, "version "+version+", for labs of the substrate kind"
	}
	return f
}

// imageBuilding tells whether container images can be built here, where no registry has them.
func imageBuilding() Finding {
	f := Finding{What: "image building", OK: true, Optional: true, Detail: "Go and mmdebstrap are there"}
	for _, p := range images.Problems() {
		f.OK, f.Detail, f.Fix = false, p.What+" (needed for --substrate kind without a registry)", p.Fix
	}
	return f
}

// program looks for a program that some verb needs.
func program(name, what, pkg string) Finding {
	f := Finding{What: name, OK: true, Optional: true, Detail: "found"}
	if _, err := exec.LookPath(name); err != nil {
		f.OK, f.Detail, f.Fix = false, "not found; needed for "+what, "sudo apt-get install "+pkg
	}
	return f
}

// space checks that a folder's file system has room, in bytes.
func space(what string, where func() (string, error), need uint64) Finding {
	f := Finding{What: "disk space for " + what}
	dir, err := where()
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	free, at, err := freeSpace(dir)
	switch {
	case err != nil:
		f.Detail = err.Error()
	case free < need:
		f.Detail = fmt.Sprintf("%d MiB free at %s, %d MiB are needed", free>>20, at, need>>20)
		f.Fix = fmt.Sprintf("make room there, or set %s or %s to another folder", state.EnvBase, state.EnvCache)
	default:
		f.OK, f.Detail = true, fmt.Sprintf("%d MiB free at %s", free>>20, at)
	}
	return f
}

// freeSpace is the room, in bytes, at a folder or, where it is not there yet, at the nearest one above it.
func freeSpace(dir string) (free uint64, at string, err error) {
	for at = dir; ; at = filepath.Dir(at) {
		var s unix.Statfs_t
		err = unix.Statfs(at, &s)
		if errors.Is(err, unix.ENOENT) && at != "/" {
			continue
		}
		if err != nil {
			return 0, at, fmt.Errorf("ask for the free space at %s: %w", at, err)
		}
		return s.Bavail * uint64(s.Bsize), at, nil
	}
}
