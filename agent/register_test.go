package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// registering returns an agent that is not served, with its registrar.
func registering(t *testing.T, change func(*Config)) (*Agent, *fakeRegistrar) {
	t.Helper()
	tpm, registrar := startTPM(t), startRegistrar(t)
	cfg := baseConfig(tpm, newCA(t, "cv_ca"))
	cfg.Registrar = registrar.addr()
	if change != nil {
		change(&cfg)
	}
	return newAgent(t, cfg), registrar
}

func TestRegisterWaitsForABusyRegistrar(t *testing.T) {
	a, registrar := registering(t, nil)
	registrar.prelude = []func(http.ResponseWriter){
		func(w http.ResponseWriter) { reply(w, 503, "starting", nil) },
		func(w http.ResponseWriter) { reply(w, 429, "slow down", nil) },
		cutConnection,
		func(w http.ResponseWriter) { // an answer that ends too early
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(200)
			_, _ = io.WriteString(w, `{"code":200`)
		},
	}
	if err := a.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := registrar.record(a.UUID()); r == nil || !r.active {
		t.Error("not active")
	}
}

func cutConnection(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func TestRegisterWaitsForARegistrarThatIsDown(t *testing.T) {
	var dials int
	a, _ := registering(t, func(cfg *Config) {
		real := new(net.Dialer)
		cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials++; dials < 4 {
				return real.DialContext(ctx, network, "127.0.0.1:1") // nobody listens there
			}
			return real.DialContext(ctx, network, addr)
		}
	})
	if err := a.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dials < 4 {
		t.Errorf("%d dials", dials)
	}
}

func TestRegisterGivesUpWithItsContext(t *testing.T) {
	a, registrar := registering(t, nil)
	registrar.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := a.Register(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "attempts") {
		t.Fatalf("error %v, want the deadline and the number of attempts", err)
	}
}

func TestRegisterAgain(t *testing.T) {
	a, registrar := registering(t, nil)
	for range 2 {
		if err := a.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if r := registrar.record(a.UUID()); !r.active {
		t.Error("not active")
	}
}

func TestRegisterOnlyOnceRefused(t *testing.T) {
	for _, status := range []int{400, 403, 404} {
		a, registrar := registering(t, nil)
		registrar.prelude = []func(http.ResponseWriter){
			func(w http.ResponseWriter) {
				reply(w, 200, "ok", map[string]any{"current_version": "2.6"})
			},
			func(w http.ResponseWriter) { reply(w, status, "another AK", nil) },
		}
		err := a.Register(t.Context())
		var refused *RegistrarError
		if !errors.Is(err, ErrRegistrarRefused) || !errors.As(err, &refused) {
			t.Fatalf("status %d: error %v, want ErrRegistrarRefused", status, err)
		}
		if refused.Status != status || refused.Message != "another AK" || refused.Step != "register" {
			t.Errorf("%+v", refused)
		}
		if len(registrar.log) != 2 {
			t.Errorf("status %d: %d requests %v, want no second attempt", status, len(registrar.log), registrar.log)
		}
	}
}

// TestAnotherAKIsRefused is a node whose state was lost.
func TestAnotherAKIsRefused(t *testing.T) {
	tpm, registrar, ca := startTPM(t), startRegistrar(t), newCA(t, "cv_ca")
	cfg := baseConfig(tpm, ca)
	cfg.Registrar = registrar.addr()
	first := newAgent(t, cfg)
	if err := first.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newAgent(t, cfg) // no StateDir: it makes an AK of its own
	err := second.Register(t.Context())
	var refused *RegistrarError
	if !errors.As(err, &refused) || refused.Status != 403 || !strings.Contains(err.Error(), "delete the agent") {
		t.Fatalf("error %v, want 403 with advice", err)
	}
}

func TestChallengeForAnotherTPMFails(t *testing.T) {
	a, registrar := registering(t, nil)
	registrar.tamper = func(blob []byte) []byte {
		blob[len(blob)-1] ^= 1
		return blob
	}
	err := a.Register(t.Context())
	var rc tpm2.TPMRC
	if !errors.Is(err, ErrTPM) || !errors.As(err, &rc) {
		t.Fatalf("error %v, want the TPM's", err)
	}
}

func TestMalformedChallenge(t *testing.T) {
	good := binary.BigEndian.AppendUint32(nil, credentialMagic)
	good = binary.BigEndian.AppendUint32(good, credentialVersion)
	good = append(good, 0, 2, 'i', 'd', 0, 3, 's', 'e', 'c')
	id, secret, err := parseCredential(good)
	if err != nil || string(id) != "id" || string(secret) != "sec" {
		t.Fatalf("%q %q %v", id, secret, err)
	}
	for name, blob := range map[string][]byte{
		"empty":        {},
		"header only":  good[:8],
		"no secret":    good[:12],
		"cut":          good[:len(good)-1],
		"too long":     append(append([]byte(nil), good...), 0),
		"wrong magic":  append([]byte{1}, good[1:]...),
		"version":      append(append([]byte(nil), good[:7]...), append([]byte{2}, good[8:]...)...),
		"huge id part": append(append([]byte(nil), good[:8]...), 0xff, 0xff),
	} {
		if _, _, err := parseCredential(blob); !errors.Is(err, ErrRegistrarAnswer) {
			t.Errorf("%s: error %v, want ErrRegistrarAnswer", name, err)
		}
	}
}

func TestChooseVersion(t *testing.T) {
	for _, c := range []struct {
		current   string
		supported string
		want      string
	}{
		{"2.6", "2.0 2.6 3.0", "2.6"},
		{"2.3", "2.1 2.3", "2.3"},
		{"3.1", "2.4 2.5 3.0 3.1", "2.5"},
		{"4.0", "3.0 4.0", ""},
	} {
		got, err := chooseVersion(APIVersions(), c.current, strings.Fields(c.supported))
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("current %s of %s: %q %v, want %q", c.current, c.supported, got, err, c.want)
		}
		if err != nil && !errors.Is(err, ErrAPIVersion) {
			t.Errorf("error %v", err)
		}
	}
}
