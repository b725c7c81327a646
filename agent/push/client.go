package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrVerifierAnswer is matched when the verifier's answer makes no sense.
	ErrVerifierAnswer = errors.New("unusable answer from the verifier")
	// ErrNotEnrolled is matched when the verifier does not know the agent, or knows
	// it with another AK. In a session it also means that the challenge expired.
	ErrNotEnrolled = errors.New("the verifier does not know this agent")
	// ErrNothingAsked is matched when the verifier wants no evidence, because the
	// agent's policy there names no PCR, no IMA policy and no measured boot policy.
	ErrNothingAsked = errors.New("the verifier asks for no evidence: the agent's policy must require at least one PCR")
)

// VerifierError is an HTTP answer of the verifier that is no success.
type VerifierError struct {
	Step       string        // what was asked, e.g. StepNegotiate
	Status     int           // HTTP status
	Code       string        // the verifier's name of the error, e.g. "premature_attestation"; "" if it gave none
	Message    string        // the verifier's own words
	RetryAfter time.Duration // what it asked to wait; 0: nothing
}

func (e *VerifierError) Error() string {
	text := fmt.Sprintf("%s: the verifier answered %d %s", e.Step, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		text += " (" + e.Code + ")"
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Is makes errors.Is(err, ErrNotEnrolled) work: for 404 to anything about the
// agent, and for a proof that the verifier refuses.
func (e *VerifierError) Is(target error) bool {
	if target != ErrNotEnrolled {
		return false
	}
	switch e.Step {
	case StepNegotiate, StepEvidence:
		return e.Status == http.StatusNotFound
	case StepProof:
		return e.Status == http.StatusUnauthorized
	}
	return false
}

const (
	// maxAnswer bounds what is read of an answer, in bytes, and echoFactor how many
	// bytes more for each byte sent: the verifier repeats evidence, in its own JSON.
	maxAnswer  = 1 << 20
	echoFactor = 4
	maxHeader  = 64 << 10
	// maxWords bounds what is quoted of an error answer, in bytes.
	maxWords = 300
	// longestPause is the longest that Keylime's verifier ever asks to wait (its
	// limit for new sessions), and so what is believed of Retry-After.
	longestPause = time.Hour
	// idleTimeout is when an unused connection is closed.
	idleTimeout = 90 * time.Second
)

// client speaks to one verifier. It keeps at most one idle connection.
type client struct {
	http      *http.Client
	transport *http.Transport
	host      string // host:port
	timeout   time.Duration
}

func newClient(cfg *Config) *client {
	transport := &http.Transport{
		DialContext: cfg.Dial,
		// The name or address that is verified is the one in the URL.
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.VerifierCA},
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
	return &client{
		http: &http.Client{
			Transport: transport,
			// The token is for nobody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		transport: transport,
		host:      cfg.Verifier,
		timeout:   cfg.RequestTimeout,
	}
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// answer is a success.
type answer struct {
	location string
	body     []byte
	damage   error // why body is not the whole of it: cut off, or too long
}

// do sends one request and reads the answer, which is a success with status want.
// Other answers are a *VerifierError. status is 0 if there was no answer.
func (c *client) do(ctx context.Context, step, method, path string, token secret, body any, want int) (a *answer, status int, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: encoding the request: %w", step, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "https://"+c.host+path, bytes.NewReader(data))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", step, err)
	}
	request.Header.Set("Content-Type", mediaType)
	request.Header.Set("Accept", mediaType)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+string(token))
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", step, err)
	}
	defer func() { _ = response.Body.Close() }() // it was only read
	limit := int64(maxAnswer + echoFactor*len(data))
	text, damage := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if response.StatusCode != want {
		return nil, response.StatusCode, newVerifierError(step, response, text, time.Now())
	}
	if damage != nil {
		damage = fmt.Errorf("reading the answer: %w", damage)
	} else if int64(len(text)) > limit {
		damage = fmt.Errorf("%w: longer than %d bytes", ErrVerifierAnswer, limit)
	}
	return &answer{location: response.Header.Get("Location"), body: text, damage: damage}, response.StatusCode, nil
}

// parseAnswer decodes the resource in a successful answer.
func parseAnswer[T any](step string, a *answer, kind string) (*document[T], error) {
	if a.damage != nil {
		return nil, fmt.Errorf("%s: %w", step, a.damage)
	}
	d, err := parseDocument[T](a.body, kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", step, err)
	}
	return d, nil
}

func newVerifierError(step string, response *http.Response, text []byte, now time.Time) *VerifierError {
	e := &VerifierError{Step: step, Status: response.StatusCode, RetryAfter: parseRetryAfter(response.Header.Get("Retry-After"), now)}
	var d errorDocument
	var words []string
	if json.Unmarshal(text, &d) == nil {
		for _, problem := range d.Errors {
			if e.Code == "" {
				e.Code = shorten(problem.Code)
			}
			said := problem.Detail
			if said == "" {
				said = problem.Title
			}
			if problem.Source != nil && problem.Source.Pointer != "" {
				said = problem.Source.Pointer + " " + said
			}
			words = append(words, said)
		}
	}
	e.Message = shorten(strings.Join(words, "; "))
	return e
}

func shorten(text string) string {
	if len(text) > maxWords {
		return strings.ToValidUTF8(text[:maxWords], "") + "..."
	}
	return text
}

// parseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds or
// a date. It returns 0 for a missing, past or meaningless one, and longestPause at
// most.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 32)
		if err != nil || seconds > int64(longestPause/time.Second) {
			return longestPause
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), longestPause)
}

// parseLocation reads the Location of a new attestation, which must be one of this
// agent's (below) at this verifier: the token goes there.
func (c *client) parseLocation(text, below string) (index int, err error) {
	if text == "" {
		return 0, fmt.Errorf("%w: no Location", ErrVerifierAnswer)
	}
	base := &url.URL{Scheme: "https", Host: c.host, Path: below}
	location, err := base.Parse(text)
	if err != nil {
		return 0, fmt.Errorf("%w: Location: %w", ErrVerifierAnswer, err)
	}
	if location.Scheme != base.Scheme || location.Host != base.Host {
		return 0, fmt.Errorf("%w: Location %q is at another server", ErrVerifierAnswer, shorten(text))
	}
	rest, ok := strings.CutPrefix(location.EscapedPath(), below)
	if !ok {
		return 0, fmt.Errorf("%w: Location %q is not an attestation of this agent", ErrVerifierAnswer, shorten(text))
	}
	n, err := strconv.ParseUint(rest, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%w: Location %q: index: %w", ErrVerifierAnswer, shorten(text), err)
	}
	return int(n), nil
}
