package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/system"
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
	if err := checkContext(ctx, c); err != nil {
		return "", err
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
	if p := unfit(c.ClientVersion(), info); p != nil {
		p.What += " (Docker at " + c.DaemonHost() + ")"
		return "", p
	}
	return info.ServerVersion, nil
}

// checkContext refuses a docker command, which kind uses, that means another daemon than the environment says: such as one of Docker's contexts.
func checkContext(ctx context.Context, c *client.Client) error {
	if os.Getenv(client.EnvOverrideHost) != "" {
		return nil // it wins over contexts
	}
	out, err := exec.CommandContext(ctx, "docker", "context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}").Output()
	if err != nil {
		return nil // one that knows no contexts
	}
	name, host, ok := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !ok || host == c.DaemonHost() {
		return nil
	}
	return &Problem{fmt.Sprintf("the docker command uses %s, by its context %s, and keylab %s", host, name, c.DaemonHost()),
		fmt.Sprintf("export %s=%s, or docker context use default", client.EnvOverrideHost, host)}
}

// unfit is why a daemon that answers, with this version of the API, cannot have a lab; nil when it can.
func unfit(api string, info system.Info) *Problem {
	if older(api, minimumAPI) {
		return &Problem{fmt.Sprintf("Docker %s is too old: its API is %s, and a lab needs %s", info.ServerVersion, api, minimumAPI), "install Docker 20.10 or newer"}
	}
	if info.OSType != "linux" {
		return &Problem{"Docker runs " + info.OSType + " containers; a lab needs Linux ones", "switch Docker to Linux containers"}
	}
	if slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.Contains(o, "name=rootless") }) {
		return &Problem{"this Docker is rootless: it routes nothing between its networks and the router container would stand alone",
			"use a Docker that runs as root (docker context use default), or the substrate netns"}
	}
	// The kubelet does not start without these.
	var missing []string
	for _, c := range []struct {
		name string
		has  bool
	}{{"memory", info.MemoryLimit}, {"cpu", info.CPUShares && info.CPUCfsQuota}, {"cpuset", info.CPUSet}, {"pids", info.PidsLimit}} {
		if !c.has {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return &Problem{fmt.Sprintf("Docker %s lacks control groups that Kubernetes' nodes need: %s", info.ServerVersion, strings.Join(missing, ", ")), fixCgroups}
	}
	return nil
}

// What mends a machine, most likely a container itself, on which Docker's daemon has not all rights.
const (
	fixRights = "where keylab itself is in a container, run that with --privileged; else stop this Docker and run scripts/dockerd.sh start, " +
		"whose daemon makes do with what there is; or use the substrate netns"
	fixCgroups = "mount them (sudo apt-get install cgroupfs-mount, or boot with cgroup_enable=memory); where keylab itself is in a container, " +
		"run that with --privileged; or use the substrate netns"
)

// explained adds to what Docker, or kind, said of a container that would not start what is known to be behind it and what to do.
func explained(err error) error {
	if err == nil {
		return nil
	}
	if p := shortage(err.Error()); p != nil {
		return fmt.Errorf("%w\n%w", err, p)
	}
	return err
}

// shortage reads Docker's words: which right it lacks itself; nil when it is not about that.
func shortage(said string) *Problem {
	switch {
	case strings.Contains(said, "unable to apply caps") || strings.Contains(said, "capset") || strings.Contains(said, "can't raise ambient"):
		return &Problem{"Docker's daemon lacks capabilities itself and cannot run privileged containers, which a cluster's nodes are", fixRights}
	case strings.Contains(said, "cgroup") && !strings.Contains(said, "cgroupns"):
		return &Problem{"Docker's daemon has not the control groups that containers need", fixCgroups}
	case strings.Contains(said, "operation not permitted"):
		return &Problem{"Docker's daemon may not do what a container needs", fixRights}
	}
	return nil
}

// TryPrivileged tries for real whether Docker can run a privileged container, as a cluster's nodes are, with whatever image it has; with none it tries
// nothing. The error is a *Problem where it is known what to do.
func TryPrivileged(ctx context.Context, c *client.Client) (err error) {
	list, err := c.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Docker's images: %w", err)
	}
	i := slices.IndexFunc(list, func(s image.Summary) bool { return len(s.RepoTags) > 0 })
	if i < 0 {
		return nil
	}
	// Its program is not in the image. That Docker finds out when all that needs rights is done.
	const nowhere = "/keylab-was-here"
	made, err := c.ContainerCreate(ctx, &container.Config{Image: list[i].RepoTags[0], Entrypoint: []string{nowhere}},
		&container.HostConfig{Privileged: true, NetworkMode: "none"}, nil, nil, "")
	if err != nil {
		return fmt.Errorf("make a container: %w", err)
	}
	defer func() {
		gone := c.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{Force: true})
		if gone != nil && err == nil {
			err = fmt.Errorf("remove the container of a trial: %w", gone)
		}
	}()
	err = c.ContainerStart(ctx, made.ID, container.StartOptions{})
	if err == nil || strings.Contains(err.Error(), "no such file or directory") || strings.Contains(err.Error(), "executable file not found") {
		return nil
	}
	if p := shortage(err.Error()); p != nil {
		p.What = fmt.Sprintf("%s: %v", p.What, err)
		return p
	}
	return fmt.Errorf("start a privileged container: %w", err)
}

// older compares API versions such as 1.41.
func older(a, b string) bool {
	var a1, a2, b1, b2 int
	_, errA := fmt.Sscanf(a, "%d.%d", &a1, &a2)
	_, errB := fmt.Sscanf(b, "%d.%d", &b1, &b2)
	return errA == nil && errB == nil && (a1 < b1 || a1 == b1 && a2 < b2)
}
