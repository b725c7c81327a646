package parity

import (
	"context"
	"fmt"
	"strings"
)

// Case is one thing that is done to an agent at its own interface.
type Case struct {
	Group, Name string // together unique
	// Direct: not through router and ingress, but on the agent's own host, to the address on which it listens. For what an ingress, which
	// goes by the server name of TLS, does not let through.
	Direct bool
	// Ingress: what answers is the ingress, so that without one the case is of no use.
	Ingress bool
	// Slow: it waits for deadlines of the agent. Slow cases run at the same time, after all others.
	Slow bool
	// Reason says why the agents differ here, or is empty.
	Reason string
	Do     func(ctx context.Context, t *Target) Observation
}

// ID names the case in records and messages.
func (c Case) ID() string { return c.Group + ": " + c.Name }

// Observation is what came back, made comparable.
type Observation struct {
	Answers []Answer `json:"answers,omitempty"` // HTTP answers, in order
	// End tells how it went on or why there is no answer, as "closed" or "TLS alert: unknown certificate authority".
	End string `json:"end,omitempty"`
	// Note is for the reader, and is not compared: a time, for instance.
	Note string `json:"note,omitempty"`
}

// Answer is one HTTP answer.
type Answer struct {
	Status int    `json:"status"`
	Type   string `json:"type,omitempty"`  // content type
	Allow  string `json:"allow,omitempty"` // Allow field of a 405 (RFC 9110, section 10.2.1), sorted
	Body   string `json:"body,omitempty"`  // its shape
}

func (a Answer) String() string {
	parts := []string{fmt.Sprint(a.Status)}
	if a.Type != "" && a.Type != "application/json" {
		parts = append(parts, a.Type)
	}
	if a.Allow != "" {
		parts = append(parts, "(allows "+a.Allow+")")
	}
	if a.Type == "" && a.Body == shapeNothing {
		return strings.Join(append(parts, "nothing"), " ")
	}
	if a.Type == "" {
		parts = append(parts, "untyped")
	}
	return strings.Join(append(parts, a.Body), " ")
}

// String is the observation without its note: two are the same if their strings are.
func (o Observation) String() string {
	var parts []string
	for i := 0; i < len(o.Answers); {
		n := 1
		for i+n < len(o.Answers) && o.Answers[i+n] == o.Answers[i] {
			n++
		}
		text := o.Answers[i].String()
		if n > 1 {
			text = fmt.Sprintf("%d × %s", n, text)
		}
		parts = append(parts, text)
		i += n
	}
	if o.End != "" {
		parts = append(parts, o.End)
	}
	return strings.Join(parts, "; ")
}

// Same compares two observations.
func (o Observation) Same(p Observation) bool { return o.String() == p.String() }

// Observations are those of one agent, by [Case.ID].
type Observations map[string]Observation
