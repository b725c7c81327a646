package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"keylab.dev/keylab/report"
)

// Client speaks with the supervisor of one lab.
type Client struct {
	key  string
	http *http.Client
}

// NewClient is a client of the lab with that key (state.Dir.Key). It connects with the first call.
func NewClient(key string) *Client {
	c := &Client{key: key}
	c.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, _, err := dial(ctx, key)
			return conn, err
		},
	}}
	return c
}

// PID is the process id of the lab's supervisor in the caller's PID namespace. ErrNotRunning when there is none.
func (c *Client) PID(ctx context.Context) (int, error) {
	conn, pid, err := dial(ctx, c.key)
	if err != nil {
		return 0, err
	}
	return pid, conn.Close()
}

// Running tells whether the lab's supervisor answers at its socket.
func (c *Client) Running(ctx context.Context) bool {
	_, err := c.PID(ctx)
	return err == nil
}

// Status asks how the lab is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	pid, err := c.PID(ctx)
	if err != nil {
		return s, err
	}
	err = c.call(ctx, "GET", "status", nil, &s)
	s.PID = pid
	return s, err
}

// Network asks for hosts, routes, rules and counters.
func (c *Client) Network(ctx context.Context) (n Network, err error) {
	err = c.call(ctx, "GET", "network", nil, &n)
	return n, err
}

// Tenant asks how Keylime's own command line is run in the lab.
func (c *Client) Tenant(ctx context.Context) (cmd Command, err error) {
	err = c.call(ctx, "GET", "tenant", nil, &cmd)
	return cmd, err
}

// Notices asks for the verifier's notices so far.
func (c *Client) Notices(ctx context.Context) (list []Notice, err error) {
	err = c.call(ctx, "GET", "notices", nil, &list)
	return list, err
}

// Verify has the lab prove its claims.
func (c *Client) Verify(ctx context.Context) (r report.Result, err error) {
	err = c.call(ctx, "POST", "verify", nil, &r)
	return r, err
}

// Fault breaks or mends one thing in the lab and says what was done.
func (c *Client) Fault(ctx context.Context, f Fault) (done string, err error) {
	err = c.call(ctx, "POST", "fault", f, &done)
	return done, err
}

// Mark counts what a later proof compares with.
func (c *Client) Mark(ctx context.Context) (m Mark, err error) {
	err = c.call(ctx, "GET", "mark", nil, &m)
	return m, err
}

// Fired tells whether a fault was seen to have its effect since the mark.
func (c *Client) Fired(ctx context.Context, f Fault, since Mark) (p Proof, err error) {
	err = c.call(ctx, "POST", "fired", question{f, since}, &p)
	return p, err
}

// Act does one thing to one node and says what was done.
func (c *Client) Act(ctx context.Context, a Action) (done string, err error) {
	err = c.call(ctx, "POST", "act", a, &done)
	return done, err
}

// Down asks for the orderly end of the lab.
func (c *Client) Down(ctx context.Context) error {
	var s string
	return c.call(ctx, "POST", "down", nil, &s)
}

// Events hands every event since the lab's start to emit, until the lab is up or has ended.
func (c *Client) Events(ctx context.Context, emit func(Event)) error {
	body, err := c.open(ctx, "GET", "events", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	for {
		var e Event
		if err := in.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the lab's progress: %w", err)
		}
		emit(e)
		if e.State == EventReady || e.State == EventEnded {
			return nil
		}
	}
}

func (c *Client) call(ctx context.Context, method, what string, in, out any) error {
	body, err := c.open(ctx, method, what, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("read the lab's answer to %s: %w", what, err)
	}
	return nil
}

func (c *Client) open(ctx context.Context, method, what string, in any) (io.ReadCloser, error) {
	var payload io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request for %s: %w", what, err)
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab/v1/"+what, payload)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrNotRunning) {
			return nil, ErrNotRunning
		}
		return nil, fmt.Errorf("ask the lab for %s: %w", what, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var f failure
		if err := json.NewDecoder(resp.Body).Decode(&f); err != nil || f.Error == "" {
			return nil, fmt.Errorf("ask the lab for %s: %s", what, resp.Status)
		}
		return nil, errors.New(f.Error)
	}
	return resp.Body, nil
}
