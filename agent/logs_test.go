package agent

import (
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestIMAListFromAnEntryOn(t *testing.T) {
	const list = "10 one\n10 two\n10 three\n"
	f := startAgent(t, func(cfg *Config) {
		cfg.IMAList = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(list)), nil }
	})
	for _, c := range []struct {
		query string
		text  string
		first uint64
	}{
		{"", list, 0},
		{"&ima_ml_entry=0", list, 0},
		{"&ima_ml_entry=2", "10 three\n", 2},
		{"&ima_ml_entry=3", "", 3},
		{"&ima_ml_entry=4", list, 0}, // not there yet: all over again
		{"&ima_ml_entry=99999999999999999999", list, 0},
		{"&ima_ml_entry=x", list, 0},
	} {
		results, _ := f.quoteOf(t, "/v2.6/quotes/integrity?nonce=n&mask=0x400&partial=1"+c.query, "n")
		if results.IMAList == nil || results.IMAListEntry == nil || *results.IMAList != c.text || *results.IMAListEntry != c.first {
			t.Errorf("%q: %+v, want %q from %d", c.query, results, c.text, c.first)
		}
	}
	results, _ := f.quoteOf(t, "/v2.6/quotes/identity?nonce=n", "n")
	if results.IMAList != nil {
		t.Error("an identity quote carries an IMA list")
	}
}

func TestMeasuredBootLogGoesWithPCR0(t *testing.T) {
	fail := false
	f := startAgent(t, func(cfg *Config) {
		cfg.MeasuredBootLog = func() ([]byte, error) {
			if fail {
				return nil, errors.New("gone")
			}
			return []byte{0, 1, 2}, nil
		}
	})
	results, _ := f.quoteOf(t, "/v2.6/quotes/integrity?nonce=n&mask=0x1&partial=1", "n")
	if results.BootLog == nil || *results.BootLog != base64.StdEncoding.EncodeToString([]byte{0, 1, 2}) {
		t.Errorf("boot log %v", results.BootLog)
	}
	results, _ = f.quoteOf(t, "/v2.6/quotes/integrity?nonce=n&mask=0x2&partial=1", "n")
	if results.BootLog != nil {
		t.Error("boot log without PCR 0")
	}
	fail = true
	results, _ = f.quoteOf(t, "/v2.6/quotes/integrity?nonce=n&mask=0x1&partial=1", "n")
	if results.BootLog != nil {
		t.Error("a boot log that cannot be read was sent")
	}
}
