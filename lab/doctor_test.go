package lab

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/internal/fakedocker"
)

// What doctor says of a machine's Docker: whether it will do, and if not what mends it. A lab of namespaces runs without it.
func TestDoctorDocker(t *testing.T) {
	for _, c := range []struct {
		name        string
		change      func(*fakedocker.Daemon)
		detail, fix string
	}{
		{"fine", func(*fakedocker.Daemon) {}, "version 20.10.24, for labs of the substrate kind", ""},
		{"old", func(d *fakedocker.Daemon) { d.API = "1.38" }, "is too old", "install Docker 20.10 or newer"},
		{"rootless", func(d *fakedocker.Daemon) { d.Info.SecurityOptions = []string{"name=rootless"} }, "rootless", "substrate netns"},
		{"no cgroups", func(d *fakedocker.Daemon) { d.Info.PidsLimit = false }, "control groups that Kubernetes' nodes need: pids", "--privileged"},
		{"no capabilities", func(d *fakedocker.Daemon) {
			d.Refuses = "OCI runtime create failed: unable to apply caps: operation not permitted: unknown"
		}, "lacks capabilities", "scripts/dockerd.sh start"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := fakedocker.New()
			c.change(d)
			d.Serve(t)
			f := dockerFinding(t.Context())
			if f.OK != (c.fix == "") || !f.Optional || !strings.Contains(f.Detail, c.detail) || !strings.Contains(f.Fix, c.fix) {
				t.Errorf("doctor says %+v, want %q and %q", f, c.detail, c.fix)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		fakedocker.Command(t, "exit 1")
		t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
		f := dockerFinding(t.Context())
		if f.OK || !strings.Contains(f.Detail, "no Docker daemon answers at unix:///nowhere/docker.sock") || !strings.Contains(f.Fix, "systemctl start docker") {
			t.Errorf("doctor says %+v", f)
		}
	})
	t.Run("no command", func(t *testing.T) {
		fakedocker.New().Serve(t)
		t.Setenv("PATH", t.TempDir())
		f := dockerFinding(t.Context())
		if f.OK || !strings.Contains(f.Detail, "docker command is missing") || !strings.Contains(f.Fix, "apt-get install docker.io") {
			t.Errorf("doctor says %+v", f)
		}
	})
}
