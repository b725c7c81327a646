package agent

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestParseTexts pins how bodies are read to serde, with which the Rust agent reads them.
func TestParseTexts(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // the texts, or the error
	}{
		{`{"a":"1","b":"2"}`, "map[a:1 b:2]"},
		{" {\t\"a\" :\n\"\\u0031\" , \"c\" : \"3\"\r} \n", "map[a:1 c:3]"},
		{`{"a":""}`, "map[a:]"},
		{`{"a":"1","c":null}`, "map[a:1]"},
		{`{"a":"1","x":1,"x":[{}]}`, "map[a:1]"},
		{`{}`, "missing field `a`"},
		{`{"c":"1"}`, "missing field `a`"},
		{`{"A":"1"}`, "missing field `a`"},
		{`{"a":null}`, "field `a`: want a string"},
		{`{"a":1}`, "field `a`: want a string"},
		{`{"a":"1","c":{}}`, "field `c`: want a string"},
		{`{"a":"1","a":"1"}`, "duplicate field `a`"},
		{`{"a":"1","c":null,"c":"2"}`, "duplicate field `c`"},
		{`null`, "want an object"},
		{`["1"]`, "want an object"},
		{`{"a":"1"}}`, "trailing characters"},
		{`{"a":"1"} {}`, "trailing characters"},
		{``, "EOF"},
		{`{"a":"1"`, "EOF"},
		{`{"a":"1",}`, "invalid character '}'"},
		{`{"a":"1" "b":"2"}`, "invalid character '\"'"},
		{`{"a" "1"}`, "expected colon"},
		{`{a:"1"}`, "invalid character 'a'"},
		{"{\"a\":\"\n\"}", "invalid character '\\n'"},
	} {
		texts, err := parseTexts([]byte(c.text), []string{"a"}, "b", "c")
		if got := fmt.Sprint(texts); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %s", c.text, got, err, c.want)
		}
	}
}

// TestContentTypes: JSON is known by its subtype, of whatever type.
func TestContentTypes(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/json": true, "APPLICATION/JSON; charset=utf-8": true, "text/json": true, "application/vnd.api+json": true,
		"": false, "json": false, "text/plain": false, "application/jsonx": false, "application/json, text/plain": false,
	} {
		if got := isJSON(http.Header{"Content-Type": {kind}}); got != want {
			t.Errorf("content type %q: %v, want %v", kind, got, want)
		}
	}
}
