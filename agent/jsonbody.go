package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// maxBody is the largest request body in bytes; the Rust agent's web framework
// has the same limit and it, too, answers 400 beyond.
const maxBody = 2 << 20

// readTexts reads a body under the Rust agent's conditions: a JSON content type,
// at most maxBody bytes, and an object with these texts (see parseTexts). It
// returns them, or what to answer.
func readTexts(r *request, required []string, optional ...string) (map[string]string, *answer) {
	refuse := func(format string, args ...any) (map[string]string, *answer) {
		reply := badRequest(format, args...)
		return nil, &reply
	}
	if !isJSON(r.Header) {
		return refuse("Content type error: want application/json")
	}
	if r.ContentLength > maxBody {
		return refuse("JSON payload (%d bytes) is larger than allowed (limit: %d bytes)", r.ContentLength, maxBody)
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return refuse("reading the body: %v", err)
	}
	if len(data) > maxBody {
		return refuse("JSON payload has exceeded limit (%d bytes)", maxBody)
	}
	texts, err := parseTexts(data, required, optional...)
	if err != nil {
		return refuse("Json deserialize error: %v", err)
	}
	return texts, nil
}

// isJSON is actix-web's rule: the subtype is json, or ends in +json, of any type.
func isJSON(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (strings.HasSuffix(kind, "/json") || strings.HasSuffix(kind, "+json"))
}

// parseTexts reads a JSON object as serde's derived code does, which is stricter
// than encoding/json: names of fields in their exact letters, each once, no null
// for a required one, and nothing but white space after the object. Fields with
// other names are ignored, an optional null is as if absent.
func parseTexts(data []byte, required []string, optional ...string) (map[string]string, error) {
	in := json.NewDecoder(bytes.NewReader(data))
	first, err := in.Token()
	if err != nil {
		return nil, err
	}
	if first != json.Delim('{') {
		return nil, errors.New("want an object")
	}
	texts, seen := map[string]string{}, map[string]bool{}
	for in.More() {
		token, err := in.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder admits nothing else here
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return nil, err
		}
		needed := slices.Contains(required, name)
		if !needed && !slices.Contains(optional, name) {
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("duplicate field `%s`", name)
		}
		seen[name] = true
		if string(value) == "null" && !needed {
			continue
		}
		if value[0] != '"' {
			return nil, fmt.Errorf("field `%s`: want a string", name)
		}
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return nil, fmt.Errorf("field `%s`: %w", name, err)
		}
		texts[name] = text
	}
	if _, err := in.Token(); err != nil { // the closing brace
		return nil, err
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("trailing characters")
	}
	for _, name := range required {
		if !seen[name] {
			return nil, fmt.Errorf("missing field `%s`", name)
		}
	}
	return texts, nil
}
