package tpmplugin

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// patience is how long these tests wait for what must happen.
const patience = 30 * time.Second

// kubelet is the kubelet's side of the device plugin API.
type kubelet struct {
	v1beta1.UnimplementedRegistrationServer
	dir        string
	server     *grpc.Server
	registered chan *v1beta1.RegisterRequest
}

func (k *kubelet) Register(_ context.Context, r *v1beta1.RegisterRequest) (*v1beta1.Empty, error) {
	k.registered <- r
	return &v1beta1.Empty{}, nil
}

func startKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	k := &kubelet{dir: dir, server: grpc.NewServer(), registered: make(chan *v1beta1.RegisterRequest, 8)}
	v1beta1.RegisterRegistrationServer(k.server, k)
	l, err := net.Listen("unix", filepath.Join(dir, filepath.Base(v1beta1.KubeletSocket)))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = k.server.Serve(l) }() // ends with Stop
	t.Cleanup(k.server.Stop)
	return k
}

// plugin waits for a registration, and connects to the plugin as a kubelet does.
func (k *kubelet) plugin(t *testing.T) v1beta1.DevicePluginClient {
	t.Helper()
	select {
	case r := <-k.registered:
		if r.ResourceName != "keylab.dev/tpm" || r.Version != "v1beta1" {
			t.Fatalf("registered %+v", r)
		}
		conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return v1beta1.NewDevicePluginClient(conn)
	case <-time.After(patience):
		t.Fatalf("waited %s for the plugin to register", patience)
	}
	return nil
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kp") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// healths receives the kubelet's view of the devices, one word for each change.
func healths(t *testing.T, p v1beta1.DevicePluginClient) func(want string) {
	t.Helper()
	stream, err := p.ListAndWatch(t.Context(), &v1beta1.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 8)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			if len(r.Devices) != 3 {
				seen <- "not three devices"
				continue
			}
			seen <- r.Devices[2].Health
		}
	}()
	return func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("the devices are %s, want %s", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("waited %s for the devices to be %s", patience, want)
		}
	}
}

// A TPM that answers is healthy, one that does not is not, and the plugin registers again when the kubelet was restarted.
func TestPlugin(t *testing.T) {
	sockets, plugins := tempDir(t), tempDir(t)
	k := startKubelet(t, plugins)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{SocketDir: sockets, PluginDir: plugins, Program: "/p/keylab", Shares: 3, Poll: 20 * time.Millisecond})
	}()
	p := k.plugin(t)
	is := healths(t, p)
	is(v1beta1.Unhealthy)
	tpm, err := net.Listen("unix", filepath.Join(sockets, "tpm.sock"))
	if err != nil {
		t.Fatal(err)
	}
	is(v1beta1.Healthy)
	tpm.Close()
	is(v1beta1.Unhealthy)

	r, err := p.Allocate(t.Context(), &v1beta1.AllocateRequest{ContainerRequests: []*v1beta1.ContainerAllocateRequest{{DevicesIds: []string{"tpm-1"}}}})
	if err != nil || len(r.ContainerResponses) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	c := r.ContainerResponses[0]
	if c.Envs[EnvSocket] != "/run/keylab-tpm/tpm.sock" || !strings.HasPrefix(c.Envs["TPM2TOOLS_TCTI"], "cmd:/run/keylab-bin/keylab ") {
		t.Errorf("environment %v", c.Envs)
	}
	for _, m := range c.Mounts {
		if !m.ReadOnly || m.HostPath != sockets && m.HostPath != "/p/keylab" {
			t.Errorf("mount %+v", m)
		}
	}

	// A kubelet that starts deletes all plugins' sockets.
	k.server.Stop()
	if err := os.RemoveAll(filepath.Join(plugins, socketName)); err != nil {
		t.Fatal(err)
	}
	startKubelet(t, plugins).plugin(t)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
