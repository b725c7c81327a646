package keylime

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func enroller(t testing.TB, kl *Configured, opts EnrollerOptions) *Enroller {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	en, err := StartEnroller(ctx, kl, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closing, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		if err := en.Close(closing); err != nil && !errors.Is(err, ErrEnrollerEnded) {
			t.Errorf("close the enroller: %v", err)
		}
		cancel()
	})
	return en
}

func TestEnrollerRefusals(t *testing.T) {
	kl := services(t, nil)
	en := enroller(t, kl, EnrollerOptions{})
	imported, err := en.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Keylime imported in %s", imported.Round(time.Millisecond))

	var wg sync.WaitGroup
	for _, id := range []string{"agent-1", "agent-2", "agent-3", "agent-4", "agent-5", "agent-6"} {
		wg.Go(func() {
			res, err := en.Enroll(t.Context(), Request{UUID: id})
			if err != nil {
				t.Errorf("%s: %v", id, err)
				return
			}
			t.Logf("%s took %s", id, res.Duration.Round(time.Millisecond))
			if res.OK || res.UUID != id || res.EKChecked || !errors.Is(res.Err(), ErrRejected) {
				t.Errorf("%s, which never registered: %+v", id, res)
			}
			if !strings.Contains(res.Message, "Agent $"+id+" data not found in the Registrar") {
				t.Errorf("%s: message %q does not say that the registrar does not know it", id, res.Message)
			}
		})
	}
	wg.Wait()

	res, err := en.Enroll(t.Context(), Request{UUID: "a b"})
	if err != nil || res.OK || !strings.Contains(res.Message, "invalid characters") {
		t.Errorf("malformed UUID: %+v, %v", res, err)
	}
	res, err = en.Run(t.Context(), "--no-such-option")
	if err != nil || res.OK || !strings.Contains(res.Message, "unrecognized arguments: --no-such-option") {
		t.Errorf("malformed arguments: %+v, %v", res, err)
	}
	if res, err = en.Run(t.Context(), "-c", "cvlist"); err != nil || !res.OK {
		t.Errorf("after refusals: %+v, %v", res, err)
	}
}

// A tenant that waits for a server which never answers must not outlive the caller's patience, nor block other requests.
func TestEnrollerCancel(t *testing.T) {
	kl := services(t, nil)
	en := enroller(t, kl, EnrollerOptions{Parallel: 1})
	if _, err := en.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	silent := silentListener(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-silent.contacted
		cancel()
	}()
	_, err := en.Run(ctx, "-c", "add", "-u", "agent-1", "-r", "127.0.0.1", "-rp", silent.port)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled request: %v; want context.Canceled", err)
	}
	next, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if res, err := en.Run(next, "-c", "cvlist"); err != nil || !res.OK {
		t.Errorf("next request: %+v, %v", res, err)
	}
}

func TestEnrollerThatDies(t *testing.T) {
	kl := services(t, nil)
	en := enroller(t, kl, EnrollerOptions{})
	if _, err := en.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := SignalGroup(en.process.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := en.Enroll(ctx, Request{UUID: "agent-1"})
	if !errors.Is(err, ErrEnrollerEnded) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("error %v; want ErrEnrollerEnded with the cause", err)
	}
}

// Import errors must come out, not hang.
func TestEnrollerThatCannotStart(t *testing.T) {
	pki, err := CreatePKI(t.TempDir(), PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kl, err := WriteConfig(t.Context(), Config{Dir: t.TempDir(), PKI: pki, Installation: installed(t)})
	if err != nil {
		t.Fatal(err)
	}
	broken := func(c Command, std Stdio) (Process, error) {
		c.Argv[0] = "/usr/bin/python3" // without Keylime
		return StartCmd(c.Exec(t.Context()), std)
	}
	en, err := StartEnroller(t.Context(), kl, EnrollerOptions{Start: broken})
	if err != nil {
		t.Fatal(err)
	}
	_, err = en.Enroll(t.Context(), Request{UUID: "agent-1"})
	if err == nil || !strings.Contains(err.Error(), "No module named 'keylime'") {
		t.Errorf("error %v; want Python's own words", err)
	}
}
