package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// Labels of everything that a lab makes with Docker.
const (
	LabelLab  = "keylab.lab"  // the lab's name
	LabelPart = "keylab.part" // what it is: a host's name, tpm-<node>, a network's name
	// LabelDir is the lab's folder: labs of one name may have different ones, by user and by KEYLAB_STATE_DIR.
	LabelDir = "keylab.dir"
	// LabelKeep marks a volume that lives on over `down`: a TPM's state.
	LabelKeep = "keylab.keep"

	labelKindCluster = "io.x-k8s.kind.cluster"
)

// resource is the name of one of a lab's containers, networks and volumes.
func resource(lab, part string) string { return "keylab-" + lab + "-" + part }

// labels are those of one of the lab's parts.
func (l *Lab) labels(part string) map[string]string {
	return map[string]string{LabelLab: l.planned.Lab, LabelPart: part, LabelDir: l.dir.Path}
}

func labelled(lab string) filters.Args {
	return filters.NewArgs(filters.Arg("label", LabelLab+"="+lab))
}

// minimumAPI is Docker 20.10, the oldest that a lab was seen to work with.
const minimumAPI = "1.41"

// NewClient is a client of the Docker daemon that the environment names, as the docker command finds it. It connects with the first call.
func NewClient() (*client.Client, error) {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("reach Docker: %w", err)
	}
	return c, nil
}

// Problem is why a lab cannot run with this machine's Docker, and what to do.
type Problem struct{ What, Fix string }

func (p *Problem) Error() string { return p.What + "\n" + p.Fix }

// CheckDocker looks whether Docker is there, new enough, and allowed what a lab needs. The error is a *Problem where it is known what
// to do. The version is Docker's own word.
func CheckDocker(ctx context.Context, c *client.Client) (version string, err error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return "", &Problem{"the docker command is missing, with which kind makes its nodes", "sudo apt-get install docker.io"}
	}
	info, err := c.Info(ctx)
	switch {
	case errors.Is(err, os.ErrPermission) || err != nil && strings.Contains(err.Error(), "permission denied"):
		return "", &Problem{fmt.Sprintf("no permission to use Docker at %s: %v", c.DaemonHost(), err), "sudo usermod -aG docker $USER, and log in again"}
	case client.IsErrConnectionFailed(err):
		return "", &Problem{fmt.Sprintf("no Docker daemon answers at %s: %v", c.DaemonHost(), err),
			"sudo apt-get install docker.io && sudo systemctl start docker; where no init system runs, scripts/dockerd.sh start"}
	case err != nil:
		return "", fmt.Errorf("ask Docker what it is: %w", err)
	}
	if v := c.ClientVersion(); older(v, minimumAPI) {
		return "", &Problem{fmt.Sprintf("Docker %s is too old: its API is %s, and a lab needs %s", info.ServerVersion, v, minimumAPI), "install Docker 20.10 or newer"}
	}
	if info.OSType != "linux" {
		return "", &Problem{"Docker runs " + info.OSType + " containers; a lab needs Linux ones", "switch Docker to Linux containers"}
	}
	if slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.Contains(o, "name=rootless") }) {
		return "", &Problem{"this Docker is rootless: it routes nothing between its networks and the router container would stand alone",
			"use a Docker that runs as root (docker context use default), or the substrate netns"}
	}
	return info.ServerVersion, nil
}

// older compares API versions such as 1.41.
func older(a, b string) bool {
	var a1, a2, b1, b2 int
	_, errA := fmt.Sscanf(a, "%d.%d", &a1, &a2)
	_, errB := fmt.Sscanf(b, "%d.%d", &b1, &b2)
	return errA == nil && errB == nil && (a1 < b1 || a1 == b1 && a2 < b2)
}
