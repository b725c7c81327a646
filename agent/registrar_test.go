package agent

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// fakeRegistrar does what Keylime's does: it makes a credential for EK and AK,
// checks the proof, and refuses another AK for a known agent.
type fakeRegistrar struct {
	*httptest.Server
	mu      sync.Mutex
	agents  map[string]*fakeRecord
	prelude []func(w http.ResponseWriter) // answers to give first, each once
	tamper  func(blob []byte) []byte
	log     []string
}

type fakeRecord struct {
	registration
	secret []byte
	active bool
	cert   *x509.Certificate // mtls_cert; nil for "disabled"
}

func startRegistrar(t testing.TB) *fakeRegistrar {
	f := &fakeRegistrar{agents: map[string]*fakeRecord{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRegistrar) addr() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fakeRegistrar) record(uuid string) *fakeRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.agents[uuid]
}

func (f *fakeRegistrar) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, r.Method+" "+r.URL.Path)
	if len(f.prelude) > 0 {
		first := f.prelude[0]
		f.prelude = f.prelude[1:]
		first(w)
		return
	}
	if r.URL.Path == "/version" {
		reply(w, 200, "Success", map[string]any{"current_version": "2.6", "supported_versions": []string{"1.0", "2.0", "2.5", "2.6", "3.0"}})
		return
	}
	uuid, ok := strings.CutPrefix(r.URL.Path, "/v2.6/agents/")
	if !ok || r.Header.Get("Content-Type") != "application/json" {
		reply(w, 400, "bad path or content type", nil)
		return
	}
	var err error
	var results any
	status := 200
	if r.Method == http.MethodPost {
		results, status, err = f.create(uuid, r)
	} else {
		status, err = f.activate(uuid, r)
	}
	if err != nil {
		reply(w, status, err.Error(), nil)
		return
	}
	reply(w, 200, "Success", results)
}

func reply(w http.ResponseWriter, status int, message string, results any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(envelope{status, message, results})
}

func (f *fakeRegistrar) create(uuid string, r *http.Request) (any, int, error) {
	var body registration
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, 400, err
	}
	if old := f.agents[uuid]; old != nil && (old.AK != body.AK || old.EK != body.EK) {
		return nil, 403, fmt.Errorf("agent %s is known with another AK", uuid)
	}
	ek, err := decodePublic(body.EK)
	if err != nil {
		return nil, 400, fmt.Errorf("ek_tpm: %w", err)
	}
	ak, err := decodePublic(body.AK)
	if err != nil {
		return nil, 400, fmt.Errorf("aik_tpm: %w", err)
	}
	var cert *x509.Certificate
	if body.MTLSCert != mtlsDisabled {
		block, _ := pem.Decode([]byte(body.MTLSCert))
		if block == nil {
			return nil, 400, fmt.Errorf("mtls_cert is not PEM")
		}
		if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, 400, err
		}
	}
	secret := []byte(rand.Text() + rand.Text())[:32]
	blob, err := makeCredential(ek, ak, secret)
	if err != nil {
		return nil, 400, err
	}
	if f.tamper != nil {
		blob = f.tamper(blob)
	}
	f.agents[uuid] = &fakeRecord{registration: body, secret: secret, cert: cert}
	return map[string]string{"blob": base64.StdEncoding.EncodeToString(blob)}, 200, nil
}

func (f *fakeRegistrar) activate(uuid string, r *http.Request) (int, error) {
	record := f.agents[uuid]
	if record == nil {
		return 404, fmt.Errorf("no agent %s", uuid)
	}
	var body struct {
		Tag string `json:"auth_tag"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return 400, err
	}
	mac := hmac.New(sha512.New384, []byte(base64.StdEncoding.EncodeToString(record.secret)))
	mac.Write([]byte(uuid))
	if tag, err := hex.DecodeString(body.Tag); err != nil || !hmac.Equal(tag, mac.Sum(nil)) {
		delete(f.agents, uuid)
		return 403, fmt.Errorf("wrong auth_tag")
	}
	record.active = true
	return 200, nil
}

func decodePublic(text string) (*tpm2.TPMTPublic, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	sized, err := tpm2.Unmarshal[tpm2.TPM2BPublic](raw)
	if err != nil {
		return nil, err
	}
	return sized.Contents()
}

// makeCredential builds the challenge blob, as TPM2_MakeCredential would.
func makeCredential(ek, ak *tpm2.TPMTPublic, secret []byte) ([]byte, error) {
	key, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(ak)
	if err != nil {
		return nil, err
	}
	idObject, encrypted, err := tpm2.CreateCredential(rand.Reader, key, name.Buffer, secret)
	if err != nil {
		return nil, err
	}
	blob := binary.BigEndian.AppendUint32(nil, credentialMagic)
	blob = binary.BigEndian.AppendUint32(blob, credentialVersion)
	blob = append(blob, tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: idObject})...)
	return append(blob, tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: encrypted})...), nil
}
