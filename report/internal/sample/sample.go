// Package sample has made-up runs of scenarios, for the tests of reports: what they hold is like what a lab shows, and always the same.
package sample

import (
	"fmt"
	"strings"
	"time"

	"keylab.dev/keylab/report"
)

// Started is when all of them began.
var Started = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
}

// Topology is a picture of a lab, in short.
const Topology = `<svg xmlns="http://www.w3.org/2000/svg" class="keylab-graph" viewBox="0 0 240 40" role="img" aria-label="The lab"><rect width="240" height="40" rx="8" fill="none" stroke="currentColor"/></svg>`

func base(scenario, title string) report.Run {
	return report.Run{
		Schema: report.RunSchema, Scenario: scenario, Title: title, Lab: "rotation", Substrate: "netns", Mode: "pull", Keylime: "7.14.3",
		Agent: "go", Keylab: "v0.3.0", Seed: 42, Started: Started, Topology: Topology,
		Polls: 574, Polling: 2813 * time.Millisecond,
	}
}

// Rotation is a run that passed: the EK CA of four nodes is replaced by another, node by node, and one node is refused on the way.
func Rotation() report.Run {
	r := base("ek-rotation-overlap", "Replace the EK CA while every node stays attested")
	r.Question = "Can the CA that certifies all EKs be replaced without one node losing its attestation?"
	r.Happens = "A second CA is trusted beside the first. Each node in turn gets a new certificate for the same EK, registers again and is enrolled again. When the last one is over, the first CA is no longer trusted."
	r.Why = "Keylime's tenant looks at the EK certificate only when a node is enrolled, and takes any CA in its tpm_cert_store.\n\nThe registrar keeps the certificate of a node until its record is deleted: a node that registers again before that is refused."
	r.Fleet = "Trust the new CA first, go node by node, and take the old CA away last. Between its deletion and its next good quote a node is not attested: plan for seconds, not for none."
	r.Duration, r.Verdict = at(41.3), report.Passed
	nodes := []string{"rack-1", "rack-2", "rack-3", "rack-4"}
	r.Steps = []report.Step{
		{Kind: report.StepLab, Name: "bring the lab up", Status: report.StepPassed, Duration: at(4.6), Done: "4 of 4 nodes attested"},
		{Number: 1, Kind: report.StepExpect, Name: "every node is attested", Status: report.StepPassed, At: at(4.7), Duration: at(1.2), Evidence: "attestation counts 1, 1, 1, 1 → 2, 2, 2, 2"},
		{Number: 2, Kind: report.StepAction, Name: "make a second EK CA, and trust it", Status: report.StepPassed, At: at(6), Duration: at(0.4), Done: "CA b: keylab EK Intermediate CA b, in the tpm_cert_store"},
	}
	r.History = []report.Entry{{At: at(0.2), Kind: report.EntryLab, Node: "registrar", State: "starting"}, {At: at(2.2), Kind: report.EntryLab, Node: "registrar", State: "running"}}
	for i, n := range nodes {
		r.History = append(r.History, states(n, 1, "starting", 2.4, "registered", 3.4, "enrolled", 4.5, "attested")...)
		begin := 7 + 7*float64(i)
		r.Steps = append(r.Steps, report.Step{
			Number: 3 + i, Kind: report.StepAction, Name: "give " + n + " a certificate of the new CA, and enrol it again", Status: report.StepPassed,
			At: at(begin), Duration: at(4.1), Nodes: []string{n}, Done: "serial 4CE9362D512D549ADB10EB3C952A97ADFA2DCD4" + fmt.Sprint(i) + " in NV index 0x01c00002",
		})
		r.History = append(r.History, attests(n, 1, 4.5, begin, 2.1)...)
		r.History = append(r.History, states(n, begin+0.2, "registered", begin+1.6, "enrolled", begin+3.9, "attested")...)
		r.History = append(r.History, attests(n, 2, begin+3.9, 41.2, 2.1)...)
		r.Gaps = append(r.Gaps, report.Gap{Node: n, Longest: at(5.8), At: at(begin - 1.9), Count: 16 - i})
		uuid := strings.Repeat(fmt.Sprint(i+1), 64)
		r.Nodes = append(r.Nodes, report.RunNode{Name: n, UUID: uuid, Hostname: uuid[:32] + "." + uuid[32:] + ".agents.rotation.test", Address: fmt.Sprintf("198.18.20.%d", 11+i), State: "attested", Attestations: 16 - i})
		r.Certificates = append(r.Certificates,
			certificate(n, "EK", "a", "keylab EK Intermediate CA", i, 2, "superseded"), certificate(n, "EK", "b", "keylab EK Intermediate CA b", i+8, begin, ""))
	}
	r.History = append(r.History, report.Entry{At: at(15.2), Kind: report.EntryNotice, Node: "rack-2", Detail: "refused: the registrar holds another EK certificate"},
		report.Entry{At: at(20), Kind: report.EntryCounter, Node: "router", Deltas: map[string]uint64{"services-to-ingress": 31, "dropped-services-to-cluster": 2}})
	r.Gaps[1].Refusals = 1
	r.Steps = append(r.Steps,
		report.Step{Number: 7, Kind: report.StepAction, Name: "trust the first CA no longer", Status: report.StepPassed, At: at(35), Duration: at(0.1), Done: "CA a taken out of the tpm_cert_store"},
		report.Step{Number: 8, Kind: report.StepExpect, Name: "no node went more than 8 s without a good attestation", Status: report.StepPassed, At: at(35.2), Evidence: "longest 5.8 s (rack-1)"},
		report.Step{Number: 9, Kind: report.StepNever, Name: "the verifier gave no node up", Status: report.StepPassed, At: at(35.2), Duration: at(5), Evidence: "0 notices, 0 failed"},
		report.Step{Kind: report.StepLab, Name: "take the lab down", Status: report.StepPassed, At: at(40.8), Duration: at(0.5)})
	r.Certificates = append([]report.Certificate{
		certificate("keylab EK Root CA", "root", "a", "keylab EK Root CA", 100, 1, ""), certificate("keylab EK Intermediate CA", "intermediate", "a", "keylab EK Root CA", 101, 1, ""),
		certificate("keylab EK Root CA b", "root", "b", "keylab EK Root CA b", 102, 6.1, ""), certificate("keylab EK Intermediate CA b", "intermediate", "b", "keylab EK Root CA b", 103, 6.2, ""),
	}, r.Certificates...)
	r.Certificates[2].Trusted, r.Certificates[3].Trusted = true, true
	r.Certificates[4].Revoked = Started.Add(at(11))
	r.Runbook = []string{
		"# once: trust the new CA beside the old one, on the tenant's host",
		"install -m 0644 ek-intermediate-b.pem /var/lib/keylime/tpm_cert_store/",
		"# for each node",
		"keylime_tenant -c delete -u " + r.Nodes[0].UUID,
		"keylime_tenant -c regdelete -u " + r.Nodes[0].UUID,
		"systemctl restart keylime_agent",
		"keylime_tenant -c add -u " + r.Nodes[0].UUID + " --require-ek-cert",
		"# when the last one is attested",
		"rm /var/lib/keylime/tpm_cert_store/ek-intermediate-a.pem",
	}
	return r
}

// Swapped is a run that failed: a fault fired and was mended, but the node did not come back in time.
func Swapped() report.Run {
	r := base("swapped-route", "Two hostnames that lead to each other's agent")
	r.Lab, r.Duration, r.Verdict = "routes", at(38.4), report.Failed
	r.Error = "step 4: node-2 was not attested again within 15 s"
	r.Question = "Does Keylime notice that it asks the wrong agent?"
	r.Steps = []report.Step{
		{Kind: report.StepLab, Name: "bring the lab up", Status: report.StepPassed, At: 100 * time.Microsecond, Duration: at(4.2), Done: "3 of 3 nodes attested"},
		{Number: 1, Kind: report.StepFault, Name: "break: swapped-route node-1 and node-2", Status: report.StepPassed, At: at(5), Duration: at(0.2), Nodes: []string{"node-1", "node-2"}, Evidence: "the ingress showed the certificate of node-2 under the hostname of node-1"},
		{Number: 2, Kind: report.StepExpect, Name: "expect node-1 and node-2 failed", Status: report.StepPassed, At: at(5.2), Duration: at(6.8), Nodes: []string{"node-1", "node-2"}, Evidence: "node-1 failed after 6.1 s, node-2 failed after 6.8 s"},
		{Number: 3, Kind: report.StepMend, Name: "mend: swapped-route node-1 and node-2", Status: report.StepPassed, At: at(16), Duration: at(0.3), Nodes: []string{"node-1", "node-2"}, Mends: 1, Done: "each hostname leads to its own agent again; the verifier was told to ask them again"},
		{Number: 4, Kind: report.StepExpect, Name: "both are attested again within 15 s", Status: report.StepFailed, At: at(16.4), Duration: at(15), Nodes: []string{"node-1", "node-2"},
			Evidence: "node-1: attested after 3.2 s\nnode-2: failed, verifier: Failed, last event \"internal.verifier.not_reachable\"", Error: "node-2 was not attested again within 15 s"},
		{Number: 5, Kind: report.StepNever, Name: "never node-3 failed", Status: report.StepSkipped, Nodes: []string{"node-3"}},
	}
	r.History = append(r.History, states("node-1", 1, "starting", 3, "enrolled", 4.1, "attested", 11.3, "failed", 16.3, "enrolled", 19.6, "attested")...)
	r.History = append(r.History, states("node-2", 1, "starting", 3, "enrolled", 4.1, "attested", 12, "failed", 16.3, "enrolled", 20.1, "failed")...)
	r.History = append(r.History, states("node-3", 1, "starting", 3, "enrolled", 4.2, "attested", 24, "unknown", 27, "attested")...)
	for _, a := range []struct {
		node     string
		from, to float64
	}{{"node-1", 4.1, 5.4}, {"node-1", 19.6, 38}, {"node-2", 4.1, 5.4}, {"node-3", 4.2, 24}, {"node-3", 27, 38}} {
		r.History = append(r.History, attests(a.node, 1, a.from, a.to, 1)...)
	}
	r.History = append(r.History,
		report.Entry{At: at(11.4), Kind: report.EntryNotice, Node: "node-1", Detail: "revocation internal.tpm.quote"}, report.Entry{At: at(12.1), Kind: report.EntryNotice, Node: "node-2", Detail: "revocation internal.tpm.quote"},
		report.Entry{At: at(24), Kind: report.EntryPoll, Detail: "the verifier did not answer within 2 s"},
		report.Entry{At: at(24), Kind: report.EntryLab, Node: "verifier", State: "dead", Detail: "exit status 1"}, report.Entry{At: at(27), Kind: report.EntryLab, Node: "verifier", State: "running"})
	r.Gaps = []report.Gap{{Node: "node-1", Longest: at(14.2), At: at(5.4), Failures: 1, Count: 21}, {Node: "node-2", Longest: at(33), At: at(5.4), Failures: 2, Count: 2}, {Node: "node-3", Longest: at(3), At: at(24), Count: 31}}
	for i, state := range []string{"attested", "failed", "attested"} {
		uuid := strings.Repeat(fmt.Sprint(i+1), 64)
		r.Nodes = append(r.Nodes, report.RunNode{Name: fmt.Sprintf("node-%d", i+1), UUID: uuid, Hostname: uuid[:32] + "." + uuid[32:] + ".agents.routes.test", Address: fmt.Sprintf("198.18.20.%d", 11+i), State: state, Attestations: r.Gaps[i].Count})
	}
	r.Nodes[1].Detail = `verifier: Failed, last event "internal.verifier.not_reachable"`
	r.Logs = []report.Log{{Name: "verifier", Text: "2030-05-01 12:00:20.104 - keylime.verifier - ERROR - Agent 2222 failed, stopping polling\n2030-05-01 12:00:20.105 - keylime.verifier - WARNING - no more retries"}}
	return r
}

// Hostile is a run that broke off, in which every text tries to be something else than text.
func Hostile() report.Run {
	evil := "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> | `` ``` [x](javascript:1) @all \x1b[2J\u202e\x00 \xff"
	r := base("hostile"+evil, evil)
	r.Lab, r.Substrate, r.Mode, r.Keylime, r.Agent, r.Keylab = evil, evil, evil, evil, evil, evil
	r.Question, r.Happens, r.Why, r.Fleet = evil, evil, evil, evil+"\n\n"+evil
	r.Duration, r.Verdict, r.Error = at(3), report.Broken, evil
	r.Steps = []report.Step{
		{Number: 1, Kind: report.StepAction, Name: evil, Status: report.StepFailed, At: at(1), Duration: at(1), Nodes: []string{evil}, Done: evil, Evidence: evil + "\n" + evil, Error: evil},
		{Number: 2, Kind: report.StepKind(evil), Name: evil, Status: report.StepStatus(evil), At: at(2)},
	}
	r.Nodes = []report.RunNode{{Name: evil, UUID: evil, Hostname: evil, Address: evil, State: evil, Detail: evil}}
	r.Certificates = []report.Certificate{{Subject: evil, Kind: evil, CA: evil, Issuer: evil, Serial: evil, SHA256: evil, Note: evil}}
	r.Gaps = []report.Gap{{Node: evil, Refusals: 1}}
	r.Runbook, r.Logs = []string{evil}, []report.Log{{Name: evil, Text: evil}}
	r.History = []report.Entry{
		{At: at(1), Kind: report.EntryState, Node: evil, State: evil, Detail: evil}, {At: at(1.5), Kind: report.EntryLab, Node: evil, State: evil, Detail: evil},
		{At: at(1.6), Kind: report.EntryNotice, Node: evil, Detail: evil}, {At: at(1.7), Kind: report.EntryPoll, Detail: evil}, {At: at(1.8), Kind: report.EntryAttest, Node: evil},
		{At: at(1.9), Kind: report.EntryCounter, Deltas: map[string]uint64{evil: 1}},
	}
	return r
}

// Fleet is a run with many nodes, of which a few did not stay attested.
func Fleet(nodes int) report.Run {
	r := base("leaked-ca", "A fleet, a few of whose nodes are cut off")
	r.Duration, r.Verdict = at(60), report.Passed
	r.Steps = []report.Step{
		{Kind: report.StepLab, Name: "bring the lab up", Status: report.StepPassed, Duration: at(20)},
		{Number: 1, Kind: report.StepFault, Name: "partition of five nodes", Status: report.StepPassed, At: at(30), Duration: at(0.3), Nodes: []string{"node-3", "node-57"}, Evidence: "5 nodes did not answer"},
		{Number: 2, Kind: report.StepExpect, Name: "the others stay attested", Status: report.StepPassed, At: at(30.4), Duration: at(20), Evidence: "all of them"},
	}
	for i := range nodes {
		n := fmt.Sprintf("node-%d", i+1)
		up := 5 + 15*float64(i)/float64(nodes)
		r.History = append(r.History, states(n, 1, "starting", up, "attested")...)
		end := 60.0
		if i%max(nodes/5, 1) == 2 {
			end = 30
			r.History = append(r.History, states(n, 36, "failed")...)
		}
		r.History = append(r.History, attests(n, 1, up, end, 2)...)
		r.Nodes = append(r.Nodes, report.RunNode{Name: n, State: "attested", Attestations: 20})
		r.Gaps = append(r.Gaps, report.Gap{Node: n, Longest: at(2.5), At: at(up)})
	}
	return r
}

func states(node string, pairs ...any) []report.Entry {
	var out []report.Entry
	for i := 0; i+1 < len(pairs); i += 2 {
		var when float64
		switch v := pairs[i].(type) {
		case int:
			when = float64(v)
		case float64:
			when = v
		}
		out = append(out, report.Entry{At: at(when), Kind: report.EntryState, Node: node, State: fmt.Sprint(pairs[i+1])})
	}
	return out
}

func attests(node string, count int, from, to, every float64) []report.Entry {
	var out []report.Entry
	for t := from; t < to; t += every {
		out = append(out, report.Entry{At: at(t), Kind: report.EntryAttest, Node: node, Count: count})
		count++
	}
	return out
}

func certificate(subject, kind, ca, issuer string, n int, issued float64, note string) report.Certificate {
	when := Started.Add(at(issued))
	return report.Certificate{
		Subject: subject, Kind: kind, CA: ca, Issuer: issuer, Serial: fmt.Sprintf("4CE9362D512D549ADB10EB3C952A97ADFA2D%04X", n), SHA256: strings.Repeat(fmt.Sprintf("%02x", n), 32),
		Issued: when, NotBefore: when.Add(-time.Minute), NotAfter: when.AddDate(20, 0, 0), Note: note,
	}
}
