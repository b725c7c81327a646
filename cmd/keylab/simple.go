package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/tpmsim"
)

func newValidate(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a lab's specification; every problem is reported, with its place",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			labSpec, err := readSpec(s.in, args[0])
			if err != nil {
				return err
			}
			p, err := lab.Plan(labSpec)
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintf(s.err, "%s is valid: lab %q, %d nodes.\n", args[0], p.Lab, len(p.Nodes))
			return nil
		},
	}
}

func newSchema(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a lab's specification",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema, err := spec.Schema()
			if err != nil {
				return err
			}
			_, err = s.out.Write(schema)
			return err
		},
	}
}

// version is stamped by the build (-ldflags "-X main.version=…"); otherwise the module's own is shown.
var version string

func keylabVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

func newVersion(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of keylab and of what it is built with",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			simulator := "built in"
			if err := tpmsim.Simulator().Available(); err != nil {
				simulator = "not built in"
			}
			fmt.Fprintf(s.out, "keylab %s (%s, %s/%s), Keylime %v, TPM simulator %s\n", keylabVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH, spec.KeylimeVersions, simulator)
		},
	}
}
