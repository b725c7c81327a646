package sniproxy

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Config is what the controller must know.
type Config struct {
	Dir            string
	Listen         netip.AddrPort
	Status         string // where the status server listens
	Class          string
	LoadBalancer   string
	AgentNamespace string
	AgentSelector  string
	LabelsOnly     bool // another ingress leads the way: only the agents' pods are labelled
	Log            *slog.Logger
}

// ParseArgs reads the command line of the roles ingress and ingress-init.
func ParseArgs(args []string) (Config, error) {
	c := Config{}
	f := flag.NewFlagSet("ingress", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.Dir, "dir", "/run/haproxy", "folder shared with HAProxy")
	listen := f.String("listen", "0.0.0.0:8443", "where HAProxy listens")
	f.StringVar(&c.Status, "status", "127.0.0.1:9090", "where the status server listens")
	f.StringVar(&c.Class, "class", "keylab", "ingress class")
	f.StringVar(&c.LoadBalancer, "load-balancer", "", "address for the status of Ingress objects")
	f.StringVar(&c.AgentNamespace, "agent-namespace", "keylab-agents", "where the agents' pods are")
	f.StringVar(&c.AgentSelector, "agent-selector", "app.kubernetes.io/name=keylime-agent", "which pods are agents")
	f.BoolVar(&c.LabelsOnly, "labels-only", false, "drive no HAProxy: label the agents' pods, for another ingress")
	if err := f.Parse(args); err != nil {
		return c, fmt.Errorf("ingress: %w", err)
	}
	var err error
	if c.Listen, err = netip.ParseAddrPort(*listen); err != nil {
		return c, fmt.Errorf("ingress: --listen: %w", err)
	}
	return c, nil
}

// Run drives HAProxy from the cluster's objects until ctx ends.
func Run(ctx context.Context, c Config) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	return run(ctx, c, client)
}

// check is how often HAProxy is looked at, for it may have been restarted; a second is what a new route may take at most.
const check = time.Second

func run(ctx context.Context, c Config, client kubernetes.Interface) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.LabelsOnly {
		return runLabels(ctx, c, client)
	}
	k, err := newController(client, c)
	if err != nil {
		return err
	}
	proxy := New(Options{Dir: c.Dir, Listen: c.Listen})
	var ready atomic.Bool
	server := &http.Server{Addr: c.Status, Handler: status(proxy, &ready), ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	if err := k.start(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(check)
	defer tick.Stop()
	for last, said := map[string]string{}, ""; ; {
		routes, err := k.routes()
		if err == nil {
			err = proxy.SetRoutes(ctx, routes)
		}
		ready.Store(err == nil)
		err = errors.Join(err, k.labelPods(ctx), k.publish(ctx))
		if err != nil && err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			c.Log.Warn("not in order", "error", err)
		} else if err == nil && !maps.Equal(routes, last) {
			last, said = routes, ""
			c.Log.Info("routes", "routes", routes)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("status server: %w", err)
		case <-k.changed:
		case <-tick.C:
		}
	}
}

// runLabels labels the agents' pods until ctx ends.
func runLabels(ctx context.Context, c Config, client kubernetes.Interface) error {
	k, err := newLabeller(client, c)
	if err != nil {
		return err
	}
	if err := k.start(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(check) // for what failed
	defer tick.Stop()
	for said := ""; ; {
		if err := k.labelPods(ctx); err == nil {
			said = ""
		} else if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			c.Log.Warn("not in order", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.changed:
		case <-tick.C:
		}
	}
}

// status serves what the lab asks the ingress.
func status(p *Proxy, ready *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the peer has gone: nobody to tell
	}
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		s, err := p.Stats(r.Context())
		answer(w, s, err)
	})
	mux.HandleFunc("GET /routes", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.Routes(), nil) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "not in order yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
