package tpmsim

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// transientHandles asks the TPM itself, behind the resource manager, what is loaded.
func transientHandles(t testing.TB, tpm *TPM) []uint32 {
	t.Helper()
	if err := tpm.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer tpm.give()
	list, _, err := tpm.capability(capHandles, handleTransient)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func ownHandles(t testing.TB, c transport.TPM, first uint32) []tpm2.TPMHandle {
	t.Helper()
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return list.Handle
}

// Four clients with three keys each want twelve slots of a TPM that has three, and must not notice.
func TestClientsShareTheTPM(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		const clients, keys, rounds = 4, 3, 5
		var wg sync.WaitGroup
		for range clients {
			c := tpm.Client()
			defer c.Close()
			var loaded [keys]tpm2.TPMHandle
			var saved [keys]*savedKey
			for i := range keys {
				saved[i] = createKey(t, c)
				loaded[i] = saved[i].load(t, c)
			}
			if want := []tpm2.TPMHandle{0x80000000, 0x80000001, 0x80000002}; !slices.Contains(want, loaded[0]) || loaded[0] == loaded[1] {
				t.Errorf("handles are %x; a client expects to be alone", loaded)
			}
			wg.Go(func() {
				for range rounds {
					for i := range keys {
						// With an HMAC session, so that sessions have to share their three slots too.
						if err := saved[i].quote(c, loaded[i]); err != nil {
							t.Errorf("quote: %v", err)
						}
					}
				}
			})
		}
		wg.Wait()
		if tpm.swaps == 0 {
			t.Error("nothing was swapped out: the test does not test what it should")
		}
		t.Logf("%d swaps", tpm.swaps)
	})
}

func TestClientsCannotNameEachOthersObjects(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		one, other := tpm.Client(), tpm.Client()
		defer one.Close()
		defer other.Close()
		srk := createSRK(t, one)
		if _, err := (tpm2.ReadPublic{ObjectHandle: srk.ObjectHandle}).Execute(other); !errors.Is(err, tpm2.TPMRCReferenceH0) {
			t.Errorf("reading another client's object: %v, want TPM_RC_REFERENCE_H0", err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: srk.ObjectHandle}).Execute(other); !errors.Is(err, tpm2.TPMRCHandle) {
			t.Errorf("flushing another client's object: %v, want TPM_RC_HANDLE", err)
		}
		session, _, err := tpm2.PolicySession(one, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: session.Handle()}).Execute(other); !errors.Is(err, tpm2.TPMRCHandle) {
			t.Errorf("flushing another client's session: %v, want TPM_RC_HANDLE", err)
		}
		if _, err := (tpm2.PolicyGetDigest{PolicySession: session.Handle()}).Execute(other); !errors.Is(err, tpm2.TPMRCReferenceH0) {
			t.Errorf("using another client's session: %v, want TPM_RC_REFERENCE_H0", err)
		}
		if list := ownHandles(t, other, 0x80000000); len(list) != 0 {
			t.Errorf("another client's objects are listed: %x", list)
		}
		if list := ownHandles(t, other, 0x02000000); len(list) != 0 {
			t.Errorf("another client's sessions are listed: %x", list)
		}
		if list := ownHandles(t, one, 0x80000000); !slices.Equal(list, []tpm2.TPMHandle{srk.ObjectHandle}) {
			t.Errorf("own objects are listed as %x, want %x", list, srk.ObjectHandle)
		}
		if list := ownHandles(t, one, 0x02000000); !slices.Equal(list, []tpm2.TPMHandle{session.Handle()}) {
			t.Errorf("own sessions are listed as %x, want %x", list, session.Handle())
		}
		if _, err := (tpm2.ReadPublic{ObjectHandle: srk.ObjectHandle}).Execute(one); err != nil {
			t.Errorf("the object was disturbed: %v", err)
		}
	})
}

// What a client leaves behind must not fill the TPM.
func TestClientThatLeavesThingsBehindIsCleaned(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		for range 10 {
			c := tpm.Client()
			createSRK(t, c)
			createSRK(t, c)
			// MAX_ACTIVE_SESSIONS is 64: 10 times 8 would be too many.
			for range 8 {
				if _, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Send(newCommand(ccGetRandom, []byte{0, 8})); !errors.Is(err, errClientClosed) {
				t.Fatalf("a closed client gets %v", err)
			}
		}
		if left := transientHandles(t, tpm); len(left) != 0 {
			t.Errorf("objects left: %x", left)
		}
	})
}

// tpm2-tools save contexts themselves and load them in another process.
func TestContextSavedByOneClientLoadsInAnother(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		one, other := tpm.Client(), tpm.Client()
		defer other.Close()
		srk := createSRK(t, one)
		object, err := tpm2.ContextSave{SaveHandle: srk.ObjectHandle}.Execute(one)
		if err != nil {
			t.Fatal(err)
		}
		policy, _, err := tpm2.PolicySession(one, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			t.Fatal(err)
		}
		session, err := tpm2.ContextSave{SaveHandle: policy.Handle()}.Execute(one)
		if err != nil {
			t.Fatal(err)
		}
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := tpm2.ContextLoad{Context: object.Context}.Execute(other)
		if err != nil {
			t.Fatal(err)
		}
		public, err := tpm2.ReadPublic{ObjectHandle: got.LoadedHandle}.Execute(other)
		if err != nil || !bytes.Equal(public.Name.Buffer, srk.Name.Buffer) {
			t.Errorf("another object came back (%v)", err)
		}
		back, err := tpm2.ContextLoad{Context: session.Context}.Execute(other)
		if err != nil {
			t.Fatalf("a session saved by a client that has gone: %v", err)
		}
		if _, err := (tpm2.PolicyGetDigest{PolicySession: back.LoadedHandle}).Execute(other); err != nil {
			t.Error(err)
		}
	})
}

// Many sessions swapped in and out in turn run into the TPM's context gap unless old contexts are renewed.
func TestSessionsOutliveTheContextGap(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		c := tpm.Client()
		defer c.Close()
		var all []tpm2.TPMHandle
		for range 5 {
			s, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s.Handle())
		}
		for i := range 400 {
			// The first one stays swapped out all the time.
			h := all[1+i%4]
			if _, err := (tpm2.PolicyGetDigest{PolicySession: h}).Execute(c); err != nil {
				t.Fatalf("use %d: %v", i, err)
			}
		}
		if _, err := (tpm2.PolicyGetDigest{PolicySession: all[0]}).Execute(c); err != nil {
			t.Errorf("the session that was not used for long: %v", err)
		}
		if tpm.swaps < 256 {
			t.Errorf("only %d swaps: not enough for a gap", tpm.swaps)
		}
	})
}

func TestSequenceHandleIsForgottenWhenComplete(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		c := tpm.Client()
		defer c.Close()
		start, err := tpm2.HashSequenceStart{HashAlg: tpm2.TPMAlgSHA256}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.SequenceComplete{
			SequenceHandle: tpm2.AuthHandle{Handle: start.SequenceHandle, Auth: tpm2.PasswordAuth(nil)},
			Hierarchy:      tpm2.TPMRHNull,
		}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
		if list := ownHandles(t, c, 0x80000000); len(list) != 0 {
			t.Errorf("still listed: %x", list)
		}
	})
}

func TestSessionThatEndsWithItsCommandIsForgotten(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		c := tpm.Client()
		defer c.Close()
		key := createKey(t, c)
		if err := key.quote(c, key.load(t, c)); err != nil {
			t.Fatal(err)
		}
		if list := ownHandles(t, c, 0x02000000); len(list) != 0 {
			t.Errorf("still listed: %x", list)
		}
	})
}

// TPM2_Clear flushes objects behind the client's back; the freed slot may go to another client.
func TestClearForgetsFlushedObjects(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		one, other := tpm.Client(), tpm.Client()
		defer one.Close()
		defer other.Close()
		mine := createSRK(t, one)
		if _, err := (tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}).Execute(other); err != nil {
			t.Fatal(err)
		}
		createSRK(t, other)
		if _, err := (tpm2.ReadPublic{ObjectHandle: mine.ObjectHandle}).Execute(one); !errors.Is(err, tpm2.TPMRCReferenceH0) {
			t.Errorf("a flushed object gives %v, want TPM_RC_REFERENCE_H0", err)
		}
	})
}

func TestMalformedCommandsGetTPMErrors(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		c := tpm.Client()
		defer c.Close()
		good := newCommand(ccGetRandom, []byte{0, 8})
		long := newCommand(ccGetRandom, []byte{0, 8})
		long[5]++
		badTag := slices.Clone(good)
		badTag[0] = 0
		for name, tc := range map[string]struct {
			command []byte
			rc      uint32
		}{
			"nothing":              {nil, rcCommandSize},
			"half a header":        {good[:5], rcCommandSize},
			"size too great":       {long, rcCommandSize},
			"bytes after the end":  {append(slices.Clone(good), 0), rcCommandSize},
			"over the maximum":     {newCommand(ccGetRandom, make([]byte, maxMessage)), rcCommandSize},
			"unknown tag":          {badTag, 0x01e},
			"unknown command":      {newCommand(0xfff, nil), 0x143},
			"no room for handles":  {newCommand(ccContextSave, []byte{0x80}), rcCommandSize},
			"no authorization":     {newMessage(tagSessions, ccGetRandom, nil), rcCommandSize},
			"authorization cut":    {newMessage(tagSessions, ccGetRandom, []byte{0, 0, 0, 9, 2}), rcSize},
			"authorization broken": {newMessage(tagSessions, ccGetRandom, []byte{0, 0, 0, 5, 2, 0, 0, 0, 9}), rcSize},
		} {
			response, err := c.Send(tc.command)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := messageCode(response); len(response) != headerSize || got != tc.rc {
				t.Errorf("%s: response %x, want code %#x", name, response, tc.rc)
			}
		}
		if response, err := c.Send(good); err != nil || messageCode(response) != rcSuccess {
			t.Errorf("afterwards: %x, %v", response, err)
		}
	})
}
