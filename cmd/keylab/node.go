package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/control"
)

func newNode(s streams) *cobra.Command {
	var f labFlag
	var pcr string
	var agent agentFlags
	var joining nodeFlag
	c := &cobra.Command{
		Use:   "node ACTION NODE [OTHER]",
		Short: "Stop, start, reboot or crash a node of a running lab, replace its TPM or its agent, have it trusted again, or change which nodes there are",
		Long: `Does to a node of a running lab what its operator, or fate, could:

  stop           shut it down: agent and TPM end in order, and nobody answers for it
  start          start it again; its agent registers with the same keys
  reboot         stop and start; PCRs are reset, the TPM's reset count grows and its clock goes on
  crash          cut its power and start it: the TPM's clock goes back to what it last saved
  replace-tpm    put another TPM into it, with an EK certificate of the lab's active CA; the old one is destroyed
  restart-agent  start its agent again, which then registers
  replace-agent  put another agent in the place of its own, of another --kind or another program at --path: the node keeps TPM, UUID and contact address, and
                 the old agent's files stay on its disk. The lab remembers it (substrate netns)
  contact        give its agent another contact address, a hostname, with which it registers; the one that it had leads nowhere any more
  reimage        install it anew: it keeps its TPM, and what its agent had on the disk, such as its key, is lost
  pcr-extend     extend a --pcr by something that no log has
  tpm-reset      clear its TPM, as a firmware's menu does, and reboot: the EK and its certificate stay, the agent's key is lost
  tpm-swap       exchange its TPM with the one of the OTHER node
  tpm-clone      put a copy of its TPM into the OTHER node, in place of that one's own

changes which nodes there are:

  add            have one more node join the running lab, as the lab's file has nodes by default, and return when it is attested; what is special about it is
                 in a --file, as it would stand in the file's list of nodes; without NODE it gets a name
  remove         have verifier and registrar forget the node, and take it out of the lab. Its TPM is kept, and on the substrate netns its disk: added again
                 under its name, it is the machine that it was

and does what an operator of Keylime does about it:

  reactivate     have the verifier ask a node again that it had given up; in the push model that helps nobody who failed, but enrol does
  forget         have verifier and registrar forget the node
  enrol          have the verifier forget the node, and the tenant enrol it anew; its payload, if there is one, is delivered again. Where the registrar
                 knows the node with another EK certificate than its TPM has now, or not at all, or its agent could not register, the agent is forgotten
                 there, started again and registered
  policy-runtime give the verifier a runtime policy that also allows all files which the node has measured
  policy-boot    give the verifier the reference state of the firmware that the node has now
  policy-tpm     enrol the node anew, with a TPM policy by which a --pcr has the value that it has now

The TPM and the agent keep their keys over all but replace-tpm, replace-agent, reimage and what is done to TPMs; after the latter the registrar may refuse the agent, which is told; a payload goes with the machine's memory. keylab returns when it is done:
after start and restart-agent when the agent is registered and reachable, after reactivate and enrol when the verifier had a good quote.`,
		Example: `  keylab node reboot node-1
  keylab node replace-tpm node-2 && keylab node enrol node-2
  keylab node tpm-swap node-1 node-2
  keylab node replace-agent node-1 --kind binary --path ./keylime_agent && keylab node enrol node-1
  keylab node add && keylab verify
  echo 'tpm: {ekAlgorithm: ecc-p256}' | keylab node add ecc --file -`,
		ValidArgsFunction: completeNode(&f),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && !slices.Contains(control.Actions, args[0]) {
				return usagef("there is no action %q; there are %s", args[0], strings.Join(control.Actions, ", "))
			}
			if len(args) > 0 && control.TwoNodes(args[0]) {
				return cobra.ExactArgs(3)(c, args)
			}
			if len(args) == 1 && args[0] == control.ActionAdd {
				return nil
			}
			return cobra.ExactArgs(2)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			action := control.Action{Kind: args[0]}
			if len(args) > 1 {
				action.Node = args[1]
			}
			if len(args) > 2 {
				action.Other = args[2]
			}
			if c.Flags().Changed("pcr") {
				var err error
				if action.PCR, err = control.ParsePCR(pcr); err != nil {
					return usageError{err}
				}
			}
			if err := agent.over(&action); err != nil {
				return err
			}
			definition, named, err := joining.read(s.in)
			if err != nil {
				return err
			}
			action.Definition = definition
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				p, err := l.Planned()
				if err != nil {
					return explain(l, err)
				}
				if action.Node = named; named == "" {
					action.Node = p.FreeNodeName()
				}
			}
			if err := action.Check(); err != nil {
				return usageError{err}
			}
			done, err := l.Act(c.Context(), action)
			if err != nil {
				return explain(l, err)
			}
			fmt.Fprintf(s.err, "%s: %s.\n", action.Node, done)
			return nil
		},
	}
	f.add(c)
	c.Flags().StringVar(&pcr, "pcr", "", "of pcr-extend and policy-tpm: which one, 0 to 23")
	agent.add(c)
	joining.add(c)
	return c
}

// completeNode offers the actions, and then the lab's nodes, each once.
func completeNode(f *labFlag) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return control.Actions, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) > 2 || args[0] == control.ActionAdd || len(args) > 1 && !control.TwoNodes(args[0]) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := completeNodes(f)(c, nil, "")
		return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args[1:], n) }), directive
	}
}
