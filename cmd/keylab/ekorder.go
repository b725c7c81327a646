package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/control"
)

// newEKOrders are the sub-commands of ek that change something, each an order to the lab.
func newEKOrders(s streams, f *labFlag) []*cobra.Command {
	var commands []*cobra.Command
	add := func(o *control.EKOrder, subject *string, c *cobra.Command) *cobra.Command {
		c.Args = cobra.ExactArgs(1)
		c.RunE = func(c *cobra.Command, args []string) error {
			*subject = args[0]
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			done, err := l.EK(c.Context(), *o)
			if err != nil {
				return explain(l, err)
			}
			if done.Hint != "" {
				done.Text += "; " + done.Hint
			}
			fmt.Fprintf(s.err, "%s: %s.\n", args[0], done.Text)
			if done.Refused != "" {
				return quietError{exitFailed}
			}
			return nil
		}
		commands = append(commands, c)
		return c
	}

	made := &control.EKOrder{Kind: control.EKNewCA}
	add(made, &made.CA, &cobra.Command{
		Use:   "new-ca NAME",
		Short: "Make another EK CA, with a root, intermediates and names of its own; nobody trusts it yet",
	}).Flags().StringVar(&made.Algorithm, "algorithm", "", "of its keys: rsa2048, rsa3072, ecc-p256 or ecc-p384 (default: as the first CA's)")

	trusted := &control.EKOrder{Kind: control.EKTrust}
	add(trusted, &trusted.CA, &cobra.Command{
		Use:   "trust CA",
		Short: "Put a CA's certificates into the tpm_cert_store of Keylime's tenant",
		Long: `Puts a CA's certificates into the tpm_cert_store of Keylime's tenant, beside those of other CAs. Keylime looks for the one certificate that
signed the EK certificate, and no further: with --level root it trusts nothing that an intermediate CA signed.`,
	}).Flags().StringVar(&trusted.Level, "level", "all", "which of its certificates: all, issuer or root; the others are taken out")

	distrusted := &control.EKOrder{Kind: control.EKDistrust}
	add(distrusted, &distrusted.CA, &cobra.Command{
		Use:   "distrust CA",
		Short: "Take a CA's certificates out of the tpm_cert_store",
		Long: `Takes a CA's certificates out of the tpm_cert_store, those that other CAs made for it too. Nodes that are enrolled stay so: Keylime looks at EK
certificates only when an agent is added.`,
	})

	activated := &control.EKOrder{Kind: control.EKActivate}
	add(activated, &activated.CA, &cobra.Command{
		Use:   "activate CA",
		Short: "Have a CA issue for new TPMs from now on; the one that did is retired",
		Long: `Has a CA issue the EK certificates of new TPMs from now on, as those of ` + "`keylab node replace-tpm`" + `. The CA that did is retired: from then on verify also
proves that every node has a certificate of the active CA, and that the tpm_cert_store has nothing of a retired one.`,
	})

	crossed := &control.EKOrder{Kind: control.EKCrossSign}
	cross := add(crossed, &crossed.CA, &cobra.Command{
		Use:   "cross-sign CA --by CA",
		Short: "Have another CA certify a CA's issuing key too, and put that certificate into the tpm_cert_store",
		Long: `Has another CA certify a CA's issuing key too, so that who trusts the other one's root and builds chains accepts what this CA issues; and puts that certificate
into the tpm_cert_store. Keylime builds no chains: to it this is trust in the CA itself, which stays when the CA that signed it is distrusted.`,
	})
	cross.Flags().StringVar(&crossed.By, "by", "", "the CA that signs")
	_ = cross.MarkFlagRequired("by")

	leaked := &control.EKOrder{Kind: control.EKLeak}
	add(leaked, &leaked.CA, &cobra.Command{
		Use:   "leak CA",
		Short: "Let a thief have a CA's key: he certifies a TPM of his own, and no record tells of it",
	})

	issued := &control.EKOrder{Kind: control.EKIssue}
	issue := add(issued, &issued.Node, &cobra.Command{
		Use:   "issue NODE",
		Short: "Put another certificate for the same EK into a node's TPM",
		Long: `Puts another certificate for the same EK into a node's TPM, in the place of the old one. Keylime does not learn of it: the agent reads it when it starts, and the
registrar refuses the agent then, until it has been told to forget it. So:

  keylab ek issue NODE --restart   shows the refusal (exit status 1)
  keylab node enrol NODE           has the node forgotten, registered and enrolled anew`,
		Example: `  keylab ek new-ca ca-2 && keylab ek trust ca-2
  keylab ek issue node-1 --ca ca-2 --supersede && keylab node enrol node-1`,
	})
	issue.Flags().StringVar(&issued.CA, "ca", "", "the CA that issues it (default: the active one)")
	issue.Flags().BoolVar(&issued.Expired, "expired", false, "one that has expired")
	issue.Flags().BoolVar(&issued.Absent, "absent", false, "none at all: take out the one that is there")
	issue.Flags().BoolVar(&issued.Leaked, "leaked", false, "one that a thief of the CA's key made, which no record holds")
	issue.Flags().BoolVar(&issued.Supersede, "supersede", false, "revoke the one that was there, as superseded")
	issue.Flags().BoolVar(&issued.Restart, "restart", false, "start the agent again, which then registers with it")

	revoked := &control.EKOrder{Kind: control.EKRevoke}
	add(revoked, &revoked.Node, &cobra.Command{
		Use:   "revoke NODE",
		Short: "Revoke the certificate in a node's TPM; Keylime does not look at CRLs",
	}).Flags().StringVar(&revoked.Reason, "reason", "keyCompromise", "by RFC 5280, section 5.3.1")
	return commands
}
