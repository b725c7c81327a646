package push

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylab.dev/keylab/agent"
)

// What the AK signs with; package agent made it so.
const (
	akHash   = "sha256"
	akScheme = agent.AKRSASSA
	akBits   = 2048
)

// maxRequested bounds how much evidence a verifier may ask for. Keylime asks for at
// most one of each kind.
const maxRequested = 8

// round is one attempt to attest.
type round struct {
	*runner
	record Attestation
}

// attest makes one attempt. It returns what the verifier said of the time until the
// next, negative if nothing.
func (u *runner) attest(ctx context.Context) (Attestation, time.Duration) {
	r := &round{runner: u, record: Attestation{Started: time.Now(), Index: -1, Verdict: NotSent}}
	wait, err := r.attest(ctx)
	r.record.Finished, r.record.Err = time.Now(), err
	return r.record, wait
}

// do notes a request in the record.
func (r *round) do(ctx context.Context, step, method, path string, token secret, body any, want int) (*answer, error) {
	start := time.Now()
	a, status, err := r.client.do(ctx, step, method, path, token, body, want)
	r.record.Exchanges = append(r.record.Exchanges, Exchange{Step: step, Status: status, Duration: time.Since(start)})
	return a, err
}

func (r *round) attest(ctx context.Context) (time.Duration, error) {
	const unknown = -1
	wanted, err := r.negotiate(ctx)
	if err != nil {
		return unknown, err
	}
	evidence, err := r.collect(ctx, wanted)
	if err != nil {
		return unknown, err
	}
	body := newDocument("attestation", "", collection{evidence})
	a, err := r.authorised(ctx, StepEvidence, http.MethodPatch, r.record.Location, body, http.StatusAccepted)
	if err != nil {
		var refused *VerifierError
		if errors.As(err, &refused) && refused.Step == StepEvidence {
			r.record.Verdict = Refused
		}
		return unknown, err
	}
	r.record.Verdict = Accepted
	r.session.since = time.Now() // the verifier extends the token if the evidence passes
	d, err := parseAnswer[receipt](StepEvidence, a, "attestation")
	if err != nil {
		return unknown, err // accepted nevertheless
	}
	if d.Meta == nil || d.Meta.Seconds == nil || *d.Meta.Seconds < 0 {
		return unknown, nil
	}
	if *d.Meta.Seconds > longestPause.Seconds() {
		return longestPause, nil
	}
	return time.Duration(*d.Meta.Seconds * float64(time.Second)), nil
}

// negotiate offers evidence and returns what the verifier wants of it.
func (r *round) negotiate(ctx context.Context) ([]requested, error) {
	offered, err := r.offer(ctx)
	if err != nil {
		return nil, err
	}
	below := r.attestations()
	a, err := r.authorised(ctx, StepNegotiate, http.MethodPost, strings.TrimSuffix(below, "/"), newDocument("attestation", "", *offered), http.StatusCreated)
	if err != nil {
		return nil, err
	}
	index, err := r.client.parseLocation(a.location, below)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", StepNegotiate, err)
	}
	r.record.Index, r.record.Location = index, below+strconv.Itoa(index)
	d, err := parseAnswer[request](StepNegotiate, a, "attestation")
	if err != nil {
		return nil, err
	}
	wanted := d.Data.Attributes.Requested
	if len(wanted) == 0 {
		return nil, fmt.Errorf("%s: %w", StepNegotiate, ErrNothingAsked)
	}
	if len(wanted) > maxRequested {
		return nil, fmt.Errorf("%s: %w: it asks for %d pieces of evidence, want at most %d", StepNegotiate, ErrVerifierAnswer, len(wanted), maxRequested)
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(offered.Supported, func(s supported) bool { return s.evidenceKind == w.evidenceKind }) {
			return nil, fmt.Errorf("%s: %w: it asks for %s, which was not offered", StepNegotiate, ErrVerifierAnswer, shorten(w.evidenceKind.String()))
		}
	}
	return wanted, nil
}

// offer is everything that this agent can send.
func (r *round) offer(ctx context.Context) (*offer, error) {
	c, err := r.tpm.Capabilities(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the TPM for its capabilities: %w", err)
	}
	evidence := []supported{{kindQuote, quoteCapabilities{
		Version:  "2.0",
		Hashes:   slices.Sorted(maps.Keys(c.Banks)),
		Schemes:  c.SignatureSchemes,
		Subjects: c.Banks,
		Keys: []certifyingKey{{
			Class: "asymmetric", Algorithm: "rsa", Size: akBits,
			ServerID: "ak", LocalID: hex.EncodeToString(c.AKName),
			Hashes: []string{akHash}, Schemes: []string{akScheme},
			Public: c.AKPublic,
		}},
	}}}
	if r.cfg.BootLog != nil {
		log, err := r.cfg.BootLog()
		if err != nil {
			return nil, fmt.Errorf("reading the boot log: %w", err)
		}
		evidence = append(evidence, supported{kindUEFI, logCapabilities{
			Version: "2.1", Entries: countBootEvents(log), Formats: []string{"application/octet-stream"},
		}})
	}
	if r.cfg.IMA != nil {
		_, total, err := r.cfg.IMA(r.imaEntries)
		if err != nil {
			return nil, fmt.Errorf("reading the IMA list: %w", err)
		}
		r.imaEntries = total
		evidence = append(evidence, supported{kindIMA, logCapabilities{
			Entries: total, Partial: true, Appendable: true, Formats: []string{"text/plain"},
		}})
	}
	return &offer{evidence, systemInfo{r.cfg.BootTime().UTC().Format("2006-01-02T15:04:05Z")}}, nil
}

// collect makes the evidence, in the order asked for. The quote comes before the
// logs, which may be ahead of it but not behind.
func (r *round) collect(ctx context.Context, wanted []requested) ([]collected, error) {
	evidence := make([]collected, len(wanted))
	for _, quotes := range []bool{true, false} {
		for i, w := range wanted {
			if (w.evidenceKind == kindQuote) != quotes {
				continue
			}
			data, err := r.collectOne(ctx, w)
			if err != nil {
				return nil, fmt.Errorf("evidence %d of %d, %s: %w", i+1, len(wanted), w.evidenceKind, err)
			}
			evidence[i] = collected{w.evidenceKind, data}
		}
	}
	return evidence, nil
}

func (r *round) collectOne(ctx context.Context, w requested) (any, error) {
	switch w.evidenceKind {
	case kindQuote:
		return r.quote(ctx, &w.Parameters)
	case kindIMA:
		return r.imaList(&w.Parameters)
	case kindUEFI:
		log, err := r.cfg.BootLog()
		if err != nil {
			return nil, fmt.Errorf("reading the boot log: %w", err)
		}
		return uefiData{log}, nil
	}
	return nil, fmt.Errorf("%w: unknown kind of evidence", ErrVerifierAnswer) // negotiate let nothing else through
}

func (r *round) quote(ctx context.Context, p *parameters) (any, error) {
	if p.Hash != akHash || p.Scheme != akScheme {
		return nil, fmt.Errorf("%w: it wants %q with %q, the AK signs %q with %q", ErrVerifierAnswer, shorten(p.Scheme), shorten(p.Hash), akScheme, akHash)
	}
	pcrs := slices.Compact(slices.Sorted(slices.Values(p.Subjects[akHash])))
	if len(pcrs) == 0 || pcrs[len(pcrs)-1] > 23 {
		return nil, fmt.Errorf("%w: %d PCRs of bank %s, want one or more of 0-23", ErrVerifierAnswer, len(pcrs), akHash)
	}
	challenge, err := decodeChallenge(p.Challenge)
	if err != nil {
		return nil, err
	}
	r.record.Challenge, r.record.PCRs = hex.EncodeToString(challenge), pcrs
	q, err := r.tpm.QuotePCRs(ctx, challenge, pcrs)
	if err != nil {
		return nil, fmt.Errorf("quoting: %w", err)
	}
	return quoteData{PCRs: q.PCRBlob(), Message: q.AttestRaw, Signature: q.SignatureRaw}, nil
}

func (r *round) imaList(p *parameters) (any, error) {
	start := 0
	if p.Start != nil {
		start = *p.Start
	}
	if start < 0 || start > r.imaEntries {
		return nil, fmt.Errorf("%w: it wants the IMA list from entry %d of %d", ErrVerifierAnswer, start, r.imaEntries)
	}
	text, total, err := r.cfg.IMA(start)
	if err != nil {
		return nil, fmt.Errorf("reading the IMA list: %w", err)
	}
	r.imaEntries = total
	// The verifier counts line ends.
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if p.Count != nil {
		text = firstLines(text, *p.Count)
	}
	return imaData{Entries: text, Count: strings.Count(text, "\n")}, nil
}

// firstLines cuts a text after n lines.
func firstLines(text string, n int) string {
	end := 0
	for range n {
		i := strings.IndexByte(text[end:], '\n')
		if i < 0 {
			return text
		}
		end += i + 1
	}
	return text[:end]
}
