package scenario

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// request is the request with what it leaves out.
func (h HTTP) request() control.HTTPRequest {
	return control.HTTPRequest{
		From: cmp.Or(h.From, plan.Tenant), To: h.To, Method: cmp.Or(h.Method, http.MethodGet), Path: h.Path, Body: h.Body, As: cmp.Or(h.As, control.AsClient),
	}
}

// http checks what an expectation says of a request.
func (c *checker) http(path string, h HTTP) {
	if err := h.request().Check(); err != nil {
		c.add(path, err.Error(), "")
	}
	if to := []string{plan.Registrar, plan.Verifier}; h.To != "any" && !slices.Contains(to, h.To) && !slices.Contains(c.nodes, h.To) && !c.joins(h.To) {
		c.oneOf(path+".to", h.To, append(to, c.nodes...)...)
	}
	if (h.Status == 0) == (h.Error == "") {
		c.add(path, "needs a status, or an error where no answer may come: one of them", "")
	}
	c.pattern(path+".error", h.Error)
	c.template(path+".path", h.Path)
	c.template(path+".body", h.Body)
}

// http makes the request, and looks at what comes of it.
func (r *runner) http(ctx context.Context, w Condition) (bool, string) {
	status, err := r.lab.Status(ctx)
	if err != nil {
		return false, err.Error()
	}
	h := *w.HTTP
	texts, err := r.cast.expand([]string{h.Path, h.Body}, status)
	if err != nil {
		return false, err.Error()
	}
	h.Path, h.Body, h.To = texts[0], texts[1], r.cast.resolve([]string{h.To})[0]
	a, err := r.lab.HTTP(ctx, h.request())
	switch {
	case err != nil:
		return false, err.Error()
	case a.Status == 0:
		return h.Error != "" && found(h.Error, a.Error), "no answer: " + a.Error
	}
	return a.Status == h.Status && found(w.Output, a.Body), fmt.Sprintf("%s answered %d: %q", h.To, a.Status, clip(a.Body))
}

// sentence is the request and what must come of it, in a few words.
func (h HTTP) sentence(output string) string {
	q := h.request()
	text := fmt.Sprintf("%s %s of %s, asked from %s", q.Method, q.Path, q.To, q.From)
	switch q.As {
	case control.AsAnonymous:
		text += " without a client certificate"
	case control.AsPlain:
		text += " without TLS"
	}
	if h.Error != "" {
		return text + fmt.Sprintf(", to have no answer: %q", h.Error)
	}
	text += fmt.Sprintf(", to be answered %d", h.Status)
	if output != "" {
		text += fmt.Sprintf(" with %q", output)
	}
	return strings.TrimSpace(text)
}
