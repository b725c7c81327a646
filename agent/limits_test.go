package agent

import (
	"bufio"
	"crypto/tls"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestWrongMethods pins what a known resource answers to any other method than its own: no envelope, and the right one in Allow.
func TestWrongMethods(t *testing.T) {
	f := startAgent(t, nil)
	right := map[string]string{"/version": "GET"}
	for path, e := range endpoints {
		right["/v2.6"+path] = e.method
	}
	for _, path := range slices.Sorted(maps.Keys(right)) {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO"} {
			if method == right[path] {
				continue
			}
			response, err := f.client.Do(newRequest(t, method, f.url+path))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err != nil || response.StatusCode != 405 || len(body) > 0 || response.Header.Get("Content-Type") != "" || response.Header.Get("Allow") != right[path] {
				t.Errorf("%s %s: %d %q %q, allows %q, %v; want 405 without a body, allowing %s", method, path, response.StatusCode,
					response.Header.Get("Content-Type"), body, response.Header.Get("Allow"), err, right[path])
			}
		}
	}
}

func newRequest(t *testing.T, method, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// raw sends bytes as they are and reads one answer, and whether the agent then closes the connection.
func (f *fixture) raw(t *testing.T, text string) (status int, body string, closes bool) {
	t.Helper()
	conn, err := tls.Dial("tcp", f.cfg.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{f.ca.client(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.40q: %v", text, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%.40q: %v", text, err)
	}
	return response.StatusCode, string(data), response.Close
}

// TestRawRequests are requests that Go's client does not send.
func TestRawRequests(t *testing.T) {
	f := startAgent(t, nil)
	fields := func(n int) string {
		return "GET /version HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", n) + "\r\n"
	}
	target := func(n int) string {
		return "GET /version?" + strings.Repeat("a", n-len("/version?")) + " HTTP/1.1\r\nHost: a\r\n\r\n"
	}
	for _, c := range []struct {
		name, text string
		status     int
		message    string // part of it; "" for no body
		closes     bool
	}{
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405, "Method is not supported", false},
		{"encoded slash", "GET /v2.6/quotes%2fidentity?nonce=a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Use /agent, /keys, or /quotes", false},
		{"encoded letter", "GET /%76ersion HTTP/1.1\r\nHost: a\r\n\r\n", 200, "Success", false},
		{"96 fields", fields(95), 200, "Success", false},
		{"97 fields", fields(96), 431, "", true},
		{"a target of 65534 bytes", target(65534), 200, "Success", false},
		{"a target of 65535 bytes", target(65535), 400, "", true},
		{"a field of 120 KiB", "GET /version HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 120<<10) + "\r\n\r\n", 200, "Success", false},
		{"a field of 129 KiB", "GET /version HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 129<<10) + "\r\n\r\n", 431, "431 Request Header Fields Too Large",
			true},
	} {
		status, body, closes := f.raw(t, c.text)
		if status != c.status || !strings.Contains(body, c.message) || c.message == "" && body != "" || closes != c.closes {
			t.Errorf("%s: %d %q, closes %v; want %d %q, %v", c.name, status, body, closes, c.status, c.message, c.closes)
		}
	}
}
