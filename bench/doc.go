// Package bench measures keylab: how long a lab takes to come up beside Keylime's services alone, what making a TPM costs beside
// swtpm_setup, how fast agents quote, and how much memory a node needs.
//
//	report, err := bench.Run(ctx, bench.Options{Nodes: 8, Repetitions: 5})
//	err = report.WriteTable(os.Stdout)
//
// Everything that is compared is measured in one run on one machine, in turn (keylab, other, keylab, other, …), so that a machine
// that grows slower in between does so for both. Nothing is asserted: a machine's speed is no property of the program. What could
// not be measured is in the report too, with the reason.
//
// # Reading the figures
//
// A [Figure] holds all its samples. Where the samples should agree (repetitions of one measurement) and do not, it is marked noisy;
// where they are a distribution (latencies of single requests, TPMs made one by one), they may differ and are not marked. Wall time
// grows with whatever else the machine does; processor time (user and system, of all processes of the lab) hardly does, so on a busy
// machine trust that.
//
// # Programs that use it
//
// The labs are brought up in this very program, so [keylab.dev/keylab/lab.Init] must be called first in main. Quote latencies are
// measured from inside the lab by the program started again: see [ClientCommand].
package bench
