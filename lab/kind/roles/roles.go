// Package roles is keylab inside the containers of a lab of the substrate kind: `keylab in-container ROLE ARGUMENTS`, which nobody types.
package roles

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/cluster/agentpod"
	"keylab.dev/keylab/cluster/podnet"
	"keylab.dev/keylab/cluster/sniproxy"
	"keylab.dev/keylab/cluster/tpmplugin"
	"keylab.dev/keylab/lab/kind/hostlink"
	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/kind/noticerole"
	"keylab.dev/keylab/lab/kind/tpmrole"
	"keylab.dev/keylab/netlab"
)

// Marker is the first argument by which this program knows that it is in a container.
const Marker = "in-container"

// Main answers such a call, and returns the exit status and true; a program calls it before anything else and exits if told to.
func Main(args []string) (status int, handled bool) {
	if len(args) < 3 || args[1] != Marker {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := play(ctx, args[2], args[3:]); err != nil {
		fmt.Fprintf(os.Stderr, "keylab %s: %v\n", args[2], err)
		return 1, true
	}
	return 0, true
}

func play(ctx context.Context, role string, args []string) error {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	one := func() (string, error) {
		if len(args) != 1 {
			return "", fmt.Errorf("needs one argument, not %d", len(args))
		}
		return args[0], nil
	}
	switch role {
	case "link":
		return hostlink.Serve(ctx, stdio{})
	case "router", "dns", "tpm", "tpm-connect", "tpm-tcp", "notices":
		arg, err := one()
		if err != nil {
			return err
		}
		switch role {
		case "router":
			return netroles.RunRouter(ctx, arg)
		case "dns":
			return netroles.RunDNS(ctx, arg)
		case "tpm":
			return tpmrole.Run(ctx, arg)
		case "notices":
			return noticerole.Run(ctx, arg)
		case "tpm-tcp":
			return tpmrole.ServeTCP(ctx, arg)
		}
		return tpmrole.Connect(ctx, arg, os.Stdin, os.Stdout)
	case "payload":
		if len(args) != 2 {
			return fmt.Errorf("needs a folder and a file, not %d arguments", len(args))
		}
		found, err := agent.FindPayload(args[0], args[1])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(found)
	case "late":
		return netroles.RunLate(ctx, args, os.Stdout)
	case "let-in":
		return netlab.LetIn()
	case "pause":
		return netroles.RunPause(ctx)
	case "device-plugin":
		return tpmplugin.Run(ctx, tpmplugin.Config{Log: log})
	case "agent":
		return agentpod.Run(ctx, log)
	case "podnet":
		return podNetwork(ctx, args, log)
	case "ingress", "ingress-init":
		c, err := sniproxy.ParseArgs(args)
		if err != nil {
			return err
		}
		c.Log = log
		if role == "ingress-init" {
			return sniproxy.WriteConfig(sniproxy.Options{Dir: c.Dir, Listen: c.Listen})
		}
		return sniproxy.Run(ctx, c)
	}
	return fmt.Errorf("there is no such role")
}

func podNetwork(ctx context.Context, args []string, log *slog.Logger) error {
	c := podnet.Config{Log: log}
	f := flag.NewFlagSet("podnet", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.Node, "node", "", "name of this node")
	f.StringVar(&c.APIServer, "api-server", "", "URL of the API server")
	pods := f.String("pod-cidr", "", "the pods' addresses")
	services := f.String("service-cidr", "", "the services' addresses")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if c.PodCIDR, err = netip.ParsePrefix(*pods); err != nil {
		return fmt.Errorf("--pod-cidr: %w", err)
	}
	if c.ServiceCIDR, err = netip.ParsePrefix(*services); err != nil {
		return fmt.Errorf("--service-cidr: %w", err)
	}
	return podnet.Run(ctx, c)
}

// stdio is this process' standard input and output as one stream.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return os.Stdin.Close() }
