package push

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"time"

	"keylab.dev/keylab/agent"
)

// prover is what a runner needs of package agent.
type prover interface {
	Capabilities(ctx context.Context) (*agent.Capabilities, error)
	Certify(ctx context.Context, challenge []byte) (attest, signature []byte, err error)
	QuotePCRs(ctx context.Context, nonce []byte, pcrs []uint) (*agent.Quote, error)
}

// runner is the state of one Run, which one goroutine owns.
type runner struct {
	cfg    *Config
	log    *slog.Logger
	uuid   string
	tpm    prover
	client *client
	report func(Attestation)

	session    *session // nil: none
	imaEntries int      // in the IMA list when it was last looked at
	failures   int      // in a row, without those that named a time
	healthy    bool     // the last attempt was accepted
}

// attestations is the path of the agent's attestations, with a final slash.
func (u *runner) attestations() string {
	return "/v3.0/agents/" + url.PathEscape(u.uuid) + "/attestations/"
}

// run attests until ctx ends.
func (u *runner) run(ctx context.Context) {
	u.log.Info("attesting", "verifier", u.cfg.Verifier)
	for {
		record, wanted := u.attest(ctx)
		if ctx.Err() != nil && record.Verdict != Accepted {
			return // cut off: says nothing about the verifier
		}
		record.Next = u.pause(&record, wanted)
		u.note(&record)
		u.report(record)
		timer := time.NewTimer(record.Next)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// pause decides how long to wait after an attempt; wanted is what an accepting
// verifier said, negative for nothing.
func (u *runner) pause(record *Attestation, wanted time.Duration) time.Duration {
	if record.Verdict == Accepted {
		u.failures = 0
		if wanted < 0 {
			wanted = u.cfg.Interval
		}
		return max(wanted, u.cfg.RetryDelay)
	}
	var refused *VerifierError
	if errors.As(record.Err, &refused) && refused.RetryAfter > 0 {
		// Not earlier than asked, and a fleet not all at once.
		return max(spread(refused.RetryAfter, 1, 1.1), u.cfg.RetryDelay)
	}
	pause := u.cfg.RetryDelay
	for range u.failures {
		if pause >= u.cfg.RetryMaxDelay {
			break
		}
		pause *= 2
	}
	u.failures++
	return spread(min(pause, u.cfg.RetryMaxDelay), 0.8, 1.2)
}

// spread makes a pause longer or shorter by a random factor between low and high.
func spread(d time.Duration, low, high float64) time.Duration {
	return time.Duration(float64(d) * (low + (high-low)*rand.Float64()))
}

// note logs an attempt: changes for everybody, the rest for debugging.
func (u *runner) note(record *Attestation) {
	healthy := record.Verdict == Accepted
	level := slog.LevelDebug
	if healthy != u.healthy || u.failures == 1 {
		level = slog.LevelInfo
	}
	u.healthy = healthy
	attributes := []slog.Attr{
		slog.String("verdict", string(record.Verdict)), slog.Int("index", record.Index), slog.Duration("next", record.Next),
	}
	if record.Err != nil {
		attributes = append(attributes, slog.Any("error", record.Err))
	}
	u.log.LogAttrs(context.Background(), level, "attestation", attributes...)
}
