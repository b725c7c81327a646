package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// scalar reads one value. What a rule says of the value is left to Validate, which sees values made in Go too; only what
// would be lost, because an empty value is one that is left out, is checked here.
func (d *decoder) scalar(n, use *yaml.Node, v reflect.Value, path string, r rules) {
	fail := func(message, allowed string) { d.add(at(use), path, message, allowed) }
	if n.Kind != yaml.ScalarNode {
		fail(fmt.Sprintf("needs %s, not %s", r.words(v.Type()), describe(n)), r.words(v.Type()))
		return
	}
	tag := n.ShortTag()
	wrong := func() { fail(fmt.Sprintf("needs %s, not %s", r.words(v.Type()), describe(n)), r.words(v.Type())) }

	switch {
	case v.Type() == typeDuration:
		if tag == "!!int" || tag == "!!float" {
			fail(fmt.Sprintf("needs a unit: %s of what? Write a duration like 2s, 1h30m, 90d or 10y", n.Value), r.words(v.Type()))
			return
		}
		dur, err := ParseDuration(n.Value)
		if tag != "!!str" || err != nil {
			fail(fmt.Sprintf("%s is not a duration: write it like 2s, 1h30m, 90d or 10y; the longest is 292y", quote(n.Value)), r.words(v.Type()))
			return
		}
		if message, allowed := r.checkDuration(dur); dur == 0 && message != "" {
			fail(message, allowed)
			return
		}
		v.SetInt(int64(dur))

	case v.Type() == typeTime:
		t, err := parseTime(n.Value)
		if err != nil {
			fail(fmt.Sprintf("%s is not a date like 2020-12-31 or a time like 2020-12-31T23:59:59Z", quote(n.Value)), r.words(v.Type()))
			return
		}
		v.Set(reflect.ValueOf(t))

	case v.Type() == typePrefix:
		p, err := netip.ParsePrefix(n.Value)
		if tag != "!!str" || err != nil {
			fail(fmt.Sprintf("%s is not a network like 198.18.10.0/24", quote(n.Value)), r.words(v.Type()))
			return
		}
		v.Set(reflect.ValueOf(p))

	case v.Type() == typeAddr:
		a, err := netip.ParseAddr(n.Value)
		if tag != "!!str" || err != nil {
			fail(fmt.Sprintf("%s is not an address like 198.18.20.200", quote(n.Value)), r.words(v.Type()))
			return
		}
		v.Set(reflect.ValueOf(a))

	case v.Kind() == reflect.Bool:
		if tag != "!!bool" {
			wrong()
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))

	case v.Kind() == reflect.Int:
		i, err := parseInt(n.Value)
		if tag != "!!int" && !errors.Is(err, strconv.ErrRange) {
			wrong()
			return
		}
		if err != nil {
			fail(fmt.Sprintf("%s is out of range; allowed is %s", quote(n.Value), r.rangeText()), r.rangeText())
			return
		}
		if message, allowed := r.checkInt(i); message != "" {
			fail(message, allowed)
			return
		}
		v.SetInt(int64(i))

	case v.Kind() == reflect.String:
		if tag != "!!str" && r.content {
			fail("needs text: put it in quotes", r.words(v.Type()))
			return
		}
		if tag != "!!str" && !r.anyScalar {
			fail(fmt.Sprintf("needs text, not %s: put it in quotes, as in %q", describe(n), n.Value), r.words(v.Type()))
			return
		}
		if n.Value == "" && r.restricted() {
			fail("is empty: give it a value, or remove it", r.words(v.Type()))
			return
		}
		v.SetString(n.Value)
	}
}

// parseInt reads an integer in any of YAML's notations.
func parseInt(s string) (int, error) {
	i, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 0, 32)
	return int(i), err
}

// parseTime reads a date, which stands for its first moment in UTC, or a time as in RFC 3339. Certificates have no
// fractions of seconds and years of four digits (RFC 5280, section 4.1.2.5), so the time has them neither.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	if err != nil {
		return time.Time{}, err
	}
	t = t.UTC().Truncate(time.Second)
	if t.Year() < 1950 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("the year %d is outside of 1950 to 9999", t.Year())
	}
	return t, nil
}

// words says what kind of value a field of type t needs.
func (r rules) words(t reflect.Type) string {
	switch t {
	case typeDuration:
		return "a duration"
	case typeTime:
		return "a date or time"
	case typePrefix:
		return "a network"
	case typeAddr:
		return "an address"
	case typeNodes:
		return "a number or a list"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		if r.min != "" || r.max != "" {
			return "a whole number from " + r.rangeText()
		}
		return "a whole number"
	case reflect.String:
		if r.enum != nil {
			return "one of " + strings.Join(r.enum, ", ")
		}
		return "text"
	case reflect.Slice:
		return "a list"
	}
	return "a mapping"
}

// describe says what stands in the file at n.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the truth value " + n.Value
	case "!!null":
		return "an empty value"
	case "!!timestamp":
		return "the date " + n.Value
	case "!!str":
		return "the text " + quote(n.Value)
	}
	return "a value with the tag " + quote(n.Tag)
}
