package tpmplugin

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const patience = 20 * time.Second

// kubelet does what the real one does with device plugins: when it starts it empties their folder, then it takes registrations.
type kubelet struct {
	v1beta1.UnimplementedRegistrationServer
	t          *testing.T
	dir        string
	server     *grpc.Server
	registered chan *v1beta1.RegisterRequest
}

func (k *kubelet) Register(_ context.Context, r *v1beta1.RegisterRequest) (*v1beta1.Empty, error) {
	k.registered <- r
	return &v1beta1.Empty{}, nil
}

func (k *kubelet) start() {
	k.t.Helper()
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(k.dir, e.Name())); err != nil {
			k.t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(k.dir, "kubelet.sock"))
	if err != nil {
		k.t.Fatal(err)
	}
	k.server = grpc.NewServer()
	v1beta1.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(l)
	k.t.Cleanup(k.server.Stop)
}

// plugin waits for a registration, and is a client of who made it.
func (k *kubelet) plugin() v1beta1.DevicePluginClient {
	k.t.Helper()
	select {
	case r := <-k.registered:
		if r.Version != v1beta1.Version || r.ResourceName != "keylab.dev/tpm" {
			k.t.Errorf("registered: %v", r)
		}
		conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(func() { conn.Close() })
		return v1beta1.NewDevicePluginClient(conn)
	case <-time.After(patience):
		k.t.Fatal("the plugin does not register")
		return nil
	}
}

// tpm is a TPM as far as the plugin looks at it; stopped, it leaves its socket there, as one that was killed does.
func tpm(t *testing.T, dir string) (stop func()) {
	t.Helper()
	path := filepath.Join(dir, "tpm.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return func() { l.Close() }
}

// startPlugin runs the plugin of a node with a TPM and a kubelet.
func startPlugin(t *testing.T, change func(*Config)) (k *kubelet, sockets string, stopTPM func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugin") // sockets' names are short: not t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	k = &kubelet{t: t, dir: filepath.Join(dir, "plugins"), registered: make(chan *v1beta1.RegisterRequest, 10)}
	sockets = filepath.Join(dir, "tpm")
	for _, d := range []string{k.dir, sockets} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stopTPM = tpm(t, sockets)
	c := Config{SocketDir: sockets, PluginDir: k.dir, Poll: 10 * time.Millisecond}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the plugin's end: %v", err)
			}
		case <-time.After(patience):
			t.Error("the plugin does not end")
		}
	})
	return k, sockets, stopTPM
}

func watch(t *testing.T, p v1beta1.DevicePluginClient) func() []*v1beta1.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := p.ListAndWatch(ctx, &v1beta1.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	return func() []*v1beta1.Device {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatalf("what devices there are: %v", err)
		}
		return r.Devices
	}
}

// healths are the healths that devices have.
func healths(devices []*v1beta1.Device) []string {
	all := map[string]bool{}
	for _, d := range devices {
		all[d.Health] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// Kubernetes must place pods on a node only while its TPM answers, and no more of them than have a share.
func TestDevicesFollowTheTPM(t *testing.T) {
	k, sockets, stopTPM := startPlugin(t, nil)
	k.start()
	next := watch(t, k.plugin())
	devices := next()
	ids := map[string]bool{}
	for _, d := range devices {
		ids[d.ID] = true
	}
	if len(ids) != 16 || len(devices) != 16 || !slices.Equal(healths(devices), []string{v1beta1.Healthy}) {
		t.Errorf("devices at first: %v", devices)
	}
	stopTPM()
	if got := next(); len(got) != 16 || !slices.Equal(healths(got), []string{v1beta1.Unhealthy}) {
		t.Errorf("devices without the TPM: %v", got)
	}
	tpm(t, sockets)
	if got := next(); len(got) != 16 || !slices.Equal(healths(got), []string{v1beta1.Healthy}) {
		t.Errorf("devices with the TPM back: %v", got)
	}
}

// The plugin may be there before the kubelet is, and a restarted kubelet knows no plugin before it has registered again.
func TestRegistersAgain(t *testing.T) {
	k, _, _ := startPlugin(t, func(c *Config) { c.Shares = 2 })
	k.start()
	first := k.plugin()
	if got := watch(t, first)(); len(got) != 2 {
		t.Errorf("devices: %v", got)
	}
	for range 2 {
		k.server.Stop()
		k.start()
		if got := watch(t, k.plugin())(); len(got) != 2 || !slices.Equal(healths(got), []string{v1beta1.Healthy}) {
			t.Errorf("devices after the kubelet's restart: %v", got)
		}
	}
}

// Each container that asks is given the folder of its own node's TPM, nothing that it could write to, and what tpm2-tools and the agent need to find it.
func TestAllocate(t *testing.T) {
	k, sockets, _ := startPlugin(t, func(c *Config) { c.Program = "/node/keylab" })
	k.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := k.plugin().Allocate(ctx, &v1beta1.AllocateRequest{ContainerRequests: []*v1beta1.ContainerAllocateRequest{
		{DevicesIds: []string{"tpm-0"}}, {DevicesIds: []string{"tpm-7"}},
	}}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.ContainerResponses) != 2 {
		t.Fatalf("%d containers served, want 2", len(r.ContainerResponses))
	}
	const tcti = "cmd:/run/keylab-bin/keylab in-container tpm-connect /run/keylab-tpm/tpm.sock"
	env := map[string]string{"KEYLAB_TPM_SOCKET": "/run/keylab-tpm/tpm.sock", "TPM2TOOLS_TCTI": tcti, "TCTI": tcti}
	for i, c := range r.ContainerResponses {
		if !maps.Equal(c.Envs, env) {
			t.Errorf("container %d: environment %v, want %v", i, c.Envs, env)
		}
		mounts := map[string]string{}
		for _, m := range c.Mounts {
			mounts[m.HostPath] = m.ContainerPath
			if !m.ReadOnly {
				t.Errorf("container %d may write to %s", i, m.HostPath)
			}
		}
		if want := map[string]string{sockets: "/run/keylab-tpm", "/node/keylab": "/run/keylab-bin/keylab"}; !maps.Equal(mounts, want) {
			t.Errorf("container %d: mounts %v, want %v", i, mounts, want)
		}
	}
}
