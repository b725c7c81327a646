package main

import (
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab"
)

func newEK(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "ek",
		Short: "Show the lab's EK CA and its EK certificates",
		Args:  cobra.NoArgs, // an unknown subcommand is an error, not a call for help
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVarP(&f.name, "lab", "l", "", "the lab's name (default $"+envLab+", or keylab)")
	var output string
	list := &cobra.Command{
		Use:   "list",
		Short: "List the CA certificates and the EK certificates it issued",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			ca, err := openEKCA(&f)
			if err != nil {
				return err
			}
			issued, err := ca.Issued()
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(s.out, issued)
			}
			return printEKs(s, ca, issued)
		},
	}
	list.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	show := &cobra.Command{
		Use:   "show NODE|SERIAL|ca",
		Short: "Print a certificate in PEM, after what it says in words",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ca, err := openEKCA(&f)
			if err != nil {
				return err
			}
			return showEK(s, ca, args[0])
		},
	}
	export := &cobra.Command{
		Use:   "export DIR",
		Short: "Write all certificates and the CRL, but no private key, into a folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ca, err := openEKCA(&f)
			if err != nil {
				return err
			}
			if err := ca.ExportPublic(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "The EK CA's certificates are in %s.\n", args[0])
			return nil
		},
	}
	c.AddCommand(list, show, export)
	return c
}

func openEKCA(f *labFlag) (*ekca.CA, error) {
	l, err := f.open(nil)
	if err != nil {
		return nil, err
	}
	if !l.Dir().Made() {
		return nil, explain(l, lab.ErrNotRunning)
	}
	return ekca.Open(l.Dir().EKCA())
}

func printEKs(s streams, ca *ekca.CA, issued []ekca.Record) error {
	var rows [][]string
	chain := ca.Chain()
	for i := len(chain) - 1; i >= 0; i-- {
		c := chain[i]
		rows = append(rows, []string{c.Subject.CommonName, fmt.Sprintf("%X", c.SerialNumber), c.NotAfter.Format(time.DateOnly)})
	}
	if err := table(s.out, "CA|SERIAL|VALID UNTIL", rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	rows = nil
	for _, r := range issued {
		rows = append(rows, []string{r.Label, string(r.Status), fmt.Sprintf("%X", r.Serial), r.NotAfter.Format(time.DateOnly)})
	}
	return table(s.out, "NODE|STATUS|SERIAL|VALID UNTIL", rows)
}

// showEK prints the newest certificate of a node, or the one with a serial number, or the CA's own.
func showEK(s streams, ca *ekca.CA, what string) error {
	if what == "ca" {
		_, err := s.out.Write(ekca.PEM(ca.Chain()...))
		return err
	}
	issued, err := ca.Issued()
	if err != nil {
		return err
	}
	for i := len(issued) - 1; i >= 0; i-- {
		r := issued[i]
		if r.Label != what && !strings.EqualFold(r.Serial.Text(16), what) {
			continue
		}
		data, err := os.ReadFile(r.File)
		if err != nil {
			return fmt.Errorf("read the certificate of %s: %w", r.Label, err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return fmt.Errorf("%s holds no PEM certificate", r.File)
		}
		if err := describeEK(s, r, block.Bytes); err != nil {
			return err
		}
		_, err = s.out.Write(data)
		return err
	}
	return usagef("the lab's EK CA issued no certificate for %q: `keylab ek list` shows them", what)
}
