package spec

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Day and Year are the lengths of Duration's own units: 24 hours, and 365 days. Calendars are left aside on purpose, so
// that a duration is one number.
const (
	Day  = 24 * time.Hour
	Year = 365 * Day
)

// Duration is a length of time, written as Go writes it ("2s", "1h30m") with years and days in front of that: "10y", "365d",
// "1y30d12h". It is never negative.
type Duration time.Duration

// DurationPattern is the syntax of a Duration as a regular expression, for the JSON Schema.
const DurationPattern = `^([0-9]+y)?([0-9]+d)?([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))*$`

var durationSyntax = regexp.MustCompile(DurationPattern)

// Std returns d as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns d in the form that ParseDuration reads, in its largest units: "10y", "90d", "2m".
func (d Duration) String() string {
	rest := time.Duration(d)
	if rest <= 0 {
		return rest.String()
	}
	var b strings.Builder
	for _, u := range []struct {
		length time.Duration
		name   string
	}{{Year, "y"}, {Day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if n := rest / u.length; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			rest %= u.length
		}
	}
	if rest > 0 {
		b.WriteString(rest.String())
	}
	return b.String()
}

// ParseDuration reads a Duration. It fails for other syntax, for a negative length and for one of more than 292 years, which is
// all that a time.Duration holds.
func ParseDuration(s string) (Duration, error) {
	m := durationSyntax.FindStringSubmatch(s)
	if s == "" || m == nil {
		return 0, fmt.Errorf("%q is not a duration: write it like 2s, 1h30m, 90d or 10y", s)
	}
	var total time.Duration
	for i, unit := range []time.Duration{Year, Day} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimRight(m[i+1], "yd"), 10, 64)
		if err != nil || n > int64((math.MaxInt64-total)/unit) {
			return 0, fmt.Errorf("%q is longer than 292 years, the longest duration that can be kept", s)
		}
		total += time.Duration(n) * unit
	}
	if rest := s[len(m[1])+len(m[2]):]; rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d > math.MaxInt64-total {
			return 0, fmt.Errorf("%q is longer than 292 years, the longest duration that can be kept", s)
		}
		total += d
	}
	return Duration(total), nil
}

// MarshalText writes d as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
