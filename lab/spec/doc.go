// Package spec is the file that a keylab user writes: one YAML document that describes a whole lab.
//
// A lab is read with [Decode], which is strict: it reports every problem at once, each with its file, line, column and YAML
// path, and says what would have been allowed. A lab that is made in Go starts from [Default], or from a literal that
// [Spec.SetDefaults] completes, and is checked by [Spec.Validate].
//
//	s, err := spec.Decode("lab.yaml", data)
//	var invalid *spec.InvalidError
//	if errors.As(err, &invalid) {
//		for _, p := range invalid.Problems {
//			fmt.Println(p.Line, p.Path, p.Message)
//		}
//	}
//	for _, n := range s.EffectiveNodes() {
//		fmt.Println(n.Name, n.TPM.EKAlgorithm) // the lab's values with the node's own put over them
//	}
//
// The Go types are the only source: the struct tags hold the enumerations, ranges and fixed defaults, the field comments hold the
// texts. The decoder, the checks, the JSON Schema ([Schema]) and docs/spec.md all follow from them; after a change run
// "go generate ./lab/spec".
//
// The package reads bytes and nothing else: no files, no network, no clock. Whether a substrate or an agent can really be had
// on this machine is for others to say.
package spec

//go:generate go run ./internal/specdoc
