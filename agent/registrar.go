package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

var (
	// ErrRegistrarRefused is matched by errors of Register when the registrar
	// answered and said no, e.g. because it knows the agent with another AK.
	// Trying again does not help.
	ErrRegistrarRefused = errors.New("the registrar refused")
	// ErrRegistrarAnswer is matched when the registrar's answer makes no sense.
	ErrRegistrarAnswer = errors.New("unusable answer from the registrar")
	// ErrAPIVersion is matched when agent and registrar share no API version.
	ErrAPIVersion = errors.New("no common API version with the registrar")
)

// RegistrarError is an HTTP error answer of the registrar. It matches
// ErrRegistrarRefused unless its status is a transient one.
type RegistrarError struct {
	Step    string // what was asked: "register" or "activate"
	URL     string
	Status  int    // HTTP status
	Message string // the registrar's own words
}

func (e *RegistrarError) Error() string {
	text := fmt.Sprintf("%s: %s answered %d %s", e.Step, e.URL, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Status == http.StatusForbidden {
		text += " (to register another TPM or AK under this UUID, delete the agent at the registrar first)"
	}
	return text
}

// Is makes errors.Is(err, ErrRegistrarRefused) work.
func (e *RegistrarError) Is(target error) bool {
	return target == ErrRegistrarRefused && !transientStatus(e.Status)
}

// transientStatus names the statuses of a registrar that is up but busy, or of a
// proxy in front of one that is not up yet.
func transientStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// maxAnswer bounds what is read of a registrar's answer, in bytes.
const maxAnswer = 1 << 20

// registrarClient speaks the agent's part of the registrar API over plain HTTP.
type registrarClient struct {
	http *http.Client
	base string   // "http://host:port"
	ours []string // API versions of the agent, oldest first
}

func (a *Agent) registrarClient() *registrarClient {
	return &registrarClient{
		http: &http.Client{
			Transport: &http.Transport{DialContext: a.cfg.Dial},
			Timeout:   a.cfg.RequestTimeout,
		},
		base: "http://" + a.cfg.Registrar,
		ours: a.cfg.APIVersions,
	}
}

func (c *registrarClient) close() { c.http.CloseIdleConnections() }

// do sends one request and decodes the results of a successful answer.
func (c *registrarClient) do(ctx context.Context, step, method, path string, body, results any) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s: encoding the request: %w", step, err)
		}
		payload = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	defer func() { _ = response.Body.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: reading the answer of %s: %w", step, request.URL, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return &RegistrarError{Step: step, URL: request.URL.String(), Status: response.StatusCode, Message: answerMessage(data)}
	}
	if results == nil {
		return nil
	}
	var outer struct {
		Results json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(data, &outer); err != nil {
		return fmt.Errorf("%s: %s: %w: %w", step, request.URL, ErrRegistrarAnswer, err)
	}
	if err := json.Unmarshal(outer.Results, results); err != nil {
		return fmt.Errorf("%s: %s: results: %w: %w", step, request.URL, ErrRegistrarAnswer, err)
	}
	return nil
}

// answerMessage extracts the registrar's words from an error answer.
func answerMessage(data []byte) string {
	var outer struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(data, &outer) == nil && outer.Status != "" {
		return outer.Status
	}
	text := strings.TrimSpace(string(data))
	if len(text) > 300 {
		text = text[:300] + "..."
	}
	return text
}

// apiVersion agrees on a version: the registrar's current one if the agent has
// it, else the newest common one. A registrar without /version gets the oldest.
func (c *registrarClient) apiVersion(ctx context.Context) (string, error) {
	var offered struct {
		Current   string   `json:"current_version"`
		Supported []string `json:"supported_versions"`
	}
	err := c.do(ctx, "ask for API versions", http.MethodGet, "/version", nil, &offered)
	if errors.Is(err, ErrRegistrarRefused) {
		return c.ours[0], nil
	}
	if err != nil {
		return "", err
	}
	return chooseVersion(c.ours, offered.Current, offered.Supported)
}

func chooseVersion(ours []string, current string, supported []string) (string, error) {
	if slices.Contains(ours, current) {
		return current, nil
	}
	for _, version := range slices.Backward(ours) {
		if slices.Contains(supported, version) {
			return version, nil
		}
	}
	return "", fmt.Errorf("%w: the agent has %s, the registrar %s", ErrAPIVersion, strings.Join(ours, ", "), strings.Join(supported, ", "))
}

// registration is the body of POST /v2.x/agents/{uuid}.
type registration struct {
	EK       string `json:"ek_tpm"`    // base64 of TPM2B_PUBLIC
	AK       string `json:"aik_tpm"`   // likewise
	EKCert   string `json:"ekcert"`    // PEM; "" for none
	MTLSCert string `json:"mtls_cert"` // PEM, or mtlsDisabled
	Address  string `json:"ip"`
	Port     int    `json:"port"`
}

// mtlsDisabled is what an agent without a server registers as its certificate.
const mtlsDisabled = "disabled"

func (a *Agent) registration() registration {
	certificate := mtlsDisabled
	if a.server != nil {
		certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Leaf.Raw}))
	}
	return registration{
		EK:       base64.StdEncoding.EncodeToString(a.ek.publicRaw),
		AK:       base64.StdEncoding.EncodeToString(tpm2.Marshal(a.ak.public)),
		EKCert:   a.ek.certificatePEM(),
		MTLSCert: certificate,
		Address:  a.cfg.ContactAddress,
		Port:     a.cfg.ContactPort,
	}
}

// register posts the agent's identity and returns the challenge.
func (c *registrarClient) register(ctx context.Context, version, uuid string, body registration) ([]byte, error) {
	var results struct {
		Blob string `json:"blob"`
	}
	err := c.do(ctx, "register", http.MethodPost, agentPath(version, uuid), body, &results)
	if err != nil {
		return nil, err
	}
	blob, err := base64.StdEncoding.DecodeString(results.Blob)
	if err != nil {
		return nil, fmt.Errorf("register: challenge: %w: %w", ErrRegistrarAnswer, err)
	}
	return blob, nil
}

// activate sends the proof that the challenge was recovered.
func (c *registrarClient) activate(ctx context.Context, version, uuid, tag string) error {
	body := map[string]string{"auth_tag": tag}
	return c.do(ctx, "activate", http.MethodPut, agentPath(version, uuid), body, nil)
}

func agentPath(version, uuid string) string {
	return "/v" + version + "/agents/" + url.PathEscape(uuid)
}

// Header of a credential blob as tpm2-tools writes it.
const (
	credentialMagic   = 0xbadcc0de
	credentialVersion = 1
)

// parseCredential takes a challenge apart: magic, version, TPM2B_ID_OBJECT,
// TPM2B_ENCRYPTED_SECRET, all big-endian. It returns the contents of the two.
func parseCredential(blob []byte) (idObject, secret []byte, err error) {
	fail := func(format string, args ...any) ([]byte, []byte, error) {
		return nil, nil, fmt.Errorf("challenge of %d bytes: %w: %s", len(blob), ErrRegistrarAnswer, fmt.Sprintf(format, args...))
	}
	if len(blob) < 8 {
		return fail("no header")
	}
	if magic := binary.BigEndian.Uint32(blob); magic != credentialMagic {
		return fail("magic 0x%08x, want 0x%08x", magic, uint32(credentialMagic))
	}
	if version := binary.BigEndian.Uint32(blob[4:]); version != credentialVersion {
		return fail("version %d, want %d", version, credentialVersion)
	}
	rest := blob[8:]
	for _, part := range []*[]byte{&idObject, &secret} {
		if len(rest) < 2 {
			return fail("cut short")
		}
		size := int(binary.BigEndian.Uint16(rest))
		if size == 0 || size > len(rest)-2 {
			return fail("part of %d bytes, %d are left", size, len(rest)-2)
		}
		*part, rest = rest[2:2+size], rest[2+size:]
	}
	if len(rest) > 0 {
		return fail("%d bytes too many", len(rest))
	}
	return idObject, secret, nil
}
