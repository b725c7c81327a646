package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"keylab.dev/keylab/report"
)

// Lab is a running lab, as the supervisor serves it.
type Lab interface {
	Status(ctx context.Context) (Status, error)
	// Events hands over every event since the start and goes on until the lab is up, has ended, or emit fails.
	Events(ctx context.Context, emit func(Event) error) error
	Verify(ctx context.Context) (report.Result, error)
	Network(ctx context.Context) (Network, error)
	Fault(ctx context.Context, f Fault) (string, error)
	// Mark counts what a later proof compares with; Fired tells whether a fault was seen to have its effect since then.
	Mark(ctx context.Context) (Mark, error)
	Fired(ctx context.Context, f Fault, since Mark) (Proof, error)
	Act(ctx context.Context, a Action) (string, error)
	Measure(ctx context.Context, m Measurement) (Measured, error)
	EK(ctx context.Context, o EKOrder) (EKDone, error)
	// HTTP has a host of the lab make a request.
	HTTP(ctx context.Context, r HTTPRequest) (HTTPAnswer, error)
	// Notices are the verifier's notices so far, the first one first.
	Notices(ctx context.Context) ([]Notice, error)
	// Tenant is Keylime's own command line in the lab.
	Tenant(ctx context.Context) (Command, error)
	// Down starts the orderly end of the lab and returns at once.
	Down()
}

// Server answers on a lab's control socket.
type Server struct{ http *http.Server }

// NewServer is a server for one lab.
func NewServer(lab Lab) *Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", answer(func(r *http.Request) (any, error) { return lab.Status(r.Context()) }))
	mux.HandleFunc("GET /v1/network", answer(func(r *http.Request) (any, error) { return lab.Network(r.Context()) }))
	mux.HandleFunc("GET /v1/notices", answer(func(r *http.Request) (any, error) { return lab.Notices(r.Context()) }))
	mux.HandleFunc("GET /v1/tenant", answer(func(r *http.Request) (any, error) { return lab.Tenant(r.Context()) }))
	mux.HandleFunc("POST /v1/verify", answer(func(r *http.Request) (any, error) { return lab.Verify(r.Context()) }))
	mux.HandleFunc("POST /v1/fault", order(lab.Fault))
	mux.HandleFunc("GET /v1/mark", answer(func(r *http.Request) (any, error) { return lab.Mark(r.Context()) }))
	mux.HandleFunc("POST /v1/fired", order(func(ctx context.Context, q question) (Proof, error) { return lab.Fired(ctx, q.Fault, q.Since) }))
	mux.HandleFunc("POST /v1/act", order(lab.Act))
	mux.HandleFunc("POST /v1/measure", order(lab.Measure))
	mux.HandleFunc("POST /v1/ek", order(lab.EK))
	mux.HandleFunc("POST /v1/http", order(lab.HTTP))
	mux.HandleFunc("POST /v1/down", answer(func(*http.Request) (any, error) {
		lab.Down()
		return "stopping", nil
	}))
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		out := json.NewEncoder(w)
		flush := http.NewResponseController(w)
		_ = lab.Events(r.Context(), func(e Event) error {
			if err := out.Encode(e); err != nil {
				return err
			}
			return flush.Flush()
		})
	})
	return &Server{&http.Server{Handler: mux}}
}

// Serve answers on l until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the lab's control socket: %w", err)
	}
	return nil
}

// Shutdown closes the socket and waits until answers under way, such as the end of the progress, have been sent.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// failure is the body of an answer with a status of 500.
type failure struct {
	Error string `json:"error"`
}

func answer(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := do(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			v = failure{err.Error()}
		}
		_ = json.NewEncoder(w).Encode(v) // the peer is gone: nobody to tell
	}
}

// order answers a request whose body says what to do.
func order[T, A any](do func(context.Context, T) (A, error)) http.HandlerFunc {
	return answer(func(r *http.Request) (any, error) {
		var what T
		if err := json.NewDecoder(r.Body).Decode(&what); err != nil {
			return nil, fmt.Errorf("read the request: %w", err)
		}
		return do(r.Context(), what)
	})
}
