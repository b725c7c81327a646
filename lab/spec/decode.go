package spec

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest file that Decode reads, in bytes.
const MaxSize = 1 << 20

// Decode reads one lab from a YAML document and fills in the defaults. The name is the file's, for messages only. An error is an
// *InvalidError with every problem that the document has.
//
// Aliases, anchors and merge keys (<<) are understood; the work that they may cause is bounded.
func Decode(name string, data []byte) (Spec, error) {
	d := newDecoder(name, labForm)
	root := d.parse(data)
	if root == nil {
		return Spec{}, invalid(d.problems)
	}
	return d.spec(root)
}

// UnmarshalYAML reads a lab that is part of another document, as strictly as Decode does, with all defaults; an error is
// an *InvalidError.
func (s *Spec) UnmarshalYAML(node *yaml.Node) error {
	out, err := newDecoder("", labForm).spec(node)
	if err != nil {
		return err
	}
	*s = out
	return nil
}

// Marshal returns the lab as a YAML document with every default spelled out. The nodes keep their shape. For a valid
// lab, Decode gives the very same lab back.
func Marshal(s Spec) ([]byte, error) {
	s = s.clone()
	s.SetDefaults()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(s); err != nil {
		return nil, fmt.Errorf("write lab %q as YAML: %w", s.Name, err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("write lab %q as YAML: %w", s.Name, err)
	}
	return b.Bytes(), nil
}

// decoder walks a YAML tree along the Go types, and collects problems in place of stopping at the first.
type decoder struct {
	file     string
	form     Form
	problems []Problem
	places   map[string]position // by YAML path
	failed   map[string]bool     // paths with a problem
	budget   int                 // YAML nodes that may still be visited: aliases can repeat a small document without end
}

type position struct{ line, column int }

// maxVisits is the number of YAML nodes that a document may come to when its aliases are followed. A list of 500 nodes
// with everything set comes to 30000.
const maxVisits = 200_000

func newDecoder(file string, form Form) *decoder {
	return &decoder{file: file, form: form, places: map[string]position{}, failed: map[string]bool{}, budget: maxVisits}
}

// spec reads the whole lab from its root, and checks it.
func (d *decoder) spec(root *yaml.Node) (Spec, error) {
	var s Spec
	d.value(root, reflect.ValueOf(&s).Elem(), "", rules{})
	s.SetDefaults()
	d.report(s.findings())
	if err := invalid(d.problems); err != nil {
		return Spec{}, err
	}
	return s, nil
}

// report adds what was found when the whole document was looked at, at its places.
func (d *decoder) report(all []finding) {
	for _, f := range all {
		if !d.reported(f.path) {
			d.add(d.place(f.path), f.path, d.withPlace(f), f.allowed)
		}
	}
}

func at(n *yaml.Node) position { return position{n.Line, n.Column} }

func (d *decoder) add(pos position, path, message, allowed string) {
	d.failed[path] = true
	d.problems = append(d.problems, Problem{File: d.file, Line: pos.line, Column: pos.column, Path: path, Message: message, Allowed: allowed})
}

// place returns where path is in the file, or where the nearest thing around it is.
func (d *decoder) place(path string) position {
	for {
		if p, ok := d.places[path]; ok {
			return p
		}
		if path == "" {
			return position{1, 1}
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// reported says whether path, or something that it is part of, has a problem already, of which another would only be an echo.
func (d *decoder) reported(path string) bool {
	for path != "" {
		if d.failed[path] {
			return true
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return false
}

// withPlace returns the finding's message, with the line of the other place that it speaks of.
func (d *decoder) withPlace(f finding) string {
	if f.other == "" {
		return f.message
	}
	return fmt.Sprintf("%s (line %d)", f.message, d.place(f.other).line)
}

// spend takes one from the budget; at its end it says so, once.
func (d *decoder) spend(n *yaml.Node, path string) bool {
	d.budget--
	if d.budget == -1 {
		d.add(at(n), path, fmt.Sprintf("the document is too large when its aliases are followed: more than %d values", maxVisits), "")
	}
	return d.budget >= 0
}

// value reads n into v, which has the type that the format has at path.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, r rules) {
	if !d.spend(n, path) {
		return
	}
	if _, ok := d.places[path]; !ok || isScalar(v.Type()) || v.Kind() == reflect.Pointer {
		d.places[path] = at(n)
	}
	use := n
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.add(at(use), path, "has no value: give it one, or remove it", r.words(v.Type()))
	case isScalar(v.Type()):
		d.scalar(n, use, v, path, r)
	case v.Type() == typeNodes:
		d.nodes(n, use, v, path)
	case v.Kind() == reflect.Struct:
		d.structure(n, use, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, use, v, path, r.maxItems)
	case v.Kind() == reflect.Map:
		d.dictionary(n, use, v, path)
	}
}

func (d *decoder) nodes(n, use *yaml.Node, v reflect.Value, path string) {
	switch n.Kind {
	case yaml.ScalarNode:
		d.places[path] = at(use)
		d.scalar(n, use, v.FieldByName("Count"), path, rules{min: "1", max: fmt.Sprint(MaxNodes)})
	case yaml.SequenceNode:
		if len(n.Content) == 0 {
			d.add(at(use), path, "is an empty list; a lab needs a node", fmt.Sprintf("1 to %d nodes", MaxNodes))
			return
		}
		d.list(n, use, v.FieldByName("List"), path, MaxNodes)
	default:
		d.add(at(use), path, fmt.Sprintf("needs a number of nodes, or a list of them, not %s", describe(n)), fmt.Sprintf("1 to %d nodes", MaxNodes))
	}
}

func (d *decoder) list(n, use *yaml.Node, v reflect.Value, path string, limit int) {
	if n.Kind != yaml.SequenceNode {
		d.add(at(use), path, fmt.Sprintf("needs a list, not %s", describe(n)), "a list")
		return
	}
	if len(n.Content) > limit {
		d.add(at(use), path, fmt.Sprintf("has %d entries; at most %d are allowed", len(n.Content), limit), fmt.Sprintf("at most %d entries", limit))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i), rules{})
	}
}

func (d *decoder) structure(n, use *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.add(at(use), path, fmt.Sprintf("needs fields of its own, as in \"field: value\", not %s", describe(n)), "a mapping")
		return
	}
	fields := fieldsOf(v.Type())
	given := map[string]bool{}
	for _, p := range d.pairs(n, path) {
		name := p.key.Value
		sub := join(path, name)
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			names := fieldNames(fields)
			d.add(at(p.key), sub, d.unknownField(name, path, names), strings.Join(names, ", "))
			continue
		}
		given[name] = true
		d.places[sub] = at(p.key)
		d.value(p.value, v.Field(fields[i].index), sub, fields[i].rules)
	}
	for _, f := range fields {
		if f.rules.required && !given[f.name] && !(v.Type() == typeSpec && path != "") { // a lab within another document
			d.add(d.place(path), join(path, f.name), "is missing: "+missing(f), strings.Join(f.rules.enum, ", "))
		}
	}
}

// missing says what to write for a field that is required.
func missing(f field) string {
	if len(f.rules.enum) == 1 {
		return fmt.Sprintf("add the line %q", f.name+": "+f.rules.enum[0])
	}
	return fmt.Sprintf("add %q and its value", f.name+":")
}

func fieldNames(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// unknownField says what is meant, perhaps, by a field that path does not know.
func (d *decoder) unknownField(name, path string, known []string) string {
	hint := DidYouMean(name, known)
	if hint == "" {
		if there := places(d.form.root, name); len(there) > 0 && len(name) > 3 {
			hint = ": it belongs at " + strings.Join(there, " or ")
		}
	}
	if hint == "" {
		where := path
		if where == "" {
			where = "the document"
		}
		hint = fmt.Sprintf("; %s can hold %s", where, strings.Join(known, ", "))
	}
	return fmt.Sprintf("unknown field %s%s", quote(name), hint)
}

func (d *decoder) dictionary(n, use *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.add(at(use), path, fmt.Sprintf("needs entries as in \"name: value\", not %s", describe(n)), "a mapping")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range d.pairs(n, path) {
		sub := join(path, p.key.Value)
		d.places[sub] = at(p.key)
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(p.value, item, sub, rules{anyScalar: true})
		v.SetMapIndex(reflect.ValueOf(p.key.Value), item)
	}
}

type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping, with those that its merge keys bring in, and reports keys that are no text or
// are given twice.
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	var own []pair
	var merged []*yaml.Node
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			d.add(at(n.Content[i]), path, fmt.Sprintf("holds %s where a field's name should stand", describe(key)), "")
		case lines[key.Value] > 0:
			d.add(at(n.Content[i]), join(path, key.Value), fmt.Sprintf("is set twice; the first time in line %d", lines[key.Value]), "")
		default:
			lines[key.Value] = key.Line
			own = append(own, pair{key, value})
		}
	}
	for _, m := range merged {
		for _, p := range d.merge(m, path, 0) {
			if lines[p.key.Value] == 0 { // what stands in the mapping itself, or came first, wins
				lines[p.key.Value] = p.key.Line
				own = append(own, p)
			}
		}
	}
	return own
}

// maxMergeDepth is how many merge keys may lead to one another. It ends a mapping that merges itself.
const maxMergeDepth = 8

// merge returns the entries that the value of a merge key (https://yaml.org/type/merge.html) stands for: those of a
// mapping, or of several.
func (d *decoder) merge(n *yaml.Node, path string, depth int) []pair {
	if !d.spend(n, path) {
		return nil
	}
	if depth > maxMergeDepth {
		d.add(at(n), path, fmt.Sprintf("the merge keys (<<) lead to one another more than %d times", maxMergeDepth), "")
		d.budget = min(d.budget, 0) // one report of an endless merge is enough
		return nil
	}
	use := n
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	var out []pair
	switch n.Kind {
	case yaml.SequenceNode:
		for _, item := range n.Content {
			out = append(out, d.merge(item, path, depth+1)...)
		}
	case yaml.MappingNode:
		var inner []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind == yaml.AliasNode {
				key = key.Alias
			}
			if key.ShortTag() == "!!merge" {
				inner = append(inner, value)
			} else if key.Kind == yaml.ScalarNode {
				if !d.spend(key, path) {
					return nil
				}
				out = append(out, pair{key, value})
			}
		}
		for _, m := range inner {
			out = append(out, d.merge(m, path, depth+1)...)
		}
	default:
		d.add(at(use), path, fmt.Sprintf("the merge key (<<) needs a mapping, not %s", describe(n)), "")
	}
	return out
}
