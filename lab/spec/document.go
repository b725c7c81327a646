package spec

import "reflect"

// Form is a kind of file, of those that keylab reads.
type Form struct {
	Kind string // the value of its field kind
	Noun string // what it describes, for messages: "lab"
	root reflect.Type
}

var labForm = Form{Kind: Kind, Noun: "lab", root: typeSpec}

// Finding is one thing that is wrong with a document as a whole, by its YAML path.
type Finding struct {
	Path    string // as in steps[2].expect.nodes
	Message string // what is wrong, and what to do about it
	Allowed string // what would have been allowed; "" where that cannot be listed
}

// DecodeDocument reads a document of another form than a lab's, as strictly as Decode does a lab: into points to its struct, whose
// tags are those of this package and which may have a Spec as a part. When the document could be read, check looks at it as a whole, after into was
// filled in; what it finds in places that have a problem already is left out. An error is an *InvalidError with every problem.
func DecodeDocument(name string, data []byte, form Form, into any, check func() []Finding) error {
	v := reflect.ValueOf(into).Elem()
	form.root = v.Type()
	d := newDecoder(name, form)
	root := d.parse(data)
	if root == nil {
		return invalid(d.problems)
	}
	d.value(root, v, "", rules{})
	d.report(tagFindings(v))
	var found []finding
	for _, f := range check() {
		found = append(found, finding{path: f.Path, message: f.Message, allowed: f.Allowed})
	}
	d.report(found)
	return invalid(d.problems)
}

// tagFindings checks every value of a document but those of a lab in it, which has a check of its own.
func tagFindings(v reflect.Value) []finding {
	c := &checker{}
	for _, f := range fieldsOf(v.Type()) {
		if field := v.Field(f.index); field.Type() != typeSpec {
			c.tags(field, f.name, f.rules)
		}
	}
	return c.found
}

// Findings completes s by its defaults and returns everything that is wrong with it, as a part of another document at that path.
func (s *Spec) Findings(path string) []Finding {
	s.SetDefaults()
	var out []Finding
	for _, f := range s.findings() {
		message := f.message
		if f.other != "" {
			message += " (" + join(path, f.other) + ")"
		}
		out = append(out, Finding{Path: join(path, f.path), Message: message, Allowed: f.allowed})
	}
	return out
}
