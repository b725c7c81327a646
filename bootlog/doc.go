// Package bootlog makes the measured-boot event log of a machine that does not exist, and the PCR values that follow from it.
//
// A [Machine] says what the node is and boots: firmware, Secure Boot keys, shim, GRUB, kernel, initrd, command line. [Make] turns it into
// a [Log], always the same one for the same machine:
//
//	m := bootlog.NewMachine("rack-7", "node-1")
//	log, err := bootlog.Make(m, []crypto.Hash{crypto.SHA1, crypto.SHA256})
//	os.WriteFile("binary_bios_measurements", log.Bytes(), 0o644)
//	for _, e := range log.Extensions() { ... } // TPM2_PCR_Extend(e.PCR, e.Digests)
//
// [Log.Bytes] is the crypto-agile format of the TCG PC Client Platform Firmware Profile (PFP), version 1.05, section 10: a
// TCG_PCClientPCREvent of type EV_NO_ACTION with the text "Spec ID Event03", then TCG_PCR_EVENT2 records. All integers are little-endian.
// [Log.Replay] is what those records add up to; [Log.PCRs] is what a TPM holds once [Log.Extensions] were made. The two agree unless
// somebody tampered.
//
// What is measured where follows PFP section 3.3.4 for PCR 0 to 7, GRUB for PCR 8 and 9 (GRUB manual, "Measured Boot"), shim for PCR 14,
// and systemd-stub for PCR 11 to 13 (systemd, "TPM2 PCR Measurements Made by systemd"). The last only with Machine.Stub, because a kernel
// without that stub extends none of the three, and because no log with such events passes Keylime's policy "example".
//
// Digests of things that a log names but does not contain, such as an image's Authenticode digest, are hashes over their name and version:
// equal versions give equal digests on all machines. Certificates have the shape of real ones, but nobody holds their keys and their
// signatures are noise: measured boot compares them, it does not verify them.
//
// For experiments: [Machine.FirmwareUpdate] is a legitimate change, [Tampers] lists the others, each with what it does to PCRs, to replay and
// to Keylime. [Log.RefState] is the reference state by which Keylime's policy "example" accepts the machine.
package bootlog
