package netroles

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"

	"keylab.dev/keylab/netlab"
)

// DNSConfig is what a DNS server must know.
type DNSConfig struct {
	Zone   netlab.Zone    `json:"zone"`
	Listen netip.AddrPort `json:"listen"`
}

// RunDNS is the main process of a DNS server's container.
func RunDNS(ctx context.Context, configPath string) error {
	var c DNSConfig
	if err := readConfig(configPath, &c); err != nil {
		return err
	}
	return runDNS(ctx, c, ControlSocket)
}

// record is the body of POST /record.
type record struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

func runDNS(ctx context.Context, c DNSConfig, socket string) error {
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(ctx, "udp", c.Listen.String())
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	tcp, err := lc.Listen(ctx, "tcp", c.Listen.String())
	if err != nil {
		udp.Close()
		return fmt.Errorf("DNS: %w", err)
	}
	server, err := netlab.ServeDNS(ctx, c.Zone, []net.PacketConn{udp}, []net.Listener{tcp}, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	if err != nil {
		return err
	}
	defer server.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /queries", Answer(func(*http.Request) (any, error) {
		counts := map[string]uint64{}
		for q, n := range server.Queries() {
			counts[q.Code] += n
		}
		return counts, nil
	}))
	mux.HandleFunc("POST /record", Answer(func(r *http.Request) (any, error) {
		var rec record
		if err := json.NewDecoder(r.Body).Decode(&rec); err != nil {
			return nil, fmt.Errorf("read the record: %w", err)
		}
		return "done", server.SetRecord(rec.Name, rec.Address)
	}))
	mux.HandleFunc("POST /wildcard", Answer(func(r *http.Request) (any, error) {
		var address netip.Addr
		if err := json.NewDecoder(r.Body).Decode(&address); err != nil {
			return nil, fmt.Errorf("read the address: %w", err)
		}
		return "done", server.SetWildcard(address)
	}))
	mux.HandleFunc("POST /failure", Answer(func(r *http.Request) (any, error) {
		var failure netlab.DNSFailure
		if err := json.NewDecoder(r.Body).Decode(&failure); err != nil {
			return nil, fmt.Errorf("read the failure: %w", err)
		}
		return "done", server.SetFailure(failure)
	}))
	return ServeControl(ctx, socket, mux)
}

// DNSClient speaks with a DNS server.
type DNSClient struct{ c Client }

// NewDNSClient is a client of the server whose control socket dial reaches.
func NewDNSClient(dial func(context.Context) (net.Conn, error)) *DNSClient {
	return &DNSClient{NewClient(dial)}
}

// Queries counts the queries by the code of their answer.
func (d *DNSClient) Queries(ctx context.Context) (counts map[string]uint64, err error) {
	err = d.c.Call(ctx, http.MethodGet, "/queries", nil, &counts)
	return counts, err
}

// SetRecord gives a name another address.
func (d *DNSClient) SetRecord(ctx context.Context, name string, address netip.Addr) error {
	return d.c.Call(ctx, http.MethodPost, "/record", record{name, address}, nil)
}

// SetWildcard gives all names below the domain another address.
func (d *DNSClient) SetWildcard(ctx context.Context, address netip.Addr) error {
	return d.c.Call(ctx, http.MethodPost, "/wildcard", address, nil)
}

// SetFailure makes the server fail from now on, or answer again.
func (d *DNSClient) SetFailure(ctx context.Context, f netlab.DNSFailure) error {
	return d.c.Call(ctx, http.MethodPost, "/failure", f, nil)
}
