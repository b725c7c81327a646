package tpmrole

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
)

// node is the node of the TPM, as far as what it measures needs to know.
func (c Config) node() plan.Node {
	return plan.Node{Name: c.Name, IMA: c.IMA, MeasuredBoot: c.MeasuredBoot}
}

// measure makes what the node measures. Its logs are beside the TPM's sockets, so that whoever has the TPM can read them.
func (s *server) measure() (err error) {
	o := measure.Options{Dir: s.config.SocketDir, Mode: 0o644, OpenTPM: func() (transport.TPMCloser, error) { return s.tpm.Client(), nil }}
	if s.config.MeasuredDir != "" {
		o.StateFile = filepath.Join(s.config.MeasuredDir, "state.json")
	}
	s.measured, err = fleet.NewMeasured(o, s.config.Lab, s.config.node())
	return err
}

// measuredAnswer is what came of a measurement. Problem is for people: it says what is wrong with what they asked for.
type measuredAnswer struct {
	Measured control.Measured `json:"measured"`
	Problem  string           `json:"problem,omitempty"`
}

func (s *server) measurements(mux *http.ServeMux) {
	mux.HandleFunc("POST /measure", netroles.Answer(func(r *http.Request) (any, error) {
		var m control.Measurement
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&m); err != nil {
			return nil, fmt.Errorf("read the measurement: %w", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		a, err := fleet.Measure(r.Context(), s.config.node(), s.measured, m)
		if err != nil {
			return measuredAnswer{Problem: err.Error()}, nil
		}
		return measuredAnswer{Measured: a}, nil
	}))
	mux.HandleFunc("GET /ref-state", netroles.Answer(func(*http.Request) (any, error) {
		state, err := s.measured.RefState()
		return json.RawMessage(state), err
	}))
	mux.HandleFunc("GET /pcrs", netroles.Answer(func(r *http.Request) (any, error) {
		var pcrs []int
		for _, text := range r.URL.Query()["pcr"] {
			n, err := strconv.Atoi(text)
			if err != nil {
				return nil, fmt.Errorf("%q is no PCR", text)
			}
			pcrs = append(pcrs, n)
		}
		return s.measured.PCRs(r.Context(), pcrs...)
	}))
}

// Measure shows what the node has measured, or changes it. What the next boot shall be waits for that.
func (c *Client) Measure(ctx context.Context, m control.Measurement) (control.Measured, error) {
	var a measuredAnswer
	if err := c.c.Call(ctx, http.MethodPost, "/measure", m, &a); err != nil {
		return control.Measured{}, err
	}
	if a.Problem != "" {
		return control.Measured{}, errors.New(a.Problem)
	}
	return a.Measured, nil
}

// RefState is the reference state of the node, with the firmware that it has now (measure.Node.RefState).
func (c *Client) RefState(ctx context.Context) (state json.RawMessage, err error) {
	err = c.c.Call(ctx, http.MethodGet, "/ref-state", nil, &state)
	return state, err
}

// PCRs reads PCRs of the SHA-256 bank.
func (c *Client) PCRs(ctx context.Context, pcrs ...int) (values map[int][]byte, err error) {
	path := "/pcrs"
	for i, pcr := range slices.Sorted(slices.Values(pcrs)) {
		path += map[bool]string{true: "?", false: "&"}[i == 0] + "pcr=" + strconv.Itoa(pcr)
	}
	err = c.c.Call(ctx, http.MethodGet, path, nil, &values)
	return values, err
}
