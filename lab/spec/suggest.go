package spec

import (
	"fmt"
	"reflect"
	"strings"
)

// DidYouMean returns `: did you mean "x"?` for the known word that is nearest to word, or "" when none is near.
func DidYouMean(word string, known []string) string {
	best, distance := "", 1+max(1, min(3, len(word)/3))
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k), distance); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// editDistance counts the letters to insert, delete, replace or swap with their neighbour to get from a to b (optimal
// string alignment). It gives up and returns limit when the lengths alone are that far apart, so that a very long word
// costs nothing.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := 1
			if a[i-1] == b[j-1] {
				replace = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

// places returns the paths at which a field of this name is known, from the top of the document.
func places(root reflect.Type, name string) []string {
	var found []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		switch {
		case t == typeNodes:
			walk(reflect.TypeFor[Node](), path+"[]")
		case t.Kind() == reflect.Slice:
			walk(t.Elem(), path+"[]")
		case t.Kind() == reflect.Pointer:
			walk(t.Elem(), path)
		case t.Kind() == reflect.Struct && !isScalar(t):
			for _, f := range fieldsOf(t) {
				if f.name == name {
					found = append(found, join(path, name))
				}
				walk(t.Field(f.index).Type, join(path, f.name))
			}
		}
	}
	walk(root, "")
	return found
}

// join appends a field's name to a path.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
