package main

import (
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"keylab.dev/keylab/lab/spec"
)

// nodeFlag is that of `keylab node add`.
type nodeFlag struct{ file string }

func (f *nodeFlag) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "file", "f", "", "of add: a YAML file with what is special about the node, as in a lab's list of nodes; - for standard input")
}

// read returns the definition of the node, and the name that it gives it; "" where there is none.
func (f *nodeFlag) read(stdin io.Reader) (definition, name string, err error) {
	if f.file == "" {
		return "", "", nil
	}
	shown, data, err := readFile(stdin, f.file, "node")
	if err != nil {
		return "", "", err
	}
	n, err := spec.DecodeNode(shown, data)
	if err != nil {
		return "", "", err
	}
	if err := n.ResolvePaths(f.file); err != nil {
		return "", "", err
	}
	data, err = yaml.Marshal(n)
	return string(data), n.Name, err
}
