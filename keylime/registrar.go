package keylime

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// RegistrarClient reads and deletes registrations, as an administrator.
type RegistrarClient struct{ *restClient }

// NewRegistrarClient talks to the registrar's mutual TLS port at addr (host:port).
func NewRegistrarClient(addr string, tlsConfig *tls.Config, dial Dial) *RegistrarClient {
	return &RegistrarClient{newREST("registrar", addr, tlsConfig, dial)}
}

// RegistrarClient is a client of the configured registrar.
func (c *Configured) RegistrarClient(dial Dial) *RegistrarClient {
	return NewRegistrarClient(c.RegistrarAddr, c.PKI.ClientTLS(), dial)
}

// RegistrarAgent is what an agent registered.
type RegistrarAgent struct {
	UUID     string
	EKTPM    []byte // TPM2B_PUBLIC of the EK (TPM 2.0 Part 2, section 12.2.5)
	AIKTPM   []byte // TPM2B_PUBLIC of the AK, which Keylime calls AIK
	EKCert   []byte // the EK's certificate, DER; nil if it has none. TPM makers' certificates may be more than crypto/x509 can parse.
	MTLSCert *x509.Certificate
	IP       string // contact address, which may be a name
	Port     int
	RegCount int // how many times an agent registered under this UUID
}

// Agents lists the UUIDs of all agents that have registered, also of those not yet activated.
func (c *RegistrarClient) Agents(ctx context.Context) ([]string, error) {
	var r struct {
		UUIDs []string `json:"uuids"`
	}
	_, err := c.call(ctx, http.MethodGet, "/agents/", nil, &r)
	return r.UUIDs, err
}

// Agent reads one registration. The error is [ErrNotFound] for an agent that is unknown or not yet activated.
func (c *RegistrarClient) Agent(ctx context.Context, uuid string) (*RegistrarAgent, error) {
	var r struct {
		EKTPM    string      `json:"ek_tpm"`
		AIKTPM   string      `json:"aik_tpm"`
		EKCert   string      `json:"ekcert"`
		MTLSCert string      `json:"mtls_cert"`
		IP       string      `json:"ip"`
		Port     json.Number `json:"port"`
		RegCount int         `json:"regcount"`
	}
	if _, err := c.call(ctx, http.MethodGet, "/agents/"+url.PathEscape(uuid), nil, &r); err != nil {
		return nil, err
	}
	a := &RegistrarAgent{UUID: uuid, IP: r.IP, RegCount: r.RegCount}
	var errs []error
	decode := func(what, s string) []byte {
		if s == "" {
			return nil
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
		return b
	}
	a.EKTPM, a.AIKTPM, a.EKCert = decode("ek_tpm", r.EKTPM), decode("aik_tpm", r.AIKTPM), decode("ekcert", r.EKCert)
	if r.Port != "" {
		var err error
		if a.Port, err = strconv.Atoi(r.Port.String()); err != nil {
			errs = append(errs, fmt.Errorf("port: %w", err))
		}
	}
	if r.MTLSCert != "" && r.MTLSCert != "disabled" {
		if block, _ := pem.Decode([]byte(r.MTLSCert)); block == nil {
			errs = append(errs, errors.New("mtls_cert: not PEM"))
		} else if cert, err := x509.ParseCertificate(block.Bytes); err != nil {
			errs = append(errs, fmt.Errorf("mtls_cert: %w", err))
		} else {
			a.MTLSCert = cert
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("registrar: registration of agent %s: %w", uuid, errors.Join(errs...))
	}
	return a, nil
}

// Delete removes a registration; the agent can then register anew, with another TPM or AK too.
func (c *RegistrarClient) Delete(ctx context.Context, uuid string) error {
	_, err := c.call(ctx, http.MethodDelete, "/agents/"+url.PathEscape(uuid), nil, nil)
	return err
}
