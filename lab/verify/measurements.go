package verify

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/lab/plan"
)

// bootPCRs are those that a boot log has to explain.
var bootPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}

// measurements proves, for nodes that measure files or their boot, that the logs which agents serve are those of their TPMs, and that the verifier
// judges them.
func (v *verification) measurements() []check {
	var checks []check
	imaList, bootLog := v.imaList, v.bootLog
	if v.plan.Keylime.Push() {
		imaList, bootLog = v.pushIMAList, v.pushBootLog
	}
	for _, n := range v.nodes {
		add := func(id string, run func(context.Context, Node) (string, error)) {
			checks = append(checks, check{id, pointLiveness, n.Name, func(ctx context.Context) (string, error) { return run(ctx, n) }})
		}
		if n.IMA != nil {
			add("ima-list", imaList)
		}
		if n.MeasuredBoot != nil {
			add("boot-log", bootLog)
		}
		if n.IMA != nil || n.MeasuredBoot != nil {
			add("policies", v.policies)
		}
	}
	return checks
}

// listAttempts bounds how often a log is read again because its node measured something between the quote and the look into the TPM.
const listAttempts = 3

// imaList checks that the list which the agent serves adds up to PCR 10: as the agent's quote has it, and as the node's own TPM does.
func (v *verification) imaList(ctx context.Context, n Node) (evidence string, err error) {
	for range listAttempts {
		if evidence, err = v.imaListOnce(ctx, n); err == nil {
			break
		}
	}
	return evidence, err
}

func (v *verification) imaListOnce(ctx context.Context, n Node) (string, error) {
	served, err := v.integrity(ctx, n, ima.PCR)
	if err != nil {
		return "", err
	}
	list, err := ima.Parse(strings.NewReader(served.IMAList))
	if err != nil {
		return "", fmt.Errorf("the list that the agent serves: %w", err)
	}
	if err := sameAsTPM(ctx, n, served.quote, replayOf(list)); err != nil {
		return "", fmt.Errorf("the IMA list that the agent serves, of %d entries, is not what the TPM knows: %w", list.Len(), err)
	}
	pcr, _ := served.quote.PCR(ima.PCR) // sameAsTPM has seen it
	return fmt.Sprintf("%d entries, as served, replay to PCR 10 as quoted and as read from the TPM, %s", list.Len(), shorten(hex.EncodeToString(pcr))), nil
}

// A replayer gives what a log adds up to, by PCR, in a bank.
type replayer func(bank crypto.Hash) (map[int][]byte, error)

func replayOf(list *ima.List) replayer {
	return func(bank crypto.Hash) (map[int][]byte, error) {
		pcr, err := list.Replay(bank)
		return map[int][]byte{ima.PCR: pcr}, err
	}
}

// bootLog checks likewise that the boot log explains the PCRs of a boot. Package bootlog, which made the log, has no part in that.
func (v *verification) bootLog(ctx context.Context, n Node) (string, error) {
	served, err := v.integrity(ctx, n, bootPCRs...)
	if err != nil {
		return "", err
	}
	if len(served.BootLog) == 0 {
		return "", errors.New("the agent serves no boot log")
	}
	replay, events, err := replayOfBoot(served.BootLog)
	if err != nil {
		return "", fmt.Errorf("the boot log that the agent serves: %w", err)
	}
	if err := sameAsTPM(ctx, n, served.quote, replay); err != nil {
		return "", fmt.Errorf("the boot log that the agent serves, of %d events, is not what the TPM knows: %w", events, err)
	}
	return fmt.Sprintf("%d events, as served, replay to PCRs 0-9 and 14 as quoted and as read from the TPM", events), nil
}

// bootBanks are the banks that go-eventlog knows.
var bootBanks = map[crypto.Hash]register.HashAlg{crypto.SHA1: register.HashSHA1, crypto.SHA256: register.HashSHA256, crypto.SHA384: register.HashSHA384}

// replayOfBoot reads a boot log. It returns also how many events it has.
func replayOfBoot(data []byte) (_ replayer, events int, err error) {
	log, err := tcg.ParseEventLog(data, tcg.ParseOpts{})
	if err != nil {
		return nil, 0, err
	}
	replay := func(bank crypto.Hash) (map[int][]byte, error) {
		known, ok := bootBanks[bank]
		if !ok {
			return nil, fmt.Errorf("a boot log cannot be replayed to a PCR bank of %s", bank)
		}
		pcrs := map[int][]byte{}
		for _, pcr := range bootPCRs {
			pcrs[pcr] = make([]byte, bank.Size())
		}
		for _, e := range log.Events(known) {
			if pcrs[e.Index] == nil {
				return nil, fmt.Errorf("it has an event of PCR %d, which no boot of a lab extends", e.Index)
			}
			pcrs[e.Index] = extend(bank, pcrs[e.Index], e.Digest)
		}
		return pcrs, nil
	}
	return replay, len(log.Events(register.HashSHA256)), nil
}

// sameAsTPM compares what a log adds up to with the quote that came with it, and with the node's own TPM.
func sameAsTPM(ctx context.Context, n Node, quote *agent.Quote, replay replayer) error {
	wrong, err := unlikeTPM(ctx, n, replay)
	if err != nil {
		return err
	}
	bank, err := quote.Hash.Hash()
	if err != nil {
		return fmt.Errorf("the PCR bank of the quote: %w", err)
	}
	want, err := replay(bank)
	if err != nil {
		return err
	}
	var quotedWrong []string
	for _, pcr := range slices.Sorted(maps.Keys(want)) {
		quoted, ok := quote.PCR(uint(pcr))
		if !ok {
			return fmt.Errorf("the quote does not cover PCR %d", pcr)
		}
		if !bytes.Equal(quoted, want[pcr]) {
			quotedWrong = append(quotedWrong, fmt.Sprintf("PCR %d is quoted as %s, the log gives %s", pcr, shorten(hex.EncodeToString(quoted)), shorten(hex.EncodeToString(want[pcr]))))
		}
	}
	if len(quotedWrong) > 0 {
		wrong = quotedWrong // the TPM says the same, as a rule
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// unlikeTPM are the differences between what a log adds up to and the node's own TPM, bank SHA-256.
func unlikeTPM(ctx context.Context, n Node, replay replayer) (wrong []string, err error) {
	if n.PCRs == nil {
		return nil, errors.New("the PCRs of this node's TPM cannot be read")
	}
	want, err := replay(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	pcrs := slices.Sorted(maps.Keys(want))
	values, err := n.PCRs(ctx, pcrs...)
	if err != nil {
		return nil, fmt.Errorf("read the PCRs of the TPM of %s: %w", n.Name, err)
	}
	for _, pcr := range pcrs {
		if !bytes.Equal(values[pcr], want[pcr]) {
			wrong = append(wrong, fmt.Sprintf("PCR %d is %s in the TPM, the log gives %s", pcr, shorten(hex.EncodeToString(values[pcr])), shorten(hex.EncodeToString(want[pcr]))))
		}
	}
	return wrong, nil
}

// measurementAnswer is what an agent answers to /quotes/integrity, with a good quote.
type measurementAnswer struct {
	IMAList string `json:"ima_measurement_list"`
	BootLog []byte `json:"mb_measurement_list"`
	quote   *agent.Quote
}

// integrity asks an agent, by its hostname, for a quote of PCRs and for all of its logs, as the verifier does.
func (v *verification) integrity(ctx context.Context, n Node, pcrs ...int) (*measurementAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, routingTimeout)
	defer cancel()
	if n.Fault != "" {
		return nil, errors.New(n.Fault)
	}
	record, err := v.records.of(n)
	if err != nil {
		return nil, err
	}
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	c, err := v.handshake(ctx, n.Hostname)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	url := fmt.Sprintf("https://%s/v2.2/quotes/integrity?nonce=%s&mask=%#x&partial=1&ima_ml_entry=0", n.Hostname, nonce, mask(pcrs))
	body, err := get(ctx, c, url)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a quote: %w", n.Hostname, err)
	}
	checked, err := agent.CheckAnswer(body, record.AIKTPM, nonce)
	if err != nil {
		return nil, fmt.Errorf("the quote is not one of the AK that the registrar holds for %s over our nonce: %w", n.UUID, err)
	}
	var envelope struct {
		Results measurementAnswer `json:"results"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", n.Hostname, err)
	}
	envelope.Results.quote = checked.Quote
	return &envelope.Results, nil
}

// mask is Keylime's form of a set of PCRs.
func mask(pcrs []int) (m uint64) {
	for _, pcr := range pcrs {
		m |= 1 << pcr
	}
	return m
}

// policies checks that the verifier holds the policies of a node, and asks for the PCRs that they are about.
func (v *verification) policies(ctx context.Context, n Node) (string, error) {
	a, err := v.target.Verifier().Agent(ctx, n.UUID)
	if err != nil {
		return "", fmt.Errorf("ask the verifier for agent %s: %w", n.UUID, err)
	}
	var policy struct {
		Mask string `json:"mask"`
	}
	if err := json.Unmarshal([]byte(a.TPMPolicy), &policy); err != nil {
		return "", fmt.Errorf("the verifier's TPM policy of this agent, %q: %w", a.TPMPolicy, err)
	}
	asked, err := strconv.ParseUint(policy.Mask, 0, 64)
	if err != nil {
		return "", fmt.Errorf("the mask of the verifier's TPM policy: %w", err)
	}
	var evidence []string
	if n.IMA != nil {
		if asked&mask([]int{ima.PCR}) == 0 {
			return "", fmt.Errorf("the verifier does not ask for PCR 10: its mask is %s", policy.Mask)
		}
		if err := v.runtimePolicy(ctx, n); err != nil {
			return "", err
		}
		text := fmt.Sprintf("a runtime policy of exactly the %d files of the specification", len(n.IMA.Files))
		if len(n.IMA.Key) > 0 {
			text += " and of the lab's key for signatures"
		}
		evidence = append(evidence, text)
	}
	if n.MeasuredBoot != nil {
		if asked&mask(bootPCRs) != mask(bootPCRs) {
			return "", fmt.Errorf("the verifier does not ask for all of PCRs 0-9 and 14: its mask is %s", policy.Mask)
		}
		state, err := v.target.Verifier().MeasuredBootPolicy(ctx, n.UUID)
		if err != nil {
			return "", fmt.Errorf("ask the verifier for the reference state of %s: %w", n.UUID, err)
		}
		var fields map[string]any
		if err := json.Unmarshal(state, &fields); err != nil || len(fields) == 0 || !a.HasMeasuredBootPolicy {
			return "", fmt.Errorf("the verifier holds no reference state of this agent, but %q", state)
		}
		evidence = append(evidence, fmt.Sprintf("a reference state, judged by the policy %s", v.plan.Keylime.Options["verifier"]["measured_boot_policy_name"]))
	}
	return fmt.Sprintf("the verifier holds %s; mask %s", strings.Join(evidence, " and "), policy.Mask), nil
}

// runtimePolicy checks that the verifier allows each file of the specification, and nothing else.
func (v *verification) runtimePolicy(ctx context.Context, n Node) error {
	held, err := v.target.Verifier().RuntimePolicy(ctx, n.UUID)
	if err != nil {
		return fmt.Errorf("ask the verifier for the runtime policy of %s: %w", n.UUID, err)
	}
	if len(held.Excludes) > 0 {
		return fmt.Errorf("the verifier's runtime policy leaves out what matches %v", held.Excludes)
	}
	keys, err := held.Keys()
	if err != nil {
		return err
	}
	if !slices.EqualFunc(keys, signingKeys(n.IMA), bytes.Equal) {
		return fmt.Errorf("the verifier's runtime policy trusts the signatures of %d keys, which are not those of the specification", len(keys))
	}
	want := allowedDigests(n.IMA)
	delete(held.Digests, ima.BootAggregate) // which follows from the boot log where there is one
	for path, digests := range want {
		for _, d := range digests {
			if !slices.Contains(held.Digests[path], d) {
				return fmt.Errorf("the verifier's runtime policy does not allow %s with the digest %s", path, shorten(d))
			}
		}
	}
	for path, digests := range held.Digests {
		for _, d := range digests {
			if !slices.Contains(want[path], d) {
				return fmt.Errorf("the verifier's runtime policy allows %s with the digest %s, which the specification does not", path, shorten(d))
			}
		}
	}
	return nil
}

// signingKeys are those by whose signatures its runtime policy is to trust files.
func signingKeys(i *plan.IMA) [][]byte {
	if len(i.Key) == 0 {
		return nil
	}
	return [][]byte{i.Key}
}

// allowedDigests are the files of the specification as a runtime policy has them.
func allowedDigests(i *plan.IMA) map[string][]string {
	out := map[string][]string{}
	for _, f := range i.Files {
		path := strings.ReplaceAll(f.Path, " ", "_")
		out[path] = append(out[path], strings.TrimPrefix(f.Digest, "sha256:"))
	}
	return out
}
