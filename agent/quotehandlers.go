package agent

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/go-tpm/tpm2"
)

// quoteResults is the body of a quote answer; absent parts are left out.
type quoteResults struct {
	Quote        string  `json:"quote"`
	HashAlg      string  `json:"hash_alg"`
	EncAlg       string  `json:"enc_alg"`
	SignAlg      string  `json:"sign_alg"`
	Pubkey       *string `json:"pubkey,omitempty"`
	IMAList      *string `json:"ima_measurement_list,omitempty"`
	BootLog      *string `json:"mb_measurement_list,omitempty"`
	IMAListEntry *uint64 `json:"ima_measurement_list_entry,omitempty"`
}

var errQuote = failure(http.StatusInternalServerError, "Unable to retrieve quote")

// identityQuote serves the tenant: PCR 16 only, always with the public key.
func (a *Agent) identityQuote(r *request) answer {
	query, problem := parameters(r, "nonce")
	if problem != nil {
		return *problem
	}
	nonce := query.Get("nonce")
	if !alphanumeric(nonce) {
		return badRequest("Parameters should be strictly alphanumeric: %s", nonce)
	}
	if len(nonce) > maxNonce {
		return badRequest("Nonce is too long (max size %d): %s", maxNonce, nonce)
	}
	results, ok := a.quoteFor(r, nonce, 0)
	if !ok {
		return errQuote
	}
	results.Pubkey = &a.payloadPEM
	return success(results)
}

// integrityQuote serves the verifier: the PCRs of the mask and PCR 16, with the
// logs that explain them.
func (a *Agent) integrityQuote(r *request) answer {
	query, problem := parameters(r, "nonce", "mask", "partial", optional("ima_ml_entry"))
	if problem != nil {
		return *problem
	}
	nonce, maskText := query.Get("nonce"), query.Get("mask")
	if !alphanumeric(nonce) {
		return badRequest("nonce should be strictly alphanumeric: %s", nonce)
	}
	if !alphanumeric(maskText) {
		return badRequest("mask should be strictly alphanumeric: %s", maskText)
	}
	mask, err := parseMask(maskText)
	if err != nil {
		return badRequest("mask should be a hex encoded 32-bit integer: %s", maskText)
	}
	if len(nonce) > maxNonce {
		return badRequest("Nonce is too long (max size: %d): %d", maxNonce, len(nonce))
	}
	partial := query.Get("partial")
	if partial != "0" && partial != "1" {
		return badRequest("uri must contain key 'partial' and value '0' or '1'")
	}
	results, ok := a.quoteFor(r, nonce, mask)
	if !ok {
		return errQuote
	}
	if partial == "0" {
		results.Pubkey = &a.payloadPEM
	}
	if mask&1 == 1 && a.cfg.MeasuredBootLog != nil {
		// Like the Rust agent: a log that cannot be read is left out, and the
		// verifier's policy decides what that means.
		if log, err := a.cfg.MeasuredBootLog(); err != nil {
			a.log.Warn("reading the measured boot log", "error", err)
		} else {
			text := base64.StdEncoding.EncodeToString(log)
			results.BootLog = &text
		}
	}
	if a.cfg.IMAList != nil {
		entry, _ := strconv.ParseUint(query.Get("ima_ml_entry"), 10, 64) // 0 when absent or not a number
		list, first, err := a.imaList(entry)
		if err != nil {
			a.log.Error("reading the IMA list", "error", err)
			return errQuote
		}
		results.IMAList, results.IMAListEntry = &list, &first
	}
	return success(results)
}

func (a *Agent) quoteFor(r *request, nonce string, mask uint32) (*quoteResults, bool) {
	text, err := a.quote(r.Context(), []byte(nonce), mask)
	if err != nil {
		if r.Context().Err() == nil || !errors.Is(err, r.Context().Err()) {
			a.log.Error("making a quote", "error", err)
		}
		return nil, false
	}
	return &quoteResults{
		Quote:   text,
		HashAlg: a.cfg.HashAlgorithm,
		EncAlg:  a.encAlg(r.version),
		SignAlg: a.cfg.AKAlgorithm,
	}, true
}

// encAlg names the AK's key type; since API 2.5 with its size.
func (a *Agent) encAlg(version string) string {
	name, size := "rsa", "2048"
	if a.ak.area.Type == tpm2.TPMAlgECC {
		name, size = "ecc", "256"
	}
	if version < "2.5" {
		return name
	}
	return name + size
}

// info answers GET /agent/info.
func (a *Agent) info(r *request) answer {
	return success(struct {
		UUID    string `json:"agent_uuid"`
		HashAlg string `json:"tpm_hash_alg"`
		EncAlg  string `json:"tpm_enc_alg"`
		SignAlg string `json:"tpm_sign_alg"`
		AK      uint32 `json:"ak_handle"`
	}{a.uuid, a.cfg.HashAlgorithm, a.encAlg(r.version), a.cfg.AKAlgorithm, a.akHandle(r)})
}

// optional marks the name of a parameter that need not be there.
func optional(name string) string { return "?" + name }

// parameters parses the query and demands that each of names is there, if it is
// not optional, and no more than once.
func parameters(r *request, names ...string) (url.Values, *answer) {
	query := r.URL.Query()
	for _, name := range names {
		name, optional := strings.CutPrefix(name, "?")
		switch values, ok := query[name]; {
		case !ok && !optional:
			a := badRequest("Query deserialize error: missing field `%s`", name)
			return nil, &a
		case len(values) > 1:
			a := badRequest("Query deserialize error: duplicate field `%s`", name)
			return nil, &a
		}
	}
	return query, nil
}

// alphanumeric admits letters and digits of any script, and the empty text, as
// the Rust agent does: Unicode's properties Alphabetic and Numeric.
func alphanumeric(text string) bool {
	for _, c := range text {
		if !unicode.IsLetter(c) && !unicode.IsNumber(c) && !unicode.Is(unicode.Other_Alphabetic, c) {
			return false
		}
	}
	return true
}

// parseMask reads a hexadecimal mask with or without leading "0x".
func parseMask(text string) (uint32, error) {
	for strings.HasPrefix(text, "0x") {
		text = text[2:]
	}
	mask, err := strconv.ParseUint(text, 16, 32)
	return uint32(mask), err
}
