package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"keylab.dev/keylab/agent"
)

// Names of common bodies.
const (
	shapeNothing = "nothing"
	shapeError   = "error"    // {"code": as the status, "status": text, "results": {}}
	shapeSuccess = "success"  // {"code": 200, "status": text, "results": null}
	shapeNotJSON = "not JSON" // and not empty
)

// telling are keys whose values a client goes by, so that they are part of the shape.
var telling = map[string]bool{"hash_alg": true, "enc_alg": true, "sign_alg": true, "tpm_hash_alg": true, "tpm_enc_alg": true, "tpm_sign_alg": true,
	"supported_version": true, "supported_versions": true}

// shape tells what a body is without its random values. quote describes the text of a quote.
func shape(status int, body []byte, quote func(string) string) string {
	if len(bytes.TrimSpace(body)) == 0 {
		return shapeNothing
	}
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber()
	var v any
	if err := in.Decode(&v); err != nil {
		return shapeNotJSON
	}
	if _, err := in.Token(); err != io.EOF {
		return shapeNotJSON
	}
	envelope, ok := v.(map[string]any)
	if !ok || !isEnvelope(envelope, status) {
		return describe("", v, quote)
	}
	switch results := envelope["results"].(type) {
	case nil:
		return shapeSuccess
	case map[string]any:
		if len(results) == 0 {
			return shapeError
		}
	}
	return describe("", envelope["results"], quote)
}

// isEnvelope tells whether a body is one of Keylime's: code, which repeats the status, status and results, and nothing else.
func isEnvelope(v map[string]any, status int) bool {
	_, text := v["status"].(string)
	_, results := v["results"]
	return len(v) == 3 && text && results && v["code"] == json.Number(fmt.Sprint(status))
}

// describe is the shape of one value that stands under a key.
func describe(key string, v any, quote func(string) string) string {
	switch x := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(x)) {
			parts = append(parts, k+": "+describe(k, x[k], quote))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		var kinds []string
		for _, e := range x {
			if kind := describe(key, e, quote); !slices.Contains(kinds, kind) {
				kinds = append(kinds, kind)
			}
		}
		return "[" + strings.Join(kinds, " ") + "]"
	case string:
		switch {
		case telling[key]:
			return x
		case key == "quote" && quote != nil:
			return quote(x)
		case strings.HasPrefix(x, "-----BEGIN "):
			first, _, _ := strings.Cut(x, "\n")
			return "PEM " + strings.ToLower(strings.Trim(strings.TrimPrefix(first, "-----BEGIN "), "-"))
		}
		return "text"
	case json.Number:
		return "number"
	case bool:
		return "boolean"
	}
	return "null"
}

// describeQuote checks the text of a quote as a verifier would: by the registered AK (TPM2B_PUBLIC) and over the nonce.
func describeQuote(text string, ak []byte, nonce string) string {
	body, err := json.Marshal(map[string]any{"results": map[string]string{"quote": text}})
	if err != nil {
		return "a quote that is no text"
	}
	answer, err := agent.CheckAnswer(body, ak, nonce)
	if err != nil {
		return "a bad quote"
	}
	return "a good quote of PCRs " + ranges(answer.Quote.PCRs)
}

// ranges writes ascending numbers short: 0-9,16.
func ranges(numbers []uint) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		if j == i {
			parts = append(parts, fmt.Sprint(numbers[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", numbers[i], numbers[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
