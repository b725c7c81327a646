package html

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"keylab.dev/keylab/report"
)

// oneLine is printable text on one line.
func oneLine(s string) string { return strings.Join(strings.Fields(report.Clean(s)), " ") }

// paragraphs splits text at empty lines. Line ends within one are those of the file that it was written in, and mean nothing.
func paragraphs(s string) []string {
	var out []string
	for p := range strings.SplitSeq(report.Clean(s), "\n\n") {
		if p = strings.Join(strings.Fields(p), " "); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// clip is text of at most n characters.
func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return strings.TrimSpace(string([]rune(s)[:max(n-1, 0)])) + "…"
}

// noBreak keeps a number and its unit on one line.
const noBreak = "\u00a0"

// took prints a length of time with the digits that matter.
func took(d time.Duration) string {
	switch {
	case d == 0:
		return "0" + noBreak + "s"
	case d < time.Millisecond:
		return "<1" + noBreak + "ms"
	case d < time.Second:
		return fmt.Sprintf("%d%sms", d.Round(time.Millisecond)/time.Millisecond, noBreak)
	case d < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Round(100*time.Millisecond).Seconds()), ".0") + noBreak + "s"
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%d%smin%s%02d%ss", d/time.Minute, noBreak, noBreak, d%time.Minute/time.Second, noBreak)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%d%sh%s%02d%smin", d/time.Hour, noBreak, noBreak, d%time.Hour/time.Minute, noBreak)
}

// stamp prints a time in UTC; nothing for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
