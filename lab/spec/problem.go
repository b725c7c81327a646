package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a lab's description.
type Problem struct {
	File         string // the name given to Decode; "" when the lab did not come from a file
	Line, Column int    // from 1; 0 when the lab did not come from a file
	Path         string // the YAML path, as in nodes[1].tpm.ekAlgorithm; "" for the document as a whole
	Message      string // what is wrong, and what to do about it
	Allowed      string // what would have been allowed, as in "rsa2048, ecc-p256" or "1 to 500"; "" where that cannot be listed
}

// String returns the problem in the form of a compiler's message: file:line:column: path: message.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, "%d:", p.Column)
		}
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// InvalidError holds everything that is wrong with a lab's description, in the order of the file. Problems is never empty.
type InvalidError struct {
	Problems []Problem
}

// Error returns the problems, one a line.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// invalid returns the problems as an error, sorted by place, or nil when there are none.
func invalid(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &InvalidError{Problems: problems}
}
