// Package scenario carries out experiments on a lab: files with steps (actions, faults, expectations), of which every one must hold.
//
//	s, err := scenario.Decode("partition.yaml", data)
//	run := scenario.Run(ctx, s, scenario.Options{})
//	if run.Verdict != report.Passed { ... }
//
// A run brings up the lab that the scenario describes, or uses one that runs. From then on it records a history: every state that a node or a component
// of the lab gets, every attestation, every notice and what the network's counters grew by, with monotonic times. Steps are carried out one after the
// other. A fault must be seen to have fired, by something that only it can have caused. An expectation is judged by the history, not by the moment at
// which the step has its turn: what happened in time counts, even if it is over.
//
// The engine knows labs by the interface Lab alone, and no substrate.
package scenario
