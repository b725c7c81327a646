package verify

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/keylime"
)

// In the push model nobody can ask an agent for its logs. The verifier keeps, and shows to its administrator, those of the latest attestation, beside the
// quote by which it judged them.

// errEarlier marks what evidence of before a change explains: the next evidence may be in order.
var errEarlier = errors.New("that is the evidence of the latest attestation")

// judged runs a check of a node's latest attestation, whose quote it has seen to be over the verifier's challenge and by the AK that the registrar holds. A
// node may have measured something, or have been started, since it sent that evidence; so the check is made again with the next, as long as the verifier
// is content with what it gets.
func (v *verification) judged(ctx context.Context, n Node, check func(context.Context, *keylime.PushAttestation, *agent.Quote) (string, error)) (evidence string, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.options.Liveness)
	defer cancel()
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	var last *keylime.PushAttestation
	for range listAttempts {
		a, e := v.nextAttestation(ctx, n, last)
		if e != nil {
			return "", errors.Join(err, e)
		}
		quote, e := checkPushQuote(a, record.AIKTPM)
		if e != nil {
			return "", e
		}
		if evidence, err = check(ctx, a, quote); !errors.Is(err, errEarlier) || a.Evaluation != "pass" {
			break
		}
		last = a
	}
	return evidence, err
}

// pushBootLog checks that the boot log which the verifier judged last explains the PCRs of the quote that came with it, and of the node's own TPM.
func (v *verification) pushBootLog(ctx context.Context, n Node) (string, error) {
	return v.judged(ctx, n, func(ctx context.Context, a *keylime.PushAttestation, quote *agent.Quote) (string, error) {
		if len(a.BootLog) == 0 {
			return "", errors.New("the verifier had no boot log with the latest evidence")
		}
		replay, events, err := replayOfBoot(a.BootLog)
		if err != nil {
			return "", fmt.Errorf("the boot log that the verifier had: %w", err)
		}
		if err := sameAsTPM(ctx, n, quote, replay); err != nil {
			return "", fmt.Errorf("the boot log that the verifier had, of %d events, is not what the TPM knows: %w (%w)", events, err, errEarlier)
		}
		return fmt.Sprintf("%d events, as the verifier had them, replay to PCRs 0-9 and 14 as quoted and as read from the TPM", events), nil
	})
}

// pushIMAList checks that the node's list is what its TPM knows, and that the verifier's evidence is that list. Agents send only what is new; but of what
// they sent before, PCR 10 as quoted has every entry, so that no other list could have led the verifier there.
func (v *verification) pushIMAList(ctx context.Context, n Node) (string, error) {
	return v.judged(ctx, n, func(ctx context.Context, a *keylime.PushAttestation, quote *agent.Quote) (string, error) {
		list, err := explainedList(ctx, n)
		if err != nil {
			return "", err
		}
		covered, err := pushedPart(a, quote, list)
		if err != nil {
			return "", err
		}
		pcr, _ := quote.PCR(ima.PCR) // pushedPart has seen it
		return fmt.Sprintf("the node's %d entries replay to PCR 10 as read from the TPM; %d of them, of which the verifier had %d with the latest evidence, to PCR 10 as quoted to it, %s",
			list.Len(), covered, a.IMACount(), shorten(hex.EncodeToString(pcr))), nil
	})
}

// explainedList reads the list of a node's kernel, past the agent, and checks that it adds up to PCR 10 of the node's own TPM.
func explainedList(ctx context.Context, n Node) (list *ima.List, err error) {
	if n.IMAList == nil {
		return nil, errors.New("the IMA list of this node cannot be read")
	}
	for range listAttempts { // the node may measure a file between the two looks
		var text string
		if text, err = n.IMAList(ctx); err != nil {
			return nil, fmt.Errorf("read the IMA list of %s: %w", n.Name, err)
		}
		if list, err = ima.Parse(strings.NewReader(text)); err != nil {
			return nil, fmt.Errorf("the IMA list of %s: %w", n.Name, err)
		}
		if wrong, e := unlikeTPM(ctx, n, replayOf(list)); e != nil {
			return nil, e
		} else if len(wrong) == 0 {
			return list, nil
		} else {
			err = fmt.Errorf("the IMA list of the node, of %d entries, is not what the TPM knows: %s", list.Len(), strings.Join(wrong, "; "))
		}
	}
	return nil, err
}

// pushedPart checks that what an agent sent is a part of the list, and that the list up to some entry of it adds up to PCR 10 as quoted. It returns how
// many entries that are: a list that is read after a quote may be ahead of it.
func pushedPart(a *keylime.PushAttestation, quote *agent.Quote, list *ima.List) (covered int, err error) {
	if a.IMAStart < 0 {
		return 0, errors.New("the verifier had no IMA list with the latest evidence")
	}
	quoted, ok := quote.PCR(ima.PCR)
	if !ok {
		return 0, errors.New("the quote does not cover PCR 10")
	}
	end := a.IMAStart + a.IMACount()
	if end > list.Len() {
		return 0, fmt.Errorf("the verifier had %d entries of a list that has %d on the node (%w)", end, list.Len(), errEarlier)
	}
	rest, err := list.Lines(a.IMAStart)
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(rest, a.IMAEntries) {
		return 0, fmt.Errorf("the entries that the verifier had, from number %d on, are not those of the node's list (%w)", a.IMAStart+1, errEarlier)
	}
	bank, err := quote.Hash.Hash()
	if err != nil {
		return 0, fmt.Errorf("the PCR bank of the quote: %w", err)
	}
	extensions, err := list.Extensions(bank)
	if err != nil {
		return 0, err
	}
	pcr := make([]byte, bank.Size())
	for i, digest := range extensions[:end] {
		pcr = extend(bank, pcr, digest)
		if i+1 >= a.IMAStart && bytes.Equal(pcr, quoted) {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("PCR 10 is quoted as %s, the list gives %s after the %d entries that the verifier had (%w)", shorten(hex.EncodeToString(quoted)),
		shorten(hex.EncodeToString(pcr)), end, errEarlier)
}

// extend is the value of a PCR of a bank after it was extended (TPM 2.0 Library, Part 1, section 17.4).
func extend(bank crypto.Hash, pcr, digest []byte) []byte {
	h := bank.New()
	h.Write(pcr)
	h.Write(digest)
	return h.Sum(nil)
}
