package sniproxy

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

// The files in the folder that the controller and HAProxy share.
const (
	fileConfig = "haproxy.cfg"
	fileMap    = "names.map"
	fileSocket = "admin.sock"
)

// Slots is how many names there can be at once.
const Slots = 512

// Options say where HAProxy is.
type Options struct {
	Dir    string         // shared with HAProxy
	Listen netip.AddrPort // where HAProxy listens
	Slots  int            // default Slots
}

func (o Options) withDefaults() Options {
	if o.Slots == 0 {
		o.Slots = Slots
	}
	return o
}

// WriteConfig writes HAProxy's configuration, and an empty map where there is none. HAProxy can start then.
func WriteConfig(o Options) error {
	o = o.withDefaults()
	if err := atomicfile.Write(filepath.Join(o.Dir, fileConfig), o.config(), 0o644); err != nil {
		return err
	}
	path := filepath.Join(o.Dir, fileMap)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return atomicfile.Write(path, nil, 0o644)
	} else if err != nil {
		return fmt.Errorf("the map of names: %w", err)
	}
	return nil
}

// config is HAProxy's configuration (HAProxy 2.6, Configuration Manual). A connection is held until its ClientHello is there, however many
// pieces it comes in; without a name that the map has it is rejected before any backend hears of it.
func (o Options) config() []byte {
	var b bytes.Buffer
	names, socket := filepath.Join(o.Dir, fileMap), filepath.Join(o.Dir, fileSocket)
	fmt.Fprintf(&b, `global
  stats socket %s mode 600 level admin expose-fd listeners
  stats timeout 30s
  maxconn 4096
  tune.bufsize 32768
defaults
  mode tcp
  timeout connect 10s
  timeout client 5m
  timeout server 5m
  timeout client-fin 30s
  timeout tunnel 1h
  log stdout format raw daemon info
frontend tls
  bind %s
  tcp-request inspect-delay 10s
  acl hello req.ssl_hello_type 1
  acl named req.ssl_sni -m found
  acl known req.ssl_sni,lower,map_str(%s) -m found
  tcp-request content reject if { req.len gt 0 } !{ req.payload(0,1) -m bin 16 }
  tcp-request content accept if hello known
  tcp-request content reject if hello !named
  tcp-request content reject if hello named !known
  tcp-request content reject if WAIT_END
  use_backend %%[req.ssl_sni,lower,map_str(%s)]
`, socket, o.Listen, names, names)
	for i := range o.Slots {
		fmt.Fprintf(&b, "backend %s\n  server s 127.0.0.1:1 disabled\n", slot(i))
	}
	return b.Bytes()
}

func slot(i int) string { return "slot-" + strconv.Itoa(i) }

// Proxy drives one HAProxy.
type Proxy struct {
	o  Options
	mu sync.Mutex
	// slots are the names that have one. A name keeps its slot for as long as this process lives, so that its counters mean it.
	slots   map[string]int
	routes  map[string]string // in force, by name: address
	started string            // HAProxy's start, to see that it is another one
}

// New is a proxy whose HAProxy has been, or will be, started with the configuration that WriteConfig wrote.
func New(o Options) *Proxy {
	return &Proxy{o: o.withDefaults(), slots: map[string]int{}, routes: map[string]string{}}
}

// command sends one command to HAProxy (HAProxy 2.6, Management Guide, section 9.3) and returns its answer.
func (p *Proxy) command(ctx context.Context, command string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.o.Dir, fileSocket))
	if err != nil {
		return "", fmt.Errorf("reach HAProxy: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", fmt.Errorf("reach HAProxy: %w", err)
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", fmt.Errorf("tell HAProxy %q: %w", command, err)
	}
	out, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("tell HAProxy %q: %w", command, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// do sends a command that says nothing when it succeeds.
func (p *Proxy) do(ctx context.Context, command string) error {
	out, err := p.command(ctx, command)
	if err != nil {
		return err
	}
	// Words such as "no need to change the addr" are no errors.
	if out != "" && !strings.Contains(out, "no need to change") && !strings.HasPrefix(out, "IP changed") && !strings.HasPrefix(out, "port changed") {
		return fmt.Errorf("tell HAProxy %q: it says: %s", command, out)
	}
	return nil
}

// SetRoutes makes these the routes: name to address and port. Connections under way go on.
func (p *Proxy) SetRoutes(ctx context.Context, routes map[string]string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.meet(ctx); err != nil {
		return err
	}
	var errs []error
	for _, name := range sortedNames(p.routes) {
		if _, ok := routes[name]; !ok {
			errs = append(errs, p.remove(ctx, name))
		}
	}
	for _, name := range sortedNames(routes) {
		if p.routes[name] != routes[name] {
			errs = append(errs, p.set(ctx, name, routes[name]))
		}
	}
	return errors.Join(errs...)
}

// meet looks whether HAProxy is another process than last time, or this one is new; then it learns what that has in force.
func (p *Proxy) meet(ctx context.Context) error {
	info, err := p.command(ctx, "show info")
	if err != nil {
		return err
	}
	var pid, start string
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid = strings.TrimSpace(v)
		} else if v, ok := strings.CutPrefix(line, "Start_time_sec:"); ok {
			start = strings.TrimSpace(v)
		}
	}
	id := pid + "/" + start
	if id == p.started {
		return nil
	}
	if err := p.learn(ctx); err != nil {
		return err
	}
	p.started = id
	return nil
}

// learn reads names and slots out of HAProxy's map, and the slots' addresses out of its servers. A HAProxy that has just started has none.
func (p *Proxy) learn(ctx context.Context) error {
	entries, err := p.command(ctx, "show map "+filepath.Join(p.o.Dir, fileMap))
	if err != nil {
		return err
	}
	state, err := p.command(ctx, "show servers state")
	if err != nil {
		return err
	}
	addresses := map[string]string{}
	column := map[string]int{}
	for line := range strings.Lines(state) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "#" {
			for i, name := range f[1:] {
				column[name] = i
			}
			continue
		}
		name, address, port := column["be_name"], column["srv_addr"], column["srv_port"]
		if n := max(name, address, port); n > 0 && len(f) > n {
			addresses[f[name]] = net.JoinHostPort(f[address], f[port])
		}
	}
	p.routes = map[string]string{}
	for line := range strings.Lines(entries) {
		f := strings.Fields(line) // a pointer, the name, the slot
		if len(f) != 3 {
			continue
		}
		i, err := strconv.Atoi(strings.TrimPrefix(f[2], "slot-"))
		if err != nil {
			continue
		}
		p.slots[f[1]], p.routes[f[1]] = i, addresses[f[2]]
	}
	return nil
}

func (p *Proxy) set(ctx context.Context, name, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("route of %s: %w", name, err)
	}
	if strings.ContainsAny(name, " \t\n;") || name == "" {
		return fmt.Errorf("%q is no name for a route", name)
	}
	i, err := p.slotOf(name)
	if err != nil {
		return err
	}
	server := slot(i) + "/s"
	if err := p.do(ctx, fmt.Sprintf("set server %s addr %s port %s", server, host, port)); err != nil {
		return err
	}
	if err := p.do(ctx, "enable server "+server); err != nil {
		return err
	}
	if _, known := p.routes[name]; !known {
		if err := p.do(ctx, fmt.Sprintf("add map %s %s %s", filepath.Join(p.o.Dir, fileMap), name, slot(i))); err != nil {
			return err
		}
	}
	p.routes[name] = address
	return nil
}

// slotOf is the name's slot: the one it had before, or a free one; of those that other names had, the one whose number is lowest.
func (p *Proxy) slotOf(name string) (int, error) {
	if i, ok := p.slots[name]; ok {
		return i, nil
	}
	taken := map[int]string{}
	for n, i := range p.slots {
		taken[i] = n
	}
	for i := range p.o.Slots {
		if _, ok := taken[i]; !ok {
			p.slots[name] = i
			return i, nil
		}
	}
	for i := range p.o.Slots {
		if _, routed := p.routes[taken[i]]; !routed {
			delete(p.slots, taken[i])
			p.slots[name] = i
			return i, nil
		}
	}
	return 0, fmt.Errorf("no slot is left for %s: this ingress has room for %d names", name, p.o.Slots)
}

func (p *Proxy) remove(ctx context.Context, name string) error {
	if err := p.do(ctx, fmt.Sprintf("del map %s %s", filepath.Join(p.o.Dir, fileMap), name)); err != nil {
		return err
	}
	delete(p.routes, name)
	return p.do(ctx, "disable server "+slot(p.slots[name])+"/s")
}

// Routes are the routes in force.
func (p *Proxy) Routes() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for n, a := range p.routes {
		out[n] = a
	}
	return out
}

// Stats are the connections since HAProxy's start.
type Stats struct {
	Connections map[string]uint64 `json:"connections"` // forwarded, by name
	Refused     uint64            `json:"refused"`     // for their name, for want of one, or as no TLS
	Total       uint64            `json:"total"`
}

// Stats asks HAProxy for its counters.
func (p *Proxy) Stats(ctx context.Context) (Stats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := p.command(ctx, "show stat -1 7 -1")
	if err != nil {
		return Stats{}, err
	}
	return p.parse(out)
}

func (p *Proxy) parse(text string) (Stats, error) {
	s := Stats{Connections: map[string]uint64{}}
	r := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "# ")))
	r.FieldsPerRecord = -1
	rows, err := r.ReadAll()
	if err != nil || len(rows) == 0 {
		return s, fmt.Errorf("read HAProxy's counters: %w", errors.Join(err, errors.New("no table")))
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	get := func(row []string, name string) uint64 {
		i, ok := column[name]
		if !ok || i >= len(row) {
			return 0
		}
		n, _ := strconv.ParseUint(row[i], 10, 64)
		return n
	}
	names := map[string]string{}
	for name, i := range p.slots {
		names[slot(i)] = name
	}
	for _, row := range rows[1:] {
		switch {
		case row[0] == "tls" && row[1] == "FRONTEND":
			s.Refused, s.Total = get(row, "dreq"), get(row, "stot")
		case row[1] == "s" && names[row[0]] != "":
			s.Connections[names[row[0]]] = get(row, "stot")
		}
	}
	return s, nil
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
