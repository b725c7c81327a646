package keylime

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrNotFound is in the chain of an error about an agent that the service does not know (HTTP 404). The registrar says the same of
// an agent that has registered but not yet activated.
var ErrNotFound = errors.New("no such agent")

// StatusError is an answer that is not a success. errors.Is(err, [ErrNotFound]) tells the 404s.
type StatusError struct {
	Service string // "registrar" or "verifier"
	Method  string
	URL     string
	Code    int    // HTTP status
	Message string // what the service said
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: %s %s: %d %s: %s", e.Service, e.Method, e.URL, e.Code, http.StatusText(e.Code), e.Message)
}

// Is reports a 404 as ErrNotFound, and also the 400 with which the verifier answers when it shall reactivate or stop an unknown agent.
func (e *StatusError) Is(target error) bool {
	return target == ErrNotFound && (e.Code == http.StatusNotFound ||
		e.Code == http.StatusBadRequest && strings.Contains(e.Message, "No row was found"))
}

// Version is a service's answer to GET /version.
type Version struct {
	Current   string   `json:"current_version"`
	Supported []string `json:"supported_versions"`
}

// newestAPI is the newest version of Keylime's version 2 interface that this client knows.
const newestAPI = "2.6"

// maxBody bounds what is read of an answer: a bulk answer has about 2 kB for each agent.
const maxBody = 64 << 20

// restClient is what the registrar's and the verifier's client have in common.
type restClient struct {
	service string
	base    string // https://host:port
	http    *http.Client

	mu  sync.Mutex
	api string // negotiated once, e.g. "2.6"
}

func newREST(service, addr string, tlsConfig *tls.Config, dial Dial) *restClient {
	return &restClient{service: service, base: "https://" + addr, http: newHTTPClient(tlsConfig, dial)}
}

func newHTTPClient(tlsConfig *tls.Config, dial Dial) *http.Client {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext:         dial,
			TLSClientConfig:     tlsConfig,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     30 * time.Second,
		},
	}
}

// Version asks for the versions of the interface that the service supports. A verifier in push mode answers 410, a [*StatusError].
func (c *restClient) Version(ctx context.Context) (Version, error) {
	var v Version
	_, err := c.do(ctx, http.MethodGet, "/version", nil, &v)
	return v, err
}

// Close closes idle connections.
func (c *restClient) Close() { c.http.CloseIdleConnections() }

// apiVersion is the newest version that both sides know.
func (c *restClient) apiVersion(ctx context.Context) (string, error) {
	c.mu.Lock()
	api := c.api
	c.mu.Unlock()
	if api != "" {
		return api, nil
	}
	v, err := c.Version(ctx)
	var status *StatusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusGone:
		api = newestAPI // push mode: no list, but version 2 of the interface is still there
	case err != nil:
		return "", fmt.Errorf("negotiate the interface's version: %w", err)
	default:
		if api = negotiate(v.Supported); api == "" {
			return "", fmt.Errorf("%s at %s speaks interface versions %s, none of which this client knows (2.0 to %s)",
				c.service, c.base, strings.Join(v.Supported, ", "), newestAPI)
		}
	}
	c.mu.Lock()
	c.api = api
	c.mu.Unlock()
	return api, nil
}

// negotiate picks the newest of the offered versions that is 2.x and not newer than newestAPI.
func negotiate(offered []string) string {
	best, bestMinor := "", -1
	_, newestMinor, _ := strings.Cut(newestAPI, ".")
	limit, _ := strconv.Atoi(newestMinor)
	for _, v := range offered {
		major, minor, _ := strings.Cut(v, ".")
		n, err := strconv.Atoi(cmp.Or(minor, "0"))
		if err == nil && major == "2" && n <= limit && n > bestMinor {
			best, bestMinor = v, n
		}
	}
	return best
}

// call makes a request under the negotiated version; path starts with a slash, e.g. "/agents/ID".
func (c *restClient) call(ctx context.Context, method, path string, body, results any) (int, error) {
	api, err := c.apiVersion(ctx)
	if err != nil {
		return 0, err
	}
	return c.do(ctx, method, "/v"+api+path, body, results)
}

// envelope is the form of every answer of version 2; those of version 3 have data (https://jsonapi.org).
type envelope struct {
	Code    int             `json:"code"`
	Status  string          `json:"status"`
	Results json.RawMessage `json:"results"`
	Data    json.RawMessage `json:"data"`
}

func (c *restClient) do(ctx context.Context, method, path string, body, results any) (int, error) {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("%s: encode request: %w", c.service, err)
		}
		payload = bytes.NewReader(data)
	}
	url := c.base + path
	req, err := http.NewRequestWithContext(ctx, method, url, payload)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c.service, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c.service, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return 0, fmt.Errorf("%s: %s %s: read the answer: %w", c.service, method, url, err)
	}
	if len(data) > maxBody {
		return 0, fmt.Errorf("%s: %s %s: the answer is longer than %d bytes", c.service, method, url, maxBody)
	}
	var env envelope
	jsonErr := json.Unmarshal(data, &env)
	if resp.StatusCode/100 != 2 {
		msg := env.Status
		if msg == "" {
			msg = strings.TrimSpace(string(data[:min(len(data), 300)]))
		}
		return resp.StatusCode, &StatusError{Service: c.service, Method: method, URL: url, Code: resp.StatusCode, Message: msg}
	}
	if jsonErr != nil {
		return 0, fmt.Errorf("%s: %s %s: the answer is not JSON: %w", c.service, method, url, jsonErr)
	}
	if results != nil {
		content := env.Results
		if len(content) == 0 {
			content = env.Data
		}
		if err := json.Unmarshal(content, results); err != nil {
			return 0, fmt.Errorf("%s: %s %s: unexpected results: %w", c.service, method, url, err)
		}
	}
	return resp.StatusCode, nil
}
