package keylime

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// iniFile is a configuration file in the form of Python's configparser, edited in place so that Keylime's comments stay.
type iniFile struct {
	lines   []string
	options map[string]int // "section.option" -> index into lines
}

func readINI(path string) (*iniFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration template: %w", err)
	}
	return parseINI(string(data)), nil
}

func parseINI(text string) *iniFile {
	f := &iniFile{lines: strings.Split(strings.TrimRight(text, "\n"), "\n"), options: map[string]int{}}
	section := ""
	for i, line := range f.lines {
		switch {
		case line == "" || strings.ContainsAny(line[:1], "#; \t"):
			// A comment, or a line that continues the one before.
		case line[0] == '[' && strings.HasSuffix(strings.TrimSpace(line), "]"):
			section = strings.Trim(strings.TrimSpace(line), "[]")
		default:
			if name, _, ok := strings.Cut(line, "="); ok {
				f.options[section+"."+strings.ToLower(strings.TrimSpace(name))] = i
			}
		}
	}
	return f
}

// set gives an option a value. A name without a dot belongs to the section named as the file is; others are "section.option".
func (f *iniFile) set(component, name, value string) error {
	key := optionKey(component, name)
	i, ok := f.options[key]
	if !ok {
		return fmt.Errorf("keylime's %s.conf has no option %q; the nearest is %q", component, name, f.nearest(component, key))
	}
	if strings.ContainsAny(value, "\r\n") {
		return fmt.Errorf("option %q of %s.conf: the value holds a line break", name, component)
	}
	_, option, _ := strings.Cut(key, ".")
	f.lines[i] = strings.TrimRight(option+" = "+value, " ")
	// Drop the lines that continued the old value.
	for j := i + 1; j < len(f.lines) && f.lines[j] != "" && strings.ContainsAny(f.lines[j][:1], " \t"); j++ {
		f.lines[j] = ""
	}
	return nil
}

func (f *iniFile) has(component, name string) bool {
	_, ok := f.options[optionKey(component, name)]
	return ok
}

func optionKey(component, name string) string {
	if name = strings.ToLower(name); strings.Contains(name, ".") {
		return name
	}
	return component + "." + name
}

// get returns an option's value, "" when it has none.
func (f *iniFile) get(component, name string) string {
	i, ok := f.options[optionKey(component, name)]
	if !ok {
		return ""
	}
	_, v, _ := strings.Cut(f.lines[i], "=")
	return strings.TrimSpace(v)
}

func (f *iniFile) String() string { return strings.Join(f.lines, "\n") + "\n" }

// nearest is the known option whose name differs least from the one asked for.
func (f *iniFile) nearest(component, key string) string {
	var names []string
	for k := range f.options {
		names = append(names, k)
	}
	slices.Sort(names)
	best, bestDist := "", -1
	for _, k := range names {
		if d := editDistance(k, key); bestDist < 0 || d < bestDist {
			best, bestDist = k, d
		}
	}
	return strings.TrimPrefix(best, component+".")
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}
