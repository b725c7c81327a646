package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// HTTPRequest asks for one HTTP request that a host of the lab makes.
type HTTPRequest struct {
	From   string `json:"from"`           // the host that makes it
	To     string `json:"to"`             // registrar, verifier, or a node, whose agent is meant, by its hostname
	Method string `json:"method"`         // GET, POST, …
	Path   string `json:"path"`           // with the query, if there is one
	Body   string `json:"body,omitempty"` // sent as application/json
	As     string `json:"as"`             // one of HTTPClients
}

// Who makes a request.
const (
	AsClient    = "client"    // TLS, with the tenant's client certificate
	AsAnonymous = "anonymous" // TLS, without a client certificate
	AsPlain     = "plain"     // without TLS: the registrar's port for agents
)

// HTTPClients are all kinds of client.
var HTTPClients = []string{AsClient, AsAnonymous, AsPlain}

// HTTPMethods are those of Keylime's interfaces, and HEAD.
var HTTPMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// HTTPAnswer is what came of it.
type HTTPAnswer struct {
	Status int    `json:"status,omitempty"` // 0: there was no answer
	Body   string `json:"body,omitempty"`   // its first 64 KiB
	Error  string `json:"error,omitempty"`  // why there was no answer
	// Date is what time it was for who answered.
	Date time.Time `json:"date,omitzero"`
}

// Check tells what is wrong with a request, as far as that can be said without a lab.
func (r HTTPRequest) Check() error {
	switch {
	case !slices.Contains(HTTPMethods, r.Method):
		return fmt.Errorf("%q is no method; there are %s", r.Method, strings.Join(HTTPMethods, ", "))
	case !strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("path %q does not begin with /", r.Path)
	case !slices.Contains(HTTPClients, r.As):
		return fmt.Errorf("%q is no kind of client; there are %s", r.As, strings.Join(HTTPClients, ", "))
	case r.As == AsPlain && r.To != "registrar":
		return fmt.Errorf("nobody but the registrar has a port without TLS: %s has none", r.To)
	}
	return nil
}

// HTTP has a host of the lab make a request.
func (c *Client) HTTP(ctx context.Context, r HTTPRequest) (a HTTPAnswer, err error) {
	err = c.call(ctx, "POST", "http", r, &a)
	return a, err
}
