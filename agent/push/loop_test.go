package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAttestsAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		start := time.Now()
		w.runFor(t, 12*time.Second) // attempts at 0, 5 and 10 s
		if d := time.Since(start); d != 12*time.Second {
			t.Errorf("ended after %s, want the end with the context, in a pause", d)
		}
		all := w.list()
		if len(all) != 3 {
			t.Fatalf("%d attempts, want 3: %+v", len(all), all)
		}
		for i, a := range all {
			if a.Err != nil || a.Verdict != Accepted || a.Index != i || a.Location != fmt.Sprint(below, i) || a.Next != 5*time.Second ||
				a.Challenge != "30313233343536373839616263646566" || !slices.Equal(a.PCRs, []uint{0, 15}) {
				t.Errorf("attempt %d: %+v", i, a)
			}
			if a.Status(StepNegotiate) != 201 || a.Status(StepEvidence) != 202 || i > 0 && a.Status(StepProof) != 0 {
				t.Errorf("attempt %d: statuses %+v", i, a.Exchanges)
			}
			if i > 0 && a.Started.Sub(all[i-1].Finished) != 5*time.Second {
				t.Errorf("attempt %d began %s after the one before, want the verifier's 5 s", i, a.Started.Sub(all[i-1].Finished))
			}
		}
		if n := len(w.of(StepSession)); n != 1 {
			t.Errorf("%d sessions for three attestations, want 1", n)
		}
	})
}

func TestVerifiersPauseIsHeeded(t *testing.T) {
	for said, want := range map[string]time.Duration{
		"0": 200 * time.Millisecond, "1.5": 1500 * time.Millisecond, "null": time.Minute, "-3": time.Minute, "1e300": time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.interval = said
			w.runFor(t, time.Nanosecond)
			if all := w.list(); len(all) != 1 || all[0].Next != want {
				t.Errorf("seconds_to_next_attestation %s: %+v, want a pause of %s", said, all, want)
			}
		})
	}
}

// A verifier that names a time is not asked before, nor much later.
func TestRetryAfterIsObeyed(t *testing.T) {
	date := time.Date(2000, 1, 1, 0, 1, 30, 0, time.UTC).Format(http.TimeFormat) // virtual time begins with the year 2000
	for _, c := range []struct {
		step   string
		status int
		value  string
		want   time.Duration
	}{
		{StepSession, 429, "60", time.Minute},
		{StepNegotiate, 429, "7", 7 * time.Second},
		{StepNegotiate, 503, date, 90 * time.Second},
		{StepEvidence, 503, " 30 ", 30 * time.Second},
		{StepNegotiate, 503, "99999999999999999999", time.Hour},
		{StepNegotiate, 503, "7200", time.Hour},
		{StepNegotiate, 503, "0", 160 * time.Millisecond}, // no time at all: the usual pause
		{StepNegotiate, 503, "soon", 160 * time.Millisecond},
		{StepNegotiate, 503, "-5", 160 * time.Millisecond},
		{StepNegotiate, 503, "Sat, 01 Jan 1990 00:00:00 GMT", 160 * time.Millisecond},
	} {
		t.Run(c.step+" "+c.value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, nil)
				w.then(c.step, apiError(c.status, "later", "Wait.", map[string]string{"Retry-After": c.value}))
				w.runFor(t, 2*time.Hour)
				all := w.list()
				var refused *VerifierError
				if !errors.As(all[0].Err, &refused) || refused.Status != c.status || refused.Step != c.step || refused.Code != "later" ||
					refused.Message != "Wait." || refused.RetryAfter < 0 {
					t.Fatalf("first attempt %+v", all[0])
				}
				if gap := all[1].Started.Sub(all[0].Finished); gap < c.want || gap > c.want*16/10 {
					t.Errorf("asked again after %s, want %s or little more", gap, c.want)
				}
				if all[1].Verdict != Accepted {
					t.Errorf("second attempt %+v", all[1])
				}
			})
		})
	}
}

func TestExpiredTokenIsReplacedInTheMiddle(t *testing.T) {
	for _, step := range []string{StepNegotiate, StepEvidence} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.then(step, apiError(401, "", "Authentication token expired", nil))
			w.runFor(t, time.Second)
			all := w.list()
			if len(all) != 1 || all[0].Verdict != Accepted || all[0].Err != nil {
				t.Fatalf("%s: %+v, want one attempt that is accepted", step, all)
			}
			if sessions, same := len(w.of(StepSession)), w.of(step); sessions != 2 || len(same) != 2 || string(same[0].body) != string(same[1].body) {
				t.Errorf("%s: %d sessions and %d requests, want two each, with the same body", step, sessions, len(same))
			}
		})
	}
}

// A verifier that takes no token must not be hammered with proofs.
func TestTokenThatIsNeverTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		for range 1000 {
			w.then(StepNegotiate, apiError(401, "", "Invalid authentication token", nil))
		}
		w.runFor(t, time.Minute)
		if n := len(w.of(StepSession)); n < 4 || n > 30 {
			t.Errorf("%d sessions in a minute, want some, but two for an attempt at most", n)
		}
		for _, a := range w.list() {
			if len(a.Exchanges) > 6 || a.Err == nil || a.Verdict != NotSent {
				t.Errorf("attempt %+v", a)
			}
		}
	})
}

func TestTokenLastsAsLongAsEvidenceIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.interval = "100" // the token holds 180 s
		w.runFor(t, 1050*time.Second)
		if n := len(w.of(StepSession)); n != 1 || len(w.list()) != 11 {
			t.Errorf("%d sessions for %d attestations within the token's life, want 1 for 11", n, len(w.list()))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.interval = "200"
		w.runFor(t, 1050*time.Second)
		all := w.list()
		if len(all) != 6 || len(w.of(StepSession)) != 6 {
			t.Errorf("%d sessions for %d attestations, want 6 each", len(w.of(StepSession)), len(all))
		}
		for _, a := range all {
			if slices.ContainsFunc(a.Exchanges, func(e Exchange) bool { return e.Status == 401 }) {
				t.Errorf("a token known to have expired was sent: %+v", a.Exchanges)
			}
		}
	})
}

func TestKeepsTryingUntilEnrolled(t *testing.T) {
	const unknown = `{"data": {"type": "session", "id": "5e55-10", "attributes": {"agent_id": "agent-1", "evaluation": "fail"}}}`
	for name, refusal := range map[string]struct {
		step string
		handler
	}{
		"evaluation": {StepProof, answers(200, nil, unknown)},
		"proof":      {StepProof, answers(401, nil, unknown)},
		"404":        {StepNegotiate, apiError(404, "not_found", "No enrolled agent with ID 'agent-1'.", nil)},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			for range 20 {
				w.then(refusal.step, refusal.handler)
			}
			w.runFor(t, 10*time.Minute)
			all := w.list()
			for i, a := range all[:20] {
				if !errors.Is(a.Err, ErrNotEnrolled) || a.Verdict != NotSent || a.Next > 12*time.Second {
					t.Errorf("%s: attempt %d: %+v, want ErrNotEnrolled and a pause of at most 12 s", name, i, a)
				}
			}
			if all[20].Verdict != Accepted {
				t.Errorf("%s: after the enrolment %+v", name, all[20])
			}
			// Keylime bars an agent with more than 15 sessions within a minute.
			sessions := w.of(StepSession)
			for i := 15; i < len(sessions); i++ {
				if d := sessions[i].at.Sub(sessions[i-15].at); d < time.Minute {
					t.Errorf("%s: 16 sessions within %s", name, d)
				}
			}
		})
	}
}

func TestRefusedEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.then(StepEvidence,
			apiError(403, "challenges_expired", "Challenges for attestation 0 expired.", nil),
			answers(422, nil, `{"errors": [{"status": "422", "code": "invalid_resource_data", "detail": "must be binary",
				"source": {"pointer": "/data/attributes/evidence_collected/0/data/message"}}, {"title": "Bad"}]}`),
			answers(500, nil, "<html>"), nil, apiError(500, "", "", nil))
		w.runFor(t, 10*time.Second)
		all := w.list()
		for i, want := range []string{
			"evidence: the verifier answered 403 Forbidden (challenges_expired): Challenges for attestation 0 expired.",
			"evidence: the verifier answered 422 Unprocessable Entity (invalid_resource_data): /data/attributes/evidence_collected/0/data/message must be binary; Bad",
			"evidence: the verifier answered 500 Internal Server Error",
		} {
			if a := all[i]; a.Verdict != Refused || a.Err.Error() != want || a.Index != i {
				t.Errorf("attempt %d: %+v, want refused with %q", i, a, want)
			}
		}
		if a := all[3]; a.Verdict != Accepted || a.Index != 3 {
			t.Errorf("after three refusals %+v, want an accepted one at a new location", a)
		}
		if a := all[4]; a.Verdict != Refused || a.Next > 240*time.Millisecond {
			t.Errorf("the first refusal after an accepted one %+v, want the shortest pause again", a)
		}
	})
}

func TestForbiddenTokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.then(StepNegotiate, apiError(403, "", "Action submit_attestation requires agent authentication (PoP token)", nil))
		w.runFor(t, time.Second)
		if all := w.list(); len(all) != 2 || all[1].Verdict != Accepted || len(w.of(StepSession)) != 2 {
			t.Errorf("%+v, want a second attempt with a new token", all)
		}
	})
}

func TestVerifierThatGoesAwayAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		cut := func(http.ResponseWriter, *http.Request) bool {
			w.set(func() { w.down = true })
			panic(http.ErrAbortHandler) // ends the connection without an answer
		}
		w.then(StepEvidence, nil, cut)
		go func() {
			<-time.After(2 * time.Minute)
			w.set(func() { w.down = false })
		}()
		w.runFor(t, 3*time.Minute)
		all := w.list()
		if all[0].Verdict != Accepted || all[1].Verdict != NotSent || all[1].Err == nil || all[1].Status(StepEvidence) != 0 || all[1].Status(StepNegotiate) != 201 {
			t.Fatalf("%+v", all[:2])
		}
		refused := 0
		for _, a := range all[2:] {
			if errors.Is(a.Err, syscall.ECONNREFUSED) {
				refused++
				if a.Next > 12*time.Second {
					t.Errorf("pause of %s, want 12 s at most", a.Next)
				}
			}
		}
		if refused < 10 || refused > 25 {
			t.Errorf("%d attempts in two minutes without a verifier, want pauses that grow to ten seconds", refused)
		}
		if last := all[len(all)-1]; last.Verdict != Accepted || len(w.of(StepSession)) != 1 {
			t.Errorf("after the verifier's return %+v with %d sessions, want accepted evidence with the old token", last, len(w.of(StepSession)))
		}
	})
}

// slowly answers after a time, or not at all if the agent gives up before.
func slowly(d time.Duration) handler {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		return false
	}
}

func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.then(StepEvidence, slowly(29*time.Second), slowly(31*time.Second), func(rw http.ResponseWriter, r *http.Request) bool {
			rw.WriteHeader(202)
			_, _ = rw.Write([]byte(" "))
			rw.(http.Flusher).Flush()
			slowly(time.Hour)(rw, r)
			panic(http.ErrAbortHandler) // no end of the answer
		})
		w.runFor(t, 3*time.Minute)
		all := w.list()
		if len(all) < 4 || all[0].Verdict != Accepted || all[3].Verdict != Accepted || all[3].Err != nil {
			t.Fatalf("%+v, want the first accepted, after 29 s, and the fourth", all)
		}
		for i, want := range []Verdict{NotSent, Accepted} { // no answer, and a status without the rest
			a := all[1+i]
			if d := a.Finished.Sub(a.Started); !errors.Is(a.Err, context.DeadlineExceeded) || d != 30*time.Second || a.Verdict != want {
				t.Errorf("after %s %+v, want %s, and the end of RequestTimeout after 30 s", d, a, want)
			}
		}
	})
}

func TestEndsWithItsContextAtOnce(t *testing.T) {
	for _, step := range []string{StepSession, StepProof, StepNegotiate, StepEvidence} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.then(step, slowly(time.Hour))
			start := time.Now()
			w.runFor(t, 10*time.Second)
			if d := time.Since(start); d != 10*time.Second || len(w.list()) != 0 {
				t.Errorf("%s: ended after %s with %+v, want the end with the context, and no record", step, d, w.list())
			}
		})
	}
}

func TestTokenIsNeverShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.then(StepNegotiate, answers(401, nil, testToken), nil, answers(500, nil, testToken), answers(201, nil, testToken))
		w.then(StepProof, nil, answers(200, nil, `{"data": {"type": "session", "attributes": {"evaluation": "pass", "token": "`+testToken+`\n"}}}`))
		w.runFor(t, time.Minute)
		text := w.log.String() + fmt.Sprintf("%+v %#v %v", w.list(), w.list(), w.session.token)
		for _, secret := range []string{testToken, testToken[5:]} {
			if strings.Contains(text, secret) {
				t.Errorf("the token is in the log or the records:\n%s", text)
			}
		}
		if !strings.Contains(w.log.String(), "verdict=accepted") {
			t.Errorf("log without an accepted attestation:\n%s", w.log.String())
		}
	})
}

// Many agents share one process, and one verifier.
func TestManyAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 300
		first := startWorld(t, nil)
		ended := make(chan *world, n)
		for range n {
			w := &world{fakeVerifier: first.fakeVerifier, log: first.log}
			u := *first.runner
			u.client, u.report = newClient(u.cfg), w.records.add
			w.runner = &u
			go func() {
				w.runFor(t, 11*time.Second)
				ended <- w
			}()
		}
		for range n {
			w := <-ended
			if all := w.list(); len(all) != 3 || all[2].Verdict != Accepted {
				t.Errorf("%d attempts: %+v, want three accepted ones", len(all), all)
			}
		}
	})
}
