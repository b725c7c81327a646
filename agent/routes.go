package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// versionedPath matches what the Rust agent takes for a request to some API
// version, known or not.
var versionedPath = regexp.MustCompile(`^/v([0-9]+)\.([0-9]+)(.*)$`)

// encodedSlash finds a slash that is part of a name (RFC 3986, section 2.2).
var encodedSlash = regexp.MustCompile(`(?i)%2f`)

// request is one HTTP request on its way through the agent.
type request struct {
	*http.Request
	version  string // API version such as "2.5"; "" outside of any
	endpoint string // for the statistics
}

// answer is a status and what goes into the envelope around every answer.
type answer struct {
	status  int
	message string
	results any
	allow   string // Allow header of a 405
	empty   bool   // no body: not even an envelope
	last    bool   // the connection ends with it
}

func success(results any) answer {
	return answer{status: http.StatusOK, message: "Success", results: results}
}

func failure(status int, format string, args ...any) answer {
	return answer{status: status, message: fmt.Sprintf(format, args...), results: struct{}{}}
}

func badRequest(format string, args ...any) answer {
	return failure(http.StatusBadRequest, format, args...)
}

func notAllowed(message string, methods ...string) answer {
	a := failure(http.StatusMethodNotAllowed, "%s", message)
	a.allow = strings.Join(methods, ", ")
	return a
}

// wrongMethod answers for a resource that is there, but not for this method: with
// nothing but the right one, as the Rust agent's web framework does by itself.
func wrongMethod(method string) answer {
	return answer{status: http.StatusMethodNotAllowed, allow: method, empty: true}
}

// envelope is the form of every Keylime answer.
type envelope struct {
	Code    int    `json:"code"`
	Status  string `json:"status"`
	Results any    `json:"results"`
}

// endpoint is one resource: the one method it knows and what answers it.
type endpoint struct {
	method string
	serve  func(a *Agent, r *request) answer
	since  string // first API version that has it; "" for all
}

var endpoints = map[string]endpoint{
	"/quotes/identity":          {method: http.MethodGet, serve: (*Agent).identityQuote},
	"/quotes/integrity":         {method: http.MethodGet, serve: (*Agent).integrityQuote},
	"/keys/pubkey":              {method: http.MethodGet, serve: (*Agent).pubkey},
	"/keys/verify":              {method: http.MethodGet, serve: (*Agent).verifyKey},
	"/keys/ukey":                {method: http.MethodPost, serve: (*Agent).uKey},
	"/keys/vkey":                {method: http.MethodPost, serve: (*Agent).vKey},
	"/notifications/revocation": {method: http.MethodPost, serve: (*Agent).revocation},
	"/agent/info":               {method: http.MethodGet, serve: (*Agent).info, since: "2.2"},
}

func (a *Agent) serveHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	req := &request{Request: r, endpoint: "other"}
	reply := a.route(req)
	body, err := json.Marshal(envelope{reply.status, reply.message, reply.results})
	if err != nil {
		// Only our own structures get here; answer something all the same.
		a.log.Error("encoding an answer", "path", r.URL.Path, "error", err)
		reply.status, body = http.StatusInternalServerError, []byte(`{"code":500,"status":"Internal error","results":{}}`)
	}
	header := w.Header()
	if reply.empty {
		body = nil
	} else {
		header.Set("Content-Type", "application/json")
	}
	if reply.last {
		header.Set("Connection", "close")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if reply.allow != "" {
		header.Set("Allow", reply.allow)
	}
	// Count first: who has the answer may look at the counts at once.
	a.account(req, reply.status, start)
	w.WriteHeader(reply.status)
	_, _ = w.Write(body) // a peer that is gone is no concern of ours
}

// account records a request in statistics, log and the caller's hook.
func (a *Agent) account(r *request, status int, start time.Time) {
	a.book.request(Endpoint{Path: r.endpoint, Status: status})
	access := Access{
		Time:     start,
		Duration: time.Since(start),
		Remote:   r.RemoteAddr,
		Method:   r.Method,
		Path:     r.URL.Path,
		Status:   status,
	}
	if strings.HasPrefix(r.endpoint, "/quotes/") {
		access.Nonce = r.URL.Query().Get("nonce")
		if status == http.StatusOK {
			a.book.quote(access.Nonce, start)
		}
	}
	if r.TLS != nil {
		access.ServerName = r.TLS.ServerName
		if len(r.TLS.PeerCertificates) > 0 {
			access.Client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
	}
	a.log.Debug("request", "method", access.Method, "path", access.Path, "status", status,
		"remote", access.Remote, "client", access.Client, "sni", access.ServerName, "took", access.Duration)
	if a.cfg.OnAccess != nil {
		a.cfg.OnAccess(access)
	}
}

// route finds the answer to a request. Paths without one get the same status as
// from the Rust agent: 400 for methods in use, 405 for others, never 404.
func (a *Agent) route(r *request) answer {
	if reply, refused := tooLarge(r.Request); refused {
		return reply
	}
	path := r.URL.Path
	if encodedSlash.MatchString(r.URL.RawPath) {
		path = r.URL.RawPath // a slash that was encoded parts nothing
	}
	if path == "/version" {
		r.endpoint = path
		if r.Method != http.MethodGet {
			return wrongMethod(http.MethodGet)
		}
		return a.version()
	}
	parts := versionedPath.FindStringSubmatch(path)
	if parts == nil {
		return noSuchPath(r.Method, "Use "+a.versionPaths()+" or /version interfaces")
	}
	major, errMajor := strconv.ParseUint(parts[1], 10, 32)
	minor, errMinor := strconv.ParseUint(parts[2], 10, 32)
	if errMajor != nil || errMinor != nil {
		return badRequest("API version is not a pair of numbers: %s", path)
	}
	r.version = parts[1] + "." + parts[2]
	rest := parts[3]
	if !slices.Contains(a.cfg.APIVersions, r.version) || rest != "" && rest[0] != '/' {
		return badRequest("API version not supported: v%d.%d", major, minor)
	}
	if e, ok := endpoints[rest]; ok && r.version >= e.since { // one digit each
		r.endpoint = rest
		if r.Method != e.method {
			return wrongMethod(e.method)
		}
		return e.serve(a, r)
	}
	return noSuchEndpoint(r, rest)
}

func (a *Agent) versionPaths() string {
	return "/v" + strings.Join(a.cfg.APIVersions, ", /v")
}

// Limits of the Rust agent's web framework: the number of header fields (actix-http)
// and the length of a request target in bytes (the crate http). HTTP/2, in which
// requests come in another form, has others there, which nobody comes near.
const (
	maxFields = 96
	maxTarget = 1<<16 - 2
)

// tooLarge answers for requests with a header that is larger than the Rust agent
// takes. maxHeader bounds it as a whole.
func tooLarge(r *http.Request) (reply answer, refused bool) {
	if r.ProtoMajor != 1 {
		return answer{}, false
	}
	fields := 1 // Host, which net/http takes out
	for _, values := range r.Header {
		fields += len(values)
	}
	switch {
	case fields > maxFields:
		return answer{status: http.StatusRequestHeaderFieldsTooLarge, empty: true, last: true}, true
	case len(r.RequestURI) > maxTarget:
		return answer{status: http.StatusBadRequest, empty: true, last: true}, true
	}
	return answer{}, false
}

// noSuchPath answers for what is outside of any interface.
func noSuchPath(method, hint string) answer {
	if method == http.MethodGet || method == http.MethodPost {
		return badRequest("Not Implemented: %s", hint)
	}
	return notAllowed("Method is not supported", http.MethodGet, http.MethodPost)
}

// noSuchEndpoint answers for an unknown path below an API version.
func noSuchEndpoint(r *request, path string) answer {
	scope, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	known := map[string][]string{}
	for p, e := range endpoints {
		if r.version >= e.since && strings.HasPrefix(p, "/"+scope+"/") {
			known[e.method] = append(known[e.method], strings.TrimPrefix(p, "/"+scope))
		}
	}
	if len(known) == 0 {
		if r.Method == http.MethodPost {
			return noSuchPath(r.Method, "Use /keys or /notifications interfaces")
		}
		return noSuchPath(r.Method, "Use /agent, /keys, or /quotes interfaces")
	}
	if paths := known[r.Method]; paths != nil {
		slices.Sort(paths)
		return badRequest("URI not supported, only %s supported for %s in /%s interface", strings.Join(paths, " and "), r.Method, scope)
	}
	var methods []string
	for method := range known {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	return notAllowed("Method is not supported in /"+scope+" interface", methods...)
}

// version answers GET /version: the newest version for old clients, all for new.
func (a *Agent) version() answer {
	all := a.cfg.APIVersions
	return success(struct {
		Supported string   `json:"supported_version"`
		All       []string `json:"supported_versions"`
	}{all[len(all)-1], all})
}
