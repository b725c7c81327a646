package spec

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// field is what the struct tags say of one field.
type field struct {
	name  string // in the file
	index int    // in the struct
	rules rules
}

// rules is what a value must keep to.
type rules struct {
	required  bool
	enum      []string
	def       string // the fixed default as text; "" for none
	min, max  string // of a number or a Duration; "" for none
	pattern   *regexp.Regexp
	maxLength int // in characters; 0 for no limit
	maxItems  int
	anyScalar bool // numbers and truth values are read as the text that they are in the file
	content   bool // any text, of several lines too, that no message may repeat
}

var (
	typeSpec     = reflect.TypeFor[Spec]()
	typeNodes    = reflect.TypeFor[Nodes]()
	typePrefix   = reflect.TypeFor[netip.Prefix]()
	typeAddr     = reflect.TypeFor[netip.Addr]()
	typeDuration = reflect.TypeFor[Duration]()
	typeTime     = reflect.TypeFor[time.Time]()
)

// isScalar says whether t is one value in the file, however it looks in Go.
func isScalar(t reflect.Type) bool {
	switch t {
	case typePrefix, typeAddr, typeDuration, typeTime:
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Int, reflect.Bool:
		return true
	}
	return false
}

var fieldCache sync.Map // reflect.Type -> []field

// fieldsOf returns the fields of the struct type t, in order.
func fieldsOf(t reflect.Type) []field {
	if f, ok := fieldCache.Load(t); ok {
		return f.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		fields = append(fields, field{name: name, index: i, rules: parseRules(f.Tag.Get("jsonschema"))})
	}
	fieldCache.Store(t, fields)
	return fields
}

// parseRules reads a jsonschema tag, in which a comma inside of a value is written \, as for invopop/jsonschema.
func parseRules(tag string) rules {
	var r rules
	const comma = "\x00"
	for part := range strings.SplitSeq(strings.ReplaceAll(tag, `\,`, comma), ",") {
		key, value, _ := strings.Cut(strings.ReplaceAll(part, comma, ","), "=")
		switch key {
		case "required":
			r.required = true
		case "enum":
			r.enum = append(r.enum, value)
		case "default":
			r.def = value
		case "minimum":
			r.min = value
		case "maximum":
			r.max = value
		case "pattern":
			r.pattern = regexp.MustCompile(value)
		case "maxLength":
			r.maxLength, _ = strconv.Atoi(value)
		case "maxItems":
			r.maxItems, _ = strconv.Atoi(value)
		case "content":
			r.content = true
		}
	}
	return r
}

// restricted says whether an empty string cannot be what the user wants.
func (r rules) restricted() bool {
	return r.required || r.enum != nil || r.pattern != nil || r.def != ""
}

// rangeText describes the range in words, as in "1 to 500".
func (r rules) rangeText() string {
	switch {
	case r.max == "":
		return r.min + " or more"
	case r.min == "":
		return "up to " + r.max
	}
	return r.min + " to " + r.max
}

// checkString returns what is wrong with s, and what is allowed; "" when nothing is.
func (r rules) checkString(s string) (message, allowed string) {
	if r.content {
		if n := len([]rune(s)); n > r.maxLength {
			return fmt.Sprintf("is %d characters long; at most %d are allowed", n, r.maxLength), fmt.Sprintf("at most %d characters", r.maxLength)
		}
		return "", ""
	}
	if i := strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c >= 0x7f && c < 0xa0 }); i >= 0 {
		return fmt.Sprintf("%s holds a control character", quote(s)), ""
	}
	if r.enum != nil && !slices.Contains(r.enum, s) {
		return fmt.Sprintf("%s is not one of %s%s", quote(s), strings.Join(r.enum, ", "), DidYouMean(s, r.enum)), strings.Join(r.enum, ", ")
	}
	if n := len([]rune(s)); r.maxLength > 0 && n > r.maxLength {
		return fmt.Sprintf("%s is %d characters long", quote(s), n) + fmt.Sprintf("; at most %d are allowed", r.maxLength), fmt.Sprintf("at most %d characters", r.maxLength)
	}
	if r.pattern != nil && !r.pattern.MatchString(s) {
		want := patternText(r.pattern.String())
		return fmt.Sprintf("%s is not %s", quote(s), want), want
	}
	return "", ""
}

// checkInt returns what is wrong with n, and what is allowed; "" when nothing is.
func (r rules) checkInt(n int) (message, allowed string) {
	if low, err := strconv.Atoi(r.min); err == nil && n < low {
		return fmt.Sprintf("%d is too small; allowed is %s", n, r.rangeText()), r.rangeText()
	}
	if high, err := strconv.Atoi(r.max); err == nil && n > high {
		return fmt.Sprintf("%d is too large; allowed is %s", n, r.rangeText()), r.rangeText()
	}
	return "", ""
}

// checkDuration returns what is wrong with d, and what is allowed; "" when nothing is.
func (r rules) checkDuration(d Duration) (message, allowed string) {
	if low, err := ParseDuration(r.min); err == nil && d < low {
		return fmt.Sprintf("%s is too short; allowed is %s", d, r.rangeText()), r.rangeText()
	}
	if high, err := ParseDuration(r.max); err == nil && d > high {
		return fmt.Sprintf("%s is too long; allowed is %s", d, r.rangeText()), r.rangeText()
	}
	return "", ""
}

// patternText says in words what a pattern of types.go wants.
func patternText(pattern string) string {
	switch {
	case strings.HasPrefix(pattern, "^https?"):
		return "an http:// or https:// URL"
	case strings.HasPrefix(pattern, "^(hash_ek"):
		return "hash_ek, generate or a UUID in lower case such as 5b1c9a2e-0d3f-4c55-9e61-7a2f0c8d4b10"
	case strings.HasPrefix(pattern, "^(id:") && strings.Contains(pattern, "[.]"):
		return `a version like "7.2", or id: and eight hexadecimal digits`
	case strings.HasPrefix(pattern, "^(id:"):
		return `one to four characters like "IBM", or id: and eight hexadecimal digits`
	case strings.Contains(pattern, "([.]"):
		return "a DNS name: lower-case letters, digits and inner hyphens, with dots between the labels"
	case strings.HasPrefix(pattern, "^[a-z]("):
		return "a name of lower-case letters, digits and inner hyphens that begins with a letter"
	case strings.HasPrefix(pattern, "^[a-z0-9]"):
		return "a DNS label: lower-case letters, digits and inner hyphens"
	case strings.HasPrefix(pattern, "^/["):
		return "an absolute path in printable ASCII"
	case strings.HasPrefix(pattern, "^sha256:"):
		return "sha256: and 64 hexadecimal digits in lower case"
	case strings.HasPrefix(pattern, "^[ -~]"):
		return "printable ASCII text"
	}
	return "of the form " + pattern
}

// quote returns s in quotes, cut where it is too long for a message.
func quote(s string) string {
	if r := []rune(s); len(r) > 80 {
		s = string(r[:77]) + "..."
	}
	return strconv.Quote(s)
}
