package fleet

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
)

// bootPCRs are those that a boot without systemd-stub extends.
var bootPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}

// Measure shows what a node has measured, or changes it. After control.TamperBoot and control.UpdateFirmware the node has to be rebooted.
func Measure(ctx context.Context, n plan.Node, measured *measure.Node, m control.Measurement) (a control.Measured, err error) {
	switch m.Kind {
	case control.ShowList:
		a.IMA, err = showList(ctx, n, measured)
	case control.MeasureFile:
		a.Done, err = measureFile(ctx, n, measured, m)
	case control.TamperList:
		var e ima.Entry
		e, err = measured.TamperList()
		a.Done = fmt.Sprintf("%s is no longer in the list, but PCR 10 has it", e.Path)
	case control.TamperPCR:
		err = measured.TamperPCR(ctx)
		a.Done = "PCR 10 was extended by something that the list does not have"
	case control.ShowBoot:
		a.Boot, err = showBoot(ctx, measured)
	case control.TamperBoot:
		var t bootlog.Tamper
		t, err = measured.TamperBoot(m.Tamper)
		a.Done = strings.TrimSuffix(t.Description, ".")
	case control.UpdateFirmware:
		err = measured.UpdateFirmware(m.Version)
		a.Done = "its firmware is version " + m.Version
	default:
		err = fmt.Errorf("there is no such measurement: %q", m.Kind)
	}
	switch {
	case errors.Is(err, measure.ErrNoIMA):
		err = errNoFiles(n)
	case errors.Is(err, measure.ErrNoBoot):
		err = fmt.Errorf("%s does not measure its boot: set measuredBoot.enabled: true in the lab's file", n.Name)
	case err != nil:
		err = fmt.Errorf("%s: %w", n.Name, err)
	}
	if err != nil {
		return control.Measured{}, err
	}
	return a, nil
}

func errNoFiles(n plan.Node) error {
	return fmt.Errorf("%s measures no files: set ima.enabled: true in the lab's file", n.Name)
}

// measureFile finds the digest, and has the file measured.
func measureFile(ctx context.Context, n plan.Node, measured *measure.Node, m control.Measurement) (string, error) {
	text, err := digestOf(n, m)
	if err != nil {
		return "", err
	}
	digest := ima.Digest{}
	if text != "" {
		if digest, err = ima.ParseDigest(text); err != nil {
			return "", err
		}
	}
	e, err := measured.Measure(ctx, measure.File{Path: m.Path, Digest: digest, Signature: m.Signature})
	if err != nil {
		return "", err
	}
	switch {
	case listed(n, e):
		return fmt.Sprintf("%s was measured; the runtime policy allows it", e.Path), nil
	case m.Sign == control.SignLab:
		return fmt.Sprintf("%s was measured; the runtime policy has the key that signed it", e.Path), nil
	case m.Sign == control.SignStranger:
		return fmt.Sprintf("%s was measured; the runtime policy neither allows it nor has the key that signed it", e.Path), nil
	}
	return fmt.Sprintf("%s was measured; the runtime policy does not allow it", e.Path), nil
}

// digestOf is the digest of the file of a measurement: the one that is given, or else the specification's; "" for a node that measures no files.
func digestOf(n plan.Node, m control.Measurement) (string, error) {
	if m.Digest != "" || n.IMA == nil {
		return m.Digest, nil
	}
	text := ""
	for _, f := range n.IMA.Files {
		if f.Path == m.Path {
			text = f.Digest
		}
	}
	if text == "" {
		return "", fmt.Errorf("%s is not among the files of the lab's specification: give its digest, or a file", m.Path)
	}
	return text, nil
}

// allowed tells whether the runtime policy allows an entry, as far as the specification says, or trusts its signature.
func allowed(n plan.Node, e ima.Entry) bool { return listed(n, e) || signed(n, e) }

// listed tells whether the runtime policy has the file of an entry.
func listed(n plan.Node, e ima.Entry) bool {
	if e.Path == ima.BootAggregate {
		return true
	}
	for _, f := range n.IMA.Files {
		if strings.ReplaceAll(f.Path, " ", "_") == strings.ReplaceAll(e.Path, " ", "_") && f.Digest == e.Digest.String() {
			return true
		}
	}
	return false
}

func showList(ctx context.Context, n plan.Node, measured *measure.Node) (*control.IMAList, error) {
	entries, err := measured.List()
	if err != nil {
		return nil, err
	}
	list, err := ima.NewList(entries[0].Template, entries[0].Digest)
	for _, e := range entries[1:] {
		if err == nil {
			err = list.Append(e)
		}
	}
	if err != nil {
		return nil, err
	}
	replay, err := list.Replay(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	values, err := measured.PCRs(ctx, ima.PCR)
	if err != nil {
		return nil, err
	}
	out := &control.IMAList{PCR: hex.EncodeToString(values[ima.PCR]), Replay: hex.EncodeToString(replay)}
	for _, e := range entries {
		out.Entries = append(out.Entries, control.IMAEntry{Template: string(e.Template), Digest: e.Digest.String(), Path: e.Path, Signature: e.Signature, Allowed: allowed(n, e)})
	}
	return out, nil
}

func showBoot(ctx context.Context, measured *measure.Node) (*control.BootLog, error) {
	b, err := measured.Booted()
	if err != nil {
		return nil, err
	}
	values, err := measured.PCRs(ctx, bootPCRs...)
	if err != nil {
		return nil, err
	}
	out := &control.BootLog{Firmware: b.Firmware, Tamper: b.Tamper}
	for _, e := range b.Log.Events() {
		out.Events = append(out.Events, control.BootEvent{PCR: e.PCR, Type: e.Type.String(), Digest: hex.EncodeToString(e.Digests[crypto.SHA256]), Text: eventText(e.Data)})
	}
	replay := b.Log.Replay(crypto.SHA256)
	for _, pcr := range bootPCRs {
		value := replay[pcr]
		if value == nil {
			value = make([]byte, crypto.SHA256.Size())
		}
		out.PCRs = append(out.PCRs, control.BootPCR{PCR: pcr, TPM: hex.EncodeToString(values[pcr]), Replay: hex.EncodeToString(value)})
	}
	return out, nil
}

// eventText is the data of an event where it is text, without its NUL; else "".
func eventText(data []byte) string {
	text := strings.TrimSuffix(string(data), "\x00")
	if strings.ContainsFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return ""
	}
	return text
}
