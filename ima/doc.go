// Package ima models the measurement list that the Linux Integrity Measurement Architecture (IMA) of one simulated node keeps:
// which files were measured since boot, as the text of ascii_runtime_measurements, and what each of them does to PCR 10.
//
// # Using it
//
//	list, err := ima.NewList(ima.TemplateNG, ima.Digest{Hash: crypto.SHA256, Sum: bootAggregate})
//	entry := ima.Entry{Template: ima.TemplateNG, Digest: digest, Path: "/usr/bin/dash"}
//	err = list.Append(entry)
//	extension, err := entry.Extension(crypto.SHA256) // what to give to TPM2_PCR_Extend, PCR 10, this bank
//	text, err := list.Lines(0)                       // the whole list; Lines(n) leaves out the first n entries
//	pcr10, err := list.Replay(crypto.SHA256)         // what PCR 10 holds if nothing else extended it
//	entry.Signature, err = ima.Sign(key, digest)     // for TemplateSig: as evmctl signs a file
//
// # The format
//
// It is that of the kernel's Documentation/security/IMA-templates.rst and of security/integrity/ima (ima_template_lib.c makes
// the fields, ima_fs.c prints them). One line is one [Entry]:
//
//	10 <SHA-1 template hash> ima-ng <algorithm>:<file digest> <path>
//	10 <SHA-1 template hash> ima-sig <algorithm>:<file digest> <path> <signature>
//
// with one space between fields, lower-case hexadecimal digits, and a line feed after every line. Without a signature, the space
// before it is there all the same. The template hash is taken over the binary template data, see [Entry.TemplateData].
// PCR 10 of each bank is extended by the hash of the same data with the bank's own algorithm, as kernels do since 5.8; older ones
// extended all banks by the SHA-1 hash with zeros after it.
//
// # What differs from a kernel
//
// A kernel measures a file again only when it has changed: it leaves out an entry that the list has already (unless it was built
// with CONFIG_IMA_DISABLE_HTABLE). [List.Append] takes what it is given: what is measured is the caller's to decide. Templates
// other than ima-ng and ima-sig, and the binary list, are not modelled.
package ima
