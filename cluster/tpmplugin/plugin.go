package tpmplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Resource is what pods ask for.
const Resource = "keylab.dev/tpm"

// Where a pod finds what it is given.
const (
	PodSocketDir = "/run/keylab-tpm"
	PodProgram   = "/run/keylab-bin/keylab"
	// EnvSocket names the socket of raw TPM commands.
	EnvSocket = "KEYLAB_TPM_SOCKET"
)

// TCTI is how tpm2-tss reaches the TPM in a pod: by a program that it starts, whatever else is in the pod's image.
const TCTI = "cmd:" + PodProgram + " in-container tpm-connect " + PodSocketDir + "/tpm.sock"

// Config says where things are on the node. Empty fields have defaults.
type Config struct {
	SocketDir string        // the TPM's sockets; default /var/lib/keylab/tpm
	PluginDir string        // the kubelet's; default /var/lib/kubelet/device-plugins
	Program   string        // keylab; default /usr/local/bin/keylab
	Shares    int           // how many pods may have the TPM at once; default 16: it serves many clients
	Poll      time.Duration // how often the TPM and the kubelet are looked at; default 1 s
	Log       *slog.Logger
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.SocketDir, "/var/lib/keylab/tpm")
	def(&c.PluginDir, "/var/lib/kubelet/device-plugins")
	def(&c.Program, "/usr/local/bin/keylab")
	if c.Shares == 0 {
		c.Shares = 16
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

const socketName = "keylab-tpm.sock"

// Run serves the plugin until ctx ends, and registers it again whenever the kubelet has been restarted: that deletes all plugins' sockets.
func Run(ctx context.Context, c Config) error {
	c = c.withDefaults()
	for ctx.Err() == nil {
		if err := serveOnce(ctx, c); err != nil && ctx.Err() == nil {
			c.Log.Warn("the kubelet did not take the plugin; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(c.Poll):
			}
		}
	}
	return nil
}

// serveOnce serves until the kubelet has forgotten the plugin.
func serveOnce(ctx context.Context, c Config) error {
	socket := filepath.Join(c.PluginDir, socketName)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the plugin's socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("the plugin's socket: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := grpc.NewServer()
	v1beta1.RegisterDevicePluginServer(server, &plugin{config: c, ended: ctx.Done()})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer server.Stop()
	if err := register(ctx, c); err != nil {
		return err
	}
	c.Log.Info("registered", "resource", Resource, "shares", c.Shares)
	tick := time.NewTicker(c.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return err
		case <-tick.C:
			if _, err := os.Stat(socket); err != nil {
				return fmt.Errorf("the kubelet was restarted: %w", err)
			}
		}
	}
}

func register(ctx context.Context, c Config) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(c.PluginDir, filepath.Base(v1beta1.KubeletSocket)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("reach the kubelet: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = v1beta1.NewRegistrationClient(conn).Register(ctx, &v1beta1.RegisterRequest{Version: v1beta1.Version, Endpoint: socketName, ResourceName: Resource})
	if err != nil {
		return fmt.Errorf("register with the kubelet: %w", err)
	}
	return nil
}

// plugin answers the kubelet.
type plugin struct {
	v1beta1.UnimplementedDevicePluginServer
	config Config
	ended  <-chan struct{}
}

// GetDevicePluginOptions implements the device plugin API.
func (p *plugin) GetDevicePluginOptions(context.Context, *v1beta1.Empty) (*v1beta1.DevicePluginOptions, error) {
	return &v1beta1.DevicePluginOptions{}, nil
}

// ListAndWatch tells the kubelet which TPMs there are and, for as long as it listens, whether they are well.
func (p *plugin) ListAndWatch(_ *v1beta1.Empty, stream grpc.ServerStreamingServer[v1beta1.ListAndWatchResponse]) error {
	tick := time.NewTicker(p.config.Poll)
	defer tick.Stop()
	for last := ""; ; {
		health := v1beta1.Unhealthy
		if p.alive() {
			health = v1beta1.Healthy
		}
		if health != last {
			p.config.Log.Info("the TPM is "+health, "sockets", p.config.SocketDir)
			r := &v1beta1.ListAndWatchResponse{}
			for i := range p.config.Shares {
				r.Devices = append(r.Devices, &v1beta1.Device{ID: fmt.Sprintf("tpm-%d", i), Health: health})
			}
			if err := stream.Send(r); err != nil {
				return err
			}
			last = health
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-p.ended:
			return nil
		case <-tick.C:
		}
	}
}

// alive tells whether somebody answers at the TPM's socket.
func (p *plugin) alive() bool {
	conn, err := net.DialTimeout("unix", filepath.Join(p.config.SocketDir, "tpm.sock"), p.config.Poll)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Allocate gives a pod's container what it needs; whichever device it got, it is the node's one TPM.
func (p *plugin) Allocate(_ context.Context, r *v1beta1.AllocateRequest) (*v1beta1.AllocateResponse, error) {
	out := &v1beta1.AllocateResponse{}
	for range r.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &v1beta1.ContainerAllocateResponse{
			Envs: map[string]string{EnvSocket: PodSocketDir + "/tpm.sock", "TPM2TOOLS_TCTI": TCTI, "TCTI": TCTI},
			Mounts: []*v1beta1.Mount{
				{ContainerPath: PodSocketDir, HostPath: p.config.SocketDir, ReadOnly: true},
				{ContainerPath: PodProgram, HostPath: p.config.Program, ReadOnly: true},
			},
		})
	}
	return out, nil
}
