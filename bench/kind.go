package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	kindlog "sigs.k8s.io/kind/pkg/log"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/kind"
	"keylab.dev/keylab/lab/spec"
)

// kindAim is how much longer `up` on kind should take than kind alone.
const kindAim = 1.3

// plainCluster is the name of the cluster that is made without keylab.
const plainCluster = "keylab-bench-plain"

// measureKind brings up labs on kind, and plain clusters of the same image and number of workers, in turn.
func (r *runner) measureKind(ctx context.Context) error {
	section := Section{Title: "kind: a whole lab beside a plain cluster of the same node image"}
	defer func() { r.report.Sections = append(r.report.Sections, section) }()
	docker, err := kind.NewClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	if _, err := kind.CheckDocker(ctx, docker); err != nil {
		section.say("not measured: %v", strings.ReplaceAll(err.Error(), "\n", ": "))
		return nil
	}
	set, err := images.Ensure(ctx, images.Options{Source: images.SourceLocal, CacheDir: r.cache + "/images", Keylime: spec.Default().Keylime.Version, Docker: docker, Log: func(line string) { r.progress("%s", line) }})
	if err != nil {
		return err
	}
	for _, workers := range []int{3, 6} {
		var up, plain, down []float64
		for i := range r.options.KindRepetitions {
			r.progress("kind, %d workers: repetition %d of %d", workers, i+1, r.options.KindRepetitions)
			alone, err := plainKind(ctx, docker, set, workers, r.dir)
			if err != nil {
				return fmt.Errorf("a plain kind cluster: %w", err)
			}
			whole, end, memory, err := kindLab(ctx, docker, workers)
			if err != nil {
				return fmt.Errorf("a lab on kind: %w", err)
			}
			up, plain, down = append(up, seconds(whole)), append(plain, seconds(alone)), append(down, seconds(end))
			if i == 0 {
				section.add(distribution(fmt.Sprintf("memory of a worker with its pods, %d workers", workers), "MiB", memory))
			}
		}
		section.add(
			repeated(countOf("up, until all are attested", workers), "s", up),
			repeated(countOf("plain kind, until kind returns", workers), "s", plain),
			repeated(countOf("ratio", workers), "x", ratios(up, plain)).aim(kindAim),
			repeated(countOf("down", workers), "s", down),
		)
	}
	for name, ref := range map[string]string{"node": set.Node, "Keylime": set.Verifier, "tools": set.Tools} {
		info, err := docker.ImageInspect(ctx, ref)
		if err != nil {
			return fmt.Errorf("size of image %s: %w", ref, err)
		}
		section.say("size of the %s image: %d MB", name, info.Size/1e6)
	}
	section.say("The images are in Docker before the time begins.")
	return nil
}

// plainKind makes a cluster by kind alone, and takes it away.
func plainKind(ctx context.Context, docker *client.Client, set images.Set, workers int, dir string) (took time.Duration, err error) {
	provider := cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(kindlog.NoopLogger{}))
	config := &v1alpha4.Cluster{
		Networking:              v1alpha4.Networking{DisableDefaultCNI: true},
		Nodes:                   []v1alpha4.Node{{Role: v1alpha4.ControlPlaneRole}},
		ContainerdConfigPatches: []string{"[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n"},
	}
	for range workers {
		config.Nodes = append(config.Nodes, v1alpha4.Node{Role: v1alpha4.WorkerRole})
	}
	// On a network of its own, since kind leaves its default one behind.
	made, err := docker.NetworkCreate(ctx, plainCluster, network.CreateOptions{IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: "198.18.60.0/24"}}}})
	if err != nil {
		return 0, fmt.Errorf("make its network: %w", err)
	}
	defer func() { err = errors.Join(err, docker.NetworkRemove(context.WithoutCancel(ctx), made.ID)) }()
	if err := os.Setenv("KIND_EXPERIMENTAL_DOCKER_NETWORK", plainCluster); err != nil {
		return 0, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig-plain")
	began := time.Now()
	err = provider.Create(plainCluster, cluster.CreateWithV1Alpha4Config(config), cluster.CreateWithNodeImage(set.Node), cluster.CreateWithKubeconfigPath(kubeconfig))
	took = time.Since(began)
	gone := provider.Delete(plainCluster, kubeconfig)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return took, errors.Join(err, gone)
}

// kindLab is one lab's life: until all nodes are attested, until it is gone, and the memory of its workers in MiB.
func kindLab(ctx context.Context, docker *client.Client, workers int) (up, down time.Duration, memory []float64, err error) {
	s := spec.Spec{Name: labName, Substrate: spec.SubstrateKind, Nodes: spec.Nodes{Count: workers}, Images: spec.Images{Source: spec.ImagesLocal}}
	s.SetDefaults()
	began := time.Now()
	l, err := lab.Up(ctx, s, lab.UpOptions{})
	if err != nil {
		return 0, 0, nil, err
	}
	up = time.Since(began)
	defer func() { err = errors.Join(err, wipe(ctx, l)) }()
	if memory, err = workerMemory(ctx, docker); err != nil {
		return up, 0, nil, err
	}
	began = time.Now()
	_, err = l.Down(ctx)
	return up, time.Since(began), memory, err
}

// workerMemory is what the lab's workers use, in MiB, without what the kernel could take back from their files.
func workerMemory(ctx context.Context, docker *client.Client) ([]float64, error) {
	list, err := docker.ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "io.x-k8s.kind.cluster=keylab-"+labName), filters.Arg("label", "io.x-k8s.kind.role=worker"))})
	if err != nil {
		return nil, fmt.Errorf("list the lab's workers: %w", err)
	}
	var memory []float64
	for _, c := range list {
		r, err := docker.ContainerStatsOneShot(ctx, c.ID)
		if err != nil {
			return nil, fmt.Errorf("memory of a worker: %w", err)
		}
		var stats container.StatsResponse
		err = json.NewDecoder(r.Body).Decode(&stats)
		r.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("memory of a worker: %w", err)
		}
		reclaimable, ok := stats.MemoryStats.Stats["total_inactive_file"] // control groups version 1
		if !ok {
			reclaimable = stats.MemoryStats.Stats["inactive_file"]
		}
		memory = append(memory, float64(stats.MemoryStats.Usage-min(stats.MemoryStats.Usage, reclaimable))/(1<<20))
	}
	return memory, nil
}
