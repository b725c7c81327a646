package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"keylab.dev/keylab/keylime"
)

// A verifier that still has a quote under way is told once to delete an agent, and then asked until it is gone: before 7.14 the second word would be
// obeyed at once, too early.
func TestForgetTellsOnce(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	answers := []int{http.StatusAccepted, http.StatusOK, http.StatusOK, http.StatusNotFound}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/version" {
			fmt.Fprint(w, `{"code":200,"status":"Success","results":{"current_version":"2.3","supported_versions":["2.3"]}}`)
			return
		}
		asked = append(asked, r.Method+" "+r.URL.Path)
		status := http.StatusNotFound
		if n := len(asked); n <= len(answers) {
			status = answers[n-1]
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"code":%d,"status":"","results":{}}`, status)
	}))
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	v := keylime.NewVerifierClient(strings.TrimPrefix(server.URL, "https://"), &tls.Config{RootCAs: pool}, nil)
	defer v.Close()
	if err := ForgetAll(t.Context(), v, nil, "some-id", nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"DELETE /v2.3/agents/some-id", "GET /v2.3/agents/some-id", "GET /v2.3/agents/some-id", "GET /v2.3/agents/some-id"}
	if !slices.Equal(asked, want) {
		t.Errorf("the verifier was asked %q, want %q", asked, want)
	}
}
