// Package measure is what the firmware and the kernel of one simulated node measure: the boot log, PCRs 0 to 9 and 14, the IMA list, and
// PCR 10. It needs a client of the node's TPM, and a folder.
//
//	n, err := measure.New(measure.Options{Dir: dir, OpenTPM: open, Machine: &machine, IMA: &measure.IMA{Template: ima.TemplateNG, Files: files}})
//	err = n.Boot(ctx)                         // after every power-on, before anybody quotes
//	entry, err := n.Measure(ctx, path, digest) // the kernel measures one more file
//
// [Node.Boot] extends the TPM, in all of its banks, by what package bootlog says, and then begins the IMA list with the boot aggregate of what the TPM
// holds. Nothing of a boot outlasts the next one, as in a kernel; only what [Node.UpdateFirmware] did stays.
//
// Both logs are files in the folder too, for agents that read files: [ListFile] and [LogFile]. As in the kernel (ima_add_template_entry) an entry is in
// the list before PCR 10 is extended, so that a quote never covers what a list that was read after it lacks.
//
// [Node.TamperList], [Node.TamperPCR] and [Node.TamperBoot] make the node lie, for experiments.
package measure
