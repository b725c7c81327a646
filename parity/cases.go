package parity

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Cases are all cases, in the order in which they are done: what needs an agent without a payload key comes before what gives it one.
func Cases() []Case {
	all := slices.Concat(pathCases(), methodCases(), identityCases(), integrityCases(), readCases(), bodyCases(), keyCases(), revocationCases(),
		httpCases(), sizeCases(), connectionCases(), slowCases(), tlsCases(), http2Cases(), directCases())
	for i := range all {
		all[i].Reason = reasonFor(all[i].ID())
	}
	return all
}

// get is a case of one GET request.
func get(group, name, path string) Case {
	return single(group, name, request{method: http.MethodGet, path: path})
}

// single is a case of one request on a connection of its own.
func single(group, name string, r request) Case {
	return Case{Group: group, Name: name, Do: func(ctx context.Context, t *Target) Observation {
		o, _ := t.exchange(ctx, r)
		return o
	}}
}

const jsonType = "Content-Type: application/json"

func post(path, body string, fields ...string) request {
	if len(fields) == 0 {
		fields = []string{jsonType}
	}
	return request{method: http.MethodPost, path: path, fields: fields, body: []byte(body)}
}

// pathCases are about what is found where.
func pathCases() []Case {
	var cases []Case
	for _, p := range []string{
		"/version", "/version/", "/version?x=y", "//version", "/VERSION", "/%76ersion", "/./version", "/v2.6/../version", "/version%00",
		"/", "/nowhere", "/v2.6", "/v2.6/", "/v2.6/version", "/v2.6/nowhere", "/v2.6/nowhere/at/all", "/v2.6/keys", "/v2.6/keys/", "/v2.6/keys/nothing",
		"/v2.6/quotes", "/v2.6/quotes/", "/v2.6/quotes/nothing", "/v2.6/quotes/identity/", "/v2.6/quotes/identity/more", "/v2.6//quotes/identity?nonce=abc",
		"/v2.6/quotes//identity?nonce=abc", "/v2.6/quotes%2Fidentity?nonce=abc", "/v2.6/quotes/%69dentity?nonce=abc", "/v2.6/Quotes/identity?nonce=abc",
		"/v2.6/notifications", "/v2.6/notifications/nothing", "/v2.6/agent", "/v2.6/agent/nothing", "/v2.6/quotes/identity;x=y?nonce=abc",
	} {
		cases = append(cases, get("paths", "GET "+p, p))
	}
	for _, p := range []string{"/", "/nowhere", "/v2.6", "/v2.6/nowhere", "/v2.6/keys/nothing", "/v2.6/quotes/nothing", "/v2.6/notifications/nothing",
		"/v2.6/agent/nothing"} {
		for _, m := range []string{http.MethodPost, http.MethodPut, http.MethodHead} {
			cases = append(cases, single("paths", m+" "+p, request{method: m, path: p}))
		}
	}
	for _, v := range []string{"v1.0", "v2.0", "v2.1", "v2.2", "v2.3", "v2.4", "v2.5", "v2.6", "v2.7", "v3.0", "v9.9", "v2", "v2.06", "v02.6", "v2.6.1", "V2.6",
		"2.6", "v", "v-2.6", "v2.6x", "v99999999999999999999.1", "v２.６"} {
		cases = append(cases, get("API versions", v+" identity quote", "/"+escape(v)+"/quotes/identity?nonce=abc"),
			get("API versions", v+" agent info", "/"+escape(v)+"/agent/info"))
	}
	cases = append(cases, get("API versions", "none", "/quotes/identity?nonce=abc"), get("API versions", "v9.9 alone", "/v9.9"), get("API versions",
		"v9.9 unknown path", "/v9.9/x/y"),
		single("API versions", "POST v9.9", request{method: "POST", path: "/v9.9/keys/ukey"}), single("API versions", "PUT v9.9", request{method: "PUT",
			path: "/v9.9/keys/ukey"}))
	return cases
}

// escape percent-encodes what is not ASCII.
func escape(text string) string {
	var out strings.Builder
	for _, b := range []byte(text) {
		if b < 0x80 {
			out.WriteByte(b)
		} else {
			fmt.Fprintf(&out, "%%%02X", b)
		}
	}
	return out.String()
}

// methodCases try every other method on every endpoint.
func methodCases() []Case {
	var cases []Case
	for _, e := range []struct{ method, path string }{
		{"GET", "/version"}, {"GET", "/v2.6/agent/info"}, {"GET", "/v2.6/quotes/identity?nonce=abc"}, {"GET", "/v2.6/quotes/integrity?nonce=abc&mask=0x0&partial=1"},
		{"GET", "/v2.6/keys/pubkey"}, {"GET", "/v2.6/keys/verify?challenge=abc"}, {"POST", "/v2.6/keys/ukey"}, {"POST", "/v2.6/keys/vkey"},
		{"POST", "/v2.6/notifications/revocation"},
	} {
		name, _, _ := strings.Cut(e.path, "?")
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get"} {
			if m != e.method {
				cases = append(cases, single("methods", m+" "+name, request{method: m, path: e.path}))
			}
		}
	}
	return append(cases, single("methods", "OPTIONS *", request{method: "OPTIONS", path: "*"}),
		single("methods", "CONNECT", request{method: "CONNECT", path: "agent.test:443"}),
		single("methods", "a POST with a body where only GET is", post("/v2.6/quotes/identity?nonce=abc", `{"a":1}`)),
		single("methods", "a GET with a body", request{method: "GET", path: "/version", body: []byte("hello")}))
}

// readCases are the other endpoints that are read.
func readCases() []Case {
	return []Case{
		get("keys", "pubkey", "/v2.6/keys/pubkey"),
		get("keys", "pubkey with parameters", "/v2.6/keys/pubkey?x=y"),
		get("keys", "verify without a challenge", "/v2.6/keys/verify"),
		get("keys", "verify with an empty challenge", "/v2.6/keys/verify?challenge="),
		get("keys", "verify with two challenges", "/v2.6/keys/verify?challenge=a&challenge=b"),
		get("keys", "verify with a bad challenge", "/v2.6/keys/verify?challenge=a-b"),
		get("keys", "verify before there is a key", "/v2.6/keys/verify?challenge=abc"),
	}
}

// identityCases are about the quote for the tenant.
func identityCases() []Case {
	const path = "/v2.6/quotes/identity"
	long := strings.Repeat("a", 64)
	cases := []Case{
		get("identity quote", "good", path+"?nonce=abcdefghij0123456789"),
		get("identity quote", "no nonce", path), get("identity quote", "other parameters alone", path+"?mask=0x1"),
		get("identity quote", "nonce and others", path+"?nonce=abc&mask=0x1&partial=9"),
	}
	for _, n := range []struct{ name, value string }{
		{"empty", ""}, {"of 64 characters", long}, {"of 65 characters", long + "a"}, {"of 1000 characters", strings.Repeat("a", 1000)},
		{"with a hyphen", "a-b"}, {"with a space", "a%20b"}, {"with a plus", "a+b"}, {"with a slash", "a/b"}, {"with NUL", "a%00b"}, {"with a newline", "a%0Ab"},
		{"percent-encoded", "%61%62"}, {"of letters that are not ASCII", "%C3%A4%D0%B6"}, {"of 22 CJK letters, 66 bytes", strings.Repeat("%E4%B8%AD", 22)},
		{"of other digits", "%D9%A1%C2%B2"}, {"of a circled letter", "%E2%92%B6"}, {"that is not UTF-8", "a%FF"}, {"with a broken escape", "a%zz"},
		{"with a percent sign at its end", "a%"},
		{"with a semicolon", "a;b"}, {"and an empty second one", "a&nonce="}, {"and the same again", "a&nonce=a"}, {"with an equals sign", "a=b"},
		{"with a hash", "a#b"},
	} {
		cases = append(cases, get("identity quote", "nonce "+n.name, path+"?nonce="+n.value))
	}
	return append(cases, get("identity quote", "nonce without a value", path+"?nonce"), get("identity quote", "NONCE", path+"?NONCE=abc"),
		get("identity quote", "escaped name", path+"?%6Eonce=abc"), get("identity quote", "empty pairs", path+"?&&nonce=abc&"))
}

// integrityCases are about the quote for the verifier.
func integrityCases() []Case {
	const path = "/v2.6/quotes/integrity"
	query := func(nonce, mask, partial string) string {
		return path + "?nonce=" + nonce + "&mask=" + mask + "&partial=" + partial
	}
	cases := []Case{
		get("integrity quote", "good", query("abcdefghij0123456789", "0x408000", "0")+"&ima_ml_entry=0"),
		get("integrity quote", "no parameter", path),
		get("integrity quote", "no nonce", path+"?mask=0x1&partial=0"), get("integrity quote", "no mask", path+"?nonce=abc&partial=0"),
		get("integrity quote", "no partial", path+"?nonce=abc&mask=0x1"), get("integrity quote", "unknown parameter", query("abc", "0x1", "0")+"&x=y"),
		get("integrity quote", "two masks", query("abc", "0x1", "0")+"&mask=0x2"), get("integrity quote", "two partials", query("abc", "0x1", "0")+"&partial=0"),
		get("integrity quote", "empty nonce", query("", "0x1", "0")), get("integrity quote", "bad nonce", query("a-b", "0x1", "0")),
		get("integrity quote", "nonce of 64 characters", query(strings.Repeat("a", 64), "0x1", "0")),
		get("integrity quote", "nonce of 65 characters", query(strings.Repeat("a", 65), "0x1", "0")),
	}
	for _, m := range []string{"0x0", "0", "0x1", "0x3ff", "0x7fff", "0xffff", "0x10000", "0x10001", "0x400", "400", "0x800000", "0xffffff", "0xFFFFFF",
		"0x1000000", "0x80000000", "0xffffffff",
		"0x100000000", "0x", "", "zz", "0xzz", "-1", "%2B1", "0X1", "0x0x1", "x1", "0x1%20", "0b1", "%D9%A1", "00000000000000000000000001", "0x1_0"} {
		cases = append(cases, get("integrity quote", "mask "+quoted(m), query("abc", m, "1")))
	}
	for _, p := range []string{"0", "1", "", "2", "00", "true", "%30"} {
		cases = append(cases, get("integrity quote", "partial "+quoted(p), query("abc", "0x1", p)))
	}
	for _, e := range []string{"0", "1", "7", "", "abc", "-1", "%2B1", "1.5", "18446744073709551615", "99999999999999999999"} {
		cases = append(cases, get("integrity quote", "ima_ml_entry "+quoted(e), query("abc", "0x400", "1")+"&ima_ml_entry="+e))
	}
	return append(cases, get("integrity quote", "two ima_ml_entry", query("abc", "0x400", "1")+"&ima_ml_entry=0&ima_ml_entry=0"))
}

// quoted shows an empty value as one.
func quoted(s string) string {
	if s == "" {
		return `""`
	}
	return s
}
