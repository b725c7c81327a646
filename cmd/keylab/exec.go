package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
)

func newExec(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "exec HOST -- COMMAND [ARGUMENT…]",
		Short: "Run a command on a node or another host of the lab",
		Long: `Runs a command on one of the lab's hosts: in its network namespace, with its DNS server and host name. Hosts are the nodes
and registrar, verifier, tenant, dns, ingress, router. On a node TPM2TOOLS_TCTI and TCTI name the node's TPM. The exit
status is the command's.`,
		Example: `  keylab exec node-1 -- ip address
  keylab exec tenant -- curl --connect-timeout 1 http://198.18.20.11:9002   # does not get through`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeNodes(&f),
		RunE: func(c *cobra.Command, args []string) error {
			return runOn(c.Context(), s, &f, args[0], args[1:])
		},
	}
	f.add(c)
	return c
}

func newShell(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:               "shell HOST",
		Short:             "Open a shell on a node or another host of the lab",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeNodes(&f),
		RunE: func(c *cobra.Command, args []string) error {
			shell := os.Getenv("SHELL")
			if _, err := exec.LookPath(shell); err != nil {
				shell = "/bin/sh"
			}
			err := runOn(c.Context(), s, &f, args[0], []string{shell})
			if errors.As(err, new(commandStatus)) {
				return nil // the status of whatever was typed last says nothing about keylab
			}
			return err
		},
	}
	f.add(c)
	return c
}

func newTPM(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "tpm NODE -- COMMAND [ARGUMENT…]",
		Short: "Run a TPM tool against a node's TPM",
		Long: `Runs a TPM tool, such as those of tpm2-tools, on a node, with TPM2TOOLS_TCTI and TCTI naming the node's TPM. The exit status is
the tool's.`,
		Example: `  keylab tpm node-1 -- tpm2_pcrread sha256:10,16
  keylab tpm node-1 -- tpm2_getekcertificate --ek-certificate ek.der`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeNodes(&f),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			if err := isNode(c.Context(), l, args[0]); err != nil {
				return err
			}
			l.SetTerminal(s.terminal())
			cmd, err := l.TPMCommand(context.WithoutCancel(c.Context()), args[0], args[1:]...)
			if err != nil {
				return explain(l, err)
			}
			return attached(s, cmd)
		},
	}
	f.add(c)
	return c
}

// isNode refuses a host that has no TPM.
func isNode(ctx context.Context, l *lab.Lab, name string) error {
	status, err := l.Status(ctx)
	if err != nil {
		return explain(l, err)
	}
	var names []string
	for _, n := range status.Nodes {
		if n.Name == name {
			return nil
		}
		names = append(names, n.Name)
	}
	return usagef("lab %q has no node %q; it has %v", l.Name(), name, names)
}

func newTenant(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "tenant -- [ARGUMENT…]",
		Short: "Run Keylime's own keylime_tenant in the lab",
		Example: `  keylab tenant -- -c reglist
  keylab tenant -- -c cvstatus -u UUID`,
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			l.SetTerminal(s.terminal())
			cmd, err := l.TenantCommand(c.Context(), args...)
			if err != nil {
				return explain(l, err)
			}
			return attached(s, cmd)
		},
	}
	f.add(c)
	return c
}

// runOn runs a command on a host with the user's own terminal.
func runOn(ctx context.Context, s streams, f *labFlag, host string, argv []string) error {
	l, err := f.open(nil)
	if err != nil {
		return err
	}
	l.SetTerminal(s.terminal())
	// The command gets ctrl-C from the terminal itself, and decides what to do about it.
	cmd, err := l.Command(context.WithoutCancel(ctx), host, argv...)
	if err != nil {
		return explain(l, err)
	}
	return attached(s, cmd)
}

func attached(s streams, cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return commandStatus{128 + int(ws.Signal())} // as a shell would have it
	}
	return commandStatus{exit.ExitCode()}
}
