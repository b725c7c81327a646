package html_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	xhtml "golang.org/x/net/html"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/html"
	"keylab.dev/keylab/report/internal/sample"
)

var update = flag.Bool("update", false, "write the golden files anew")

// pages are pages of every kind.
func pages(t *testing.T) map[string]string {
	t.Helper()
	long := sample.Rotation()
	long.Steps[0].Duration = 100 * time.Second
	for i := range long.Steps[1:] {
		long.Steps[i+1].At += 96 * time.Second
	}
	out := map[string]string{}
	for name, runs := range map[string][]report.Run{
		"rotation": {sample.Rotation()}, "swapped": {sample.Swapped()}, "hostile": {sample.Hostile()}, "fleet": {sample.Fleet(200)}, "long": {long},
		"several": {sample.Rotation(), sample.Swapped(), sample.Hostile()}, "none": nil, "empty": {{}},
	} {
		var b bytes.Buffer
		if err := html.WriteAll(&b, runs); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = b.String()
	}
	return out
}

var styleElement = regexp.MustCompile(`(?s)<style>.*?</style>`)

func TestGolden(t *testing.T) {
	all := pages(t)
	for _, name := range []string{"rotation", "swapped", "none"} {
		got := styleElement.ReplaceAllString(all[name], "<style>…</style>")
		path := filepath.Join("testdata", name+".html")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (go test -update writes it anew; -want +got):\n%s", path, diff)
		}
	}
}

// void elements have no end.
var void = map[string]bool{"meta": true, "link": true, "input": true, "br": true, "img": true}

// walk calls f for every start tag, with the text of attributes as a browser sees them, and complains of tags that do not match.
func walk(t *testing.T, name, page string, f func(tag string, attributes map[string]string)) (text string) {
	t.Helper()
	var open []string
	var b strings.Builder
	z := xhtml.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case xhtml.ErrorToken:
			if len(open) > 0 {
				t.Errorf("%s: not ended: %v", name, open)
			}
			return b.String()
		case xhtml.TextToken:
			b.WriteString(z.Token().Data)
		case xhtml.StartTagToken:
			token := z.Token()
			attributes := map[string]string{}
			for _, a := range token.Attr {
				if _, twice := attributes[a.Key]; twice {
					t.Errorf("%s: <%s> has %s twice", name, token.Data, a.Key)
				}
				attributes[a.Key] = a.Val
			}
			f(token.Data, attributes)
			if !void[token.Data] {
				open = append(open, token.Data)
			}
		case xhtml.EndTagToken:
			token := z.Token()
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("%s: </%s> ends %v", name, token.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
}

// Every page is well formed, has each id once, and each link within it leads somewhere.
func TestWellFormed(t *testing.T) {
	for name, page := range pages(t) {
		ids, links := map[string]bool{}, map[string]bool{}
		walk(t, name, page, func(tag string, a map[string]string) {
			if id, ok := a["id"]; ok {
				if ids[id] {
					t.Errorf("%s: two elements have the id %q", name, id)
				}
				ids[id] = true
			}
			for _, key := range []string{"href", "for"} {
				if to, ok := a[key]; ok && tag != "link" {
					links[strings.TrimPrefix(to, "#")] = true
				}
			}
			for _, v := range a {
				for _, m := range regexp.MustCompile(`url\(#([^)]*)\)`).FindAllStringSubmatch(v, -1) {
					links[m[1]] = true
				}
			}
		})
		for _, m := range regexp.MustCompile(`url\(#([^)]*)\)`).FindAllStringSubmatch(page, -1) {
			links[m[1]] = true
		}
		for to := range links {
			if !ids[to] {
				t.Errorf("%s: a link leads to %q, which is not there", name, to)
			}
		}
		if _, err := xhtml.Parse(strings.NewReader(page)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A page asks no server for anything, and its own policy says so.
func TestAsksNobody(t *testing.T) {
	for name, page := range pages(t) {
		policy := ""
		walk(t, name, page, func(tag string, a map[string]string) {
			if a["http-equiv"] == "Content-Security-Policy" {
				policy = a["content"]
			}
			for key, v := range a {
				if strings.HasPrefix(key, "xmlns") || strings.HasPrefix(v, "data:image/svg+xml,") {
					continue
				}
				if key == "src" || key == "srcset" || key == "action" || key == "style" && strings.Contains(v, "url(") || key == "href" && !strings.HasPrefix(v, "#") {
					t.Errorf("%s: <%s %s=%q>", name, tag, key, v)
				}
			}
		})
		if !strings.HasPrefix(policy, "default-src 'none';") || !strings.Contains(policy, "script-src 'sha256-") {
			t.Errorf("%s: the policy is %q", name, policy)
		}
		style := styleElement.FindString(page)
		if strings.Contains(style, "@import") || strings.Contains(style, "//") || regexp.MustCompile(`url\([^#]`).MatchString(style) {
			t.Errorf("%s: the style sheet loads something", name)
		}
	}
}

// Nothing that a lab printed is anything but text: no element, no handler, no second script, no character that turns text around.
func TestHostileTextIsText(t *testing.T) {
	page := pages(t)["hostile"]
	scripts := 0
	text := walk(t, "hostile", page, func(tag string, a map[string]string) {
		switch tag {
		case "script":
			scripts++
		case "img", "iframe", "object", "foreignobject":
			t.Errorf("an element <%s>", tag)
		}
		for key := range a {
			if strings.HasPrefix(key, "on") {
				t.Errorf("<%s> has a handler %s", tag, key)
			}
		}
	})
	if scripts != 1 {
		t.Errorf("%d scripts", scripts)
	}
	if strings.ContainsAny(page, "\x00\x1b\u202e") {
		t.Error("the page has control characters")
	}
	if n := strings.Count(text, "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"); n < 20 {
		t.Errorf("the text is shown as it was only %d times", n)
	}
}

// What a reader must find in the page of a run that failed.
func TestSaysWhatMatters(t *testing.T) {
	page := pages(t)["swapped"]
	text := walk(t, "swapped", page, func(string, map[string]string) {})
	for _, want := range []string{
		"Two hostnames that lead to each other's agent", "Failed", "step 4: node-2 was not attested again within 15 s", "4 of 6", "Does Keylime notice",
		"the ingress showed the certificate of node-2", `last event "internal.verifier.not_reachable"`, "skipped", "33\u00a0s", "no more retries", "seed 42", "2030-05-01 12:00:00 UTC",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if !strings.Contains(page, sample.Topology) {
		t.Error("the page has no picture of the lab")
	}
}

// A page of several runs shows at once which of them to look at.
func TestSeveral(t *testing.T) {
	page := pages(t)["several"]
	if text := walk(t, "several", page, func(string, map[string]string) {}); !strings.Contains(text, "1 of 3 runs passed, 1 failed, 1 could not be carried out") {
		t.Error("no summary")
	}
	for id, open := range map[string]bool{"r1": false, "r2": true, "r3": true} {
		if strings.Contains(page, `<details class="run" id="`+id+`" open>`) != open || !strings.Contains(page, `href="#`+id+`"`) {
			t.Errorf("run %s: should be open: %v", id, open)
		}
	}
	none := pages(t)["none"]
	if !strings.Contains(none, "No scenario was run") || strings.Contains(none, "passed") {
		t.Error("no runs look like success")
	}
}

// Of many nodes, those that something happened to have a row; the others share one. The page of a large fleet is no monster.
func TestFleet(t *testing.T) {
	page := pages(t)["fleet"]
	if rows := strings.Count(page, `<div class="node"`); rows != 7 {
		t.Errorf("%d rows, not six nodes and the others", rows)
	}
	if !strings.Contains(page, "194 other nodes") || !strings.Contains(page, "194 of 194 attested") {
		t.Error("the others are not shown")
	}
	if len(page) > 400_000 {
		t.Errorf("%d bytes", len(page))
	}
}

type brokenWriter struct{}

var errDiskFull = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errDiskFull }

func TestWriteErrorsAreReported(t *testing.T) {
	if err := html.Write(brokenWriter{}, sample.Swapped()); !errors.Is(err, errDiskFull) {
		t.Error(err)
	}
}
