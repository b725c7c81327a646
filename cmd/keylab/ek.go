package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/authority"
)

func newEK(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "ek",
		Short: "Show, change and rotate the lab's EK CAs and EK certificates",
		Long: `A lab is made with one EK CA, called ca-1: it is active, which means that new TPMs get their certificates from it, and trusted, which means
that the tpm_cert_store of Keylime's tenant has it. Others can be made beside it, trusted, distrusted and made the active one, and nodes can be given other
certificates for the same EK. What is done lasts over down and up.

  list, show, export     look at CAs and certificates
  new-ca, activate       another CA; have it issue for new TPMs
  trust, distrust        what the tpm_cert_store holds
  cross-sign, leak       have one CA certify another; let a thief have a CA's key
  issue, revoke          put another certificate into a node's TPM; revoke it
  rotate                 bring a whole lab from one CA to another, and print every command that an operator would run

An EK certificate that was changed in a TPM is news to Keylime only when the agent registers with it, which the registrar refuses while it knows
the agent with another one: ` + "`keylab node enrol`" + ` has it forget the agent first.`,
		Args: cobra.NoArgs, // an unknown subcommand is an error, not a call for help
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVarP(&f.name, "lab", "l", "", "the lab's name (default $"+envLab+", or keylab)")
	show := &cobra.Command{
		Use:   "show NODE|SERIAL|CA",
		Short: "Print a certificate in PEM, after what it says in words; of a CA (ca: the active one), its chain",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, cas, err := openEKCAs(&f)
			if err != nil {
				return err
			}
			return showEK(s, cas, args[0])
		},
	}
	export := &cobra.Command{
		Use:   "export DIR",
		Short: "Write all certificates and the CRL, but no private key, into a folder; those of CAs that were made later into folders below it",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, cas, err := openEKCAs(&f)
			if err != nil {
				return err
			}
			for _, ca := range cas {
				dir := args[0]
				if ca.Name != authority.First {
					dir = filepath.Join(dir, ca.Name)
				}
				if err := ca.ExportPublic(dir); err != nil {
					return err
				}
			}
			fmt.Fprintf(s.err, "The certificates of %s are in %s.\n", count(len(cas), "EK CA"), args[0])
			return nil
		},
	}
	c.AddCommand(newEKList(s, &f), show, export)
	c.AddCommand(newEKOrders(s, &f)...)
	c.AddCommand(newEKRotate(s, &f))
	return c
}

// openEKCAs names the lab and opens its EK CAs, which are in its folder.
func openEKCAs(f *labFlag) (*lab.Lab, []authority.CA, error) {
	l, err := f.open(nil)
	if err != nil {
		return nil, nil, err
	}
	if !l.Dir().Made() {
		return nil, nil, explain(l, lab.ErrNotRunning)
	}
	set, err := l.EKCAs()
	if err != nil {
		return nil, nil, err
	}
	cas, err := set.List()
	if err != nil {
		return nil, nil, err
	}
	if stranger, err := set.Get(authority.Stranger); err == nil {
		cas = append(cas, stranger)
	} else if !errors.Is(err, authority.ErrUnknown) {
		return nil, nil, err
	}
	return l, cas, nil
}

// issuedEK is one entry of a CA's record.
type issuedEK struct {
	ca authority.CA
	ekca.Record
}

// allIssued is what all CAs have issued, in the order of issue.
func allIssued(cas []authority.CA) ([]issuedEK, error) {
	var all []issuedEK
	for _, ca := range cas {
		issued, err := ca.Issued()
		if err != nil {
			return nil, err
		}
		for _, r := range issued {
			all = append(all, issuedEK{ca, r})
		}
	}
	slices.SortStableFunc(all, func(a, b issuedEK) int { return a.Issued.Compare(b.Issued) })
	return all, nil
}

// showEK prints the newest certificate of a node, or the one with a serial number, or a CA's own.
func showEK(s streams, cas []authority.CA, what string) error {
	issued, err := allIssued(cas)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(issued) {
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
		if err := describeEK(s, r.Record, block.Bytes); err != nil {
			return err
		}
		_, err = s.out.Write(data)
		return err
	}
	for _, ca := range cas {
		if ca.Name == what || what == "ca" && ca.Active {
			_, err := s.out.Write(ekca.PEM(ca.Chain()...))
			return err
		}
	}
	return usagef("the lab's EK CA issued no certificate for %q: `keylab ek list` shows them", what)
}
