package verify

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/keylime"
)

// madeList is a list of the boot aggregate and of files, and what it adds up to after each entry.
func madeList(t *testing.T, paths ...string) (list *ima.List, pcr [][]byte) {
	t.Helper()
	digest := ima.Digest{Hash: crypto.SHA256, Sum: make([]byte, 32)}
	digest.Sum[0] = 1
	list, err := ima.NewList(ima.TemplateNG, digest)
	add := func() {
		if err == nil {
			var replay []byte
			replay, err = list.Replay(crypto.SHA256)
			pcr = append(pcr, replay)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add()
	for _, p := range paths {
		err = list.Append(ima.Entry{Template: ima.TemplateNG, Digest: digest, Path: p})
		add()
	}
	return list, pcr
}

// quoteOf is a quote of PCR 10.
func quoteOf(value []byte) *agent.Quote {
	return &agent.Quote{Hash: tpm2.TPMAlgSHA256, PCRs: []uint{ima.PCR}, Values: [][]byte{value}}
}

// What the verifier had is a part of the node's list, and the quote is of an entry that it had, or of all before.
func TestPushedPart(t *testing.T) {
	list, pcr := madeList(t, "/a", "/b", "/c")
	lines := func(from, to int) string {
		text, err := list.Lines(from)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.SplitAfter(text, "\n")[:to-from], "")
	}
	for name, test := range map[string]struct {
		start   int
		entries string
		quote   *agent.Quote
		covered int
		says    string // "" when it is in order
		later   bool   // the next evidence may be in order
	}{
		"all":                          {0, lines(0, 4), quoteOf(pcr[3]), 4, "", false},
		"nothing new":                  {4, "", quoteOf(pcr[3]), 4, "", false},
		"the last":                     {3, lines(3, 4), quoteOf(pcr[3]), 4, "", false},
		"more than the quote has":      {1, lines(1, 4), quoteOf(pcr[1]), 2, "", false},
		"measured since":               {1, lines(1, 2), quoteOf(pcr[1]), 2, "", false},
		"quoted before what it had":    {3, lines(3, 4), quoteOf(pcr[0]), 0, "PCR 10 is quoted as " + shorten(hex.EncodeToString(pcr[0])), true},
		"quoted after what it had":     {1, lines(1, 2), quoteOf(pcr[3]), 0, "the list gives " + shorten(hex.EncodeToString(pcr[1])) + " after the 2 entries", true},
		"entries of another list":      {1, lines(2, 3), quoteOf(pcr[1]), 0, "the entries that the verifier had, from number 2 on, are not those of the node's list", true},
		"a list longer than the nodes": {5, "", quoteOf(pcr[3]), 0, "the verifier had 5 entries of a list that has 4 on the node", true},
		"no list":                      {-1, "", quoteOf(pcr[3]), 0, "the verifier had no IMA list", false},
		"no PCR 10":                    {0, lines(0, 4), &agent.Quote{}, 0, "does not cover PCR 10", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &keylime.PushAttestation{IMAStart: test.start, IMAEntries: test.entries}
			covered, err := pushedPart(a, test.quote, list)
			if covered != test.covered || (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%d, %v, want %d, %q", covered, err, test.covered, test.says)
			}
			if errors.Is(err, errEarlier) != test.later {
				t.Errorf("%v: is the next evidence waited for? want %v", err, test.later)
			}
		})
	}
}

// The list is read again where the node measured a file between the looks at the list and at the TPM.
func TestExplainedList(t *testing.T) {
	before, _ := madeList(t, "/a")
	after, pcr := madeList(t, "/a", "/b")
	var reads []string
	node := func(texts ...string) Node {
		reads = texts
		return Node{
			IMAList: func(context.Context) (string, error) {
				text := reads[0]
				if len(reads) > 1 {
					reads = reads[1:]
				}
				return text, nil
			},
			PCRs: func(context.Context, ...int) (map[int][]byte, error) { return map[int][]byte{ima.PCR: pcr[2]}, nil },
		}
	}
	if list, err := explainedList(t.Context(), node(before.String(), after.String())); err != nil || list.Len() != 3 {
		t.Errorf("a list that grows: %v", err)
	}
	if _, err := explainedList(t.Context(), node(before.String())); err == nil || !strings.Contains(err.Error(), "the IMA list of the node, of 2 entries, is not what the TPM knows: PCR 10 is") {
		t.Errorf("a list that lacks an entry: %v", err)
	}
	if _, err := explainedList(t.Context(), node("nonsense\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("no list: %v", err)
	}
	if _, err := explainedList(t.Context(), Node{}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("nothing to read: %v", err)
	}
}
