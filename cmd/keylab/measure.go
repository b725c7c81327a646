package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/lab/control"
)

// measured asks a lab for what a node has measured, or to change it, and says what was changed.
func measured(c *cobra.Command, s streams, f *labFlag, m control.Measurement) (control.Measured, error) {
	l, err := f.open(nil)
	if err != nil {
		return control.Measured{}, err
	}
	a, err := l.Measure(c.Context(), m)
	if err != nil {
		return a, explain(l, err)
	}
	if a.Done != "" {
		fmt.Fprintf(s.err, "%s: %s.\n", m.Node, a.Done)
	}
	return a, nil
}

func newIMA(s streams) *cobra.Command {
	var f labFlag
	var path, digest, file, sign, output string
	c := &cobra.Command{
		Use:   "ima NODE list|add|tamper [list|pcr]",
		Short: "Show the files that a node measured, have it measure one more, or make it lie",
		Long: `Shows or changes what the kernel of one node measured (IMA), in a lab whose file has ima.enabled: true:

  list         show the measurement list, and whether it explains PCR 10 of the node's TPM
  add          measure a file: its digest is that of --file, a file of this machine, or --digest, or, with neither, what the lab's file
               has for --path. A file that the runtime policy does not allow makes the verifier give the node up, unless it is signed with
               the lab's key (--sign lab); a signature with another key (--sign stranger) does not help it. The node's list must have
               signatures: ima.template: ima-sig
  tamper list  take the newest entry out of the list, as an intruder does who does not want to be seen; PCR 10 keeps it
  tamper pcr   extend PCR 10 by something that the list does not have

A reboot undoes all of it: the list and PCR 10 begin anew. The verifier asks a node that it had given up again after ` + "`keylab node reactivate`" + `; in the
push model it trusts one again after ` + "`keylab node enrol`.",
		Example: `  keylab ima node-1 list
  keylab ima node-1 add --path /usr/bin/curl
  keylab ima node-2 add --path /tmp/miner --file ./miner
  keylab ima node-2 add --path /opt/new --file ./new --sign lab
  keylab ima node-3 tamper pcr`,
		ValidArgsFunction: completeNodes(&f),
		Args: func(_ *cobra.Command, args []string) error {
			return firstWords(args, [][]string{{"list"}, {"add"}, {"tamper", "list"}, {"tamper", "pcr"}})
		},
		RunE: func(c *cobra.Command, args []string) error {
			m := control.Measurement{Node: args[0], Path: path, Digest: digest, Sign: sign}
			switch strings.Join(args[1:], " ") {
			case "list":
				return showIMA(c, s, &f, m, output)
			case "tamper list":
				m.Kind = control.TamperList
			case "tamper pcr":
				m.Kind = control.TamperPCR
			default:
				m.Kind = control.MeasureFile
				if err := fileToMeasure(&m, file); err != nil {
					return err
				}
			}
			_, err := measured(c, s, &f, m)
			return err
		},
	}
	f.add(c)
	c.Flags().StringVar(&path, "path", "", "add: the file's path on the node")
	c.Flags().StringVar(&digest, "digest", "", "add: the file's digest, as sha256:…")
	c.Flags().StringVar(&file, "file", "", "add: take the digest of this file")
	c.Flags().StringVar(&sign, "sign", "", "add: sign the file with this key: lab or stranger")
	c.Flags().StringVarP(&output, "output", "o", "table", "list: table or json")
	return c
}

// firstWords checks that a node's name is followed by one of the choices.
func firstWords(args []string, choices [][]string) error {
	var names []string
	for _, c := range choices {
		if len(args) > 0 && slices.Equal(args[1:], c) {
			return nil
		}
		names = append(names, "NODE "+strings.Join(c, " "))
	}
	return usagef("%q is none of %s", strings.Join(args, " "), strings.Join(names, ", "))
}

// fileToMeasure puts path and digest of a file into the request.
func fileToMeasure(m *control.Measurement, file string) error {
	switch {
	case !slices.Contains([]string{"", control.SignLab, control.SignStranger}, m.Sign):
		return usagef("--sign %q is not one of %s, %s", m.Sign, control.SignLab, control.SignStranger)
	case file != "" && m.Digest != "":
		return usagef("--file and --digest exclude one another")
	case file == "" && m.Path == "":
		return usagef("add needs the --path of the file on the node")
	case file == "":
		return nil
	}
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read the file to measure: %w", err)
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return fmt.Errorf("read the file to measure: %w", err)
	}
	m.Digest = fmt.Sprintf("sha256:%x", h.Sum(nil))
	if m.Path == "" {
		if m.Path, err = filepath.Abs(file); err != nil {
			return fmt.Errorf("the path of the file to measure: %w", err)
		}
	}
	return nil
}

func showIMA(c *cobra.Command, s streams, f *labFlag, m control.Measurement, output string) error {
	if err := checkOutput(output, "table", "json"); err != nil {
		return err
	}
	m.Kind = control.ShowList
	a, err := measured(c, s, f, m)
	if err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(s.out, a.IMA)
	}
	var rows [][]string
	for i, e := range a.IMA.Entries {
		rows = append(rows, []string{strconv.Itoa(i), e.Template, e.Digest, yesNo(e.Allowed), yesNo(len(e.Signature) > 0), e.Path})
	}
	if err := table(s.out, "ENTRY|TEMPLATE|DIGEST|ALLOWED|SIGNED|PATH", rows); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nPCR 10 (SHA-256)  %s\nthe list gives    %s (%s)\n", a.IMA.PCR, a.IMA.Replay, sameOrNot(a.IMA.PCR, a.IMA.Replay))
	return nil
}

func newBoot(s streams) *cobra.Command {
	var f labFlag
	var output string
	var tampers strings.Builder
	for _, t := range bootlog.Tampers() {
		fmt.Fprintf(&tampers, "  %-17s%s\n", t.Name, t.Description)
	}
	c := &cobra.Command{
		Use:   "boot NODE show|tamper NAME|firmware-update VERSION",
		Short: "Show what a node measured at its last boot, or reboot it with a tampered boot or another firmware",
		Long: `Shows or changes what the firmware of one node measures (measured boot), in a lab whose file has measuredBoot.enabled: true:

  show                     show the events of the boot log, and whether they explain the PCRs of the node's TPM
  tamper NAME              reboot the node, and have that one boot go wrong. The next boot is as it should be
  firmware-update VERSION  reboot the node with another firmware, which it keeps until the lab is taken down. The verifier has no reference
                           state for it, and gives the node up, until ` + "`keylab node enrol`" + ` gives it one

The tampers:

` + strings.TrimRight(tampers.String(), "\n"),
		Example: `  keylab boot node-1 show
  keylab boot node-1 tamper command-line && keylab status
  keylab node reboot node-1 && keylab node reactivate node-1
  keylab boot node-2 firmware-update 2.2.0 && keylab node enrol node-2`,
		ValidArgsFunction: completeNodes(&f),
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 2 && args[1] == "show", len(args) == 3 && slices.Contains([]string{"tamper", "firmware-update"}, args[1]):
				return nil
			}
			return usagef("%q is none of NODE show, NODE tamper NAME, NODE firmware-update VERSION", strings.Join(args, " "))
		},
		RunE: func(c *cobra.Command, args []string) error {
			m := control.Measurement{Node: args[0]}
			switch args[1] {
			case "show":
				return showBoot(c, s, &f, m, output)
			case "tamper":
				m.Kind, m.Tamper = control.TamperBoot, args[2]
			default:
				m.Kind, m.Version = control.UpdateFirmware, args[2]
			}
			_, err := measured(c, s, &f, m)
			return err
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "show: table or json")
	return c
}

func showBoot(c *cobra.Command, s streams, f *labFlag, m control.Measurement, output string) error {
	if err := checkOutput(output, "table", "json"); err != nil {
		return err
	}
	m.Kind = control.ShowBoot
	a, err := measured(c, s, f, m)
	if err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(s.out, a.Boot)
	}
	var events, pcrs [][]string
	for i, e := range a.Boot.Events {
		events = append(events, []string{strconv.Itoa(i + 1), strconv.Itoa(e.PCR), e.Type, e.Digest[:16] + "…", e.Text})
	}
	for _, p := range a.Boot.PCRs {
		pcrs = append(pcrs, []string{strconv.Itoa(p.PCR), p.TPM, sameOrNot(p.TPM, p.Replay)})
	}
	fmt.Fprintf(s.out, "Firmware %s, %s.\n\n", a.Boot.Firmware, orWord(a.Boot.Tamper, "an honest boot", "tampered with: "))
	if err := table(s.out, "EVENT|PCR|TYPE|SHA-256|TEXT", events); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	return table(s.out, "PCR|SHA-256 BANK OF THE TPM|THE LOG", pcrs)
}

// sameOrNot says whether a log explains a PCR.
func sameOrNot(tpm, replay string) string {
	if tpm == replay {
		return "explains it"
	}
	return "does NOT explain it"
}

// orWord is the text behind a prefix, or another one where there is no text.
func orWord(text, none, prefix string) string {
	if text == "" {
		return none
	}
	return prefix + text
}
