package agent

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/internal/keypem"
)

// Names of the files in Config.StateDir.
const (
	fileState      = "agent.json"
	filePayloadKey = "payload.key.pem"
	fileServerKey  = "server.key.pem"
	fileServerCert = "server.crt.pem"
)

// savedState is the content of agent.json.
type savedState struct {
	UUID          string `json:"uuid"`
	EKHash        string `json:"ek_sha256"` // which TPM the AK belongs to
	AKAlgorithm   string `json:"ak_algorithm"`
	HashAlgorithm string `json:"hash_algorithm"`
	AKPublic      []byte `json:"ak_public"`  // TPM2B_PUBLIC
	AKPrivate     []byte `json:"ak_private"` // TPM2B_PRIVATE, encrypted by the TPM
}

// fits says whether a saved AK can serve the present TPM and configuration.
func (s *savedState) fits(cfg *Config, ekHash string) bool {
	return s != nil && s.EKHash == ekHash && s.AKAlgorithm == cfg.AKAlgorithm && s.HashAlgorithm == cfg.HashAlgorithm
}

func (s *savedState) key() (*attestationKey, error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](s.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("saved AK, public part: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](s.AKPrivate)
	if err != nil {
		return nil, fmt.Errorf("saved AK, private part: %w", err)
	}
	return newAttestationKey(*public, *private)
}

// stateDir is a folder of small files; the zero value keeps nothing.
type stateDir string

// read returns nil without an error when there is no such file.
func (d stateDir) read(name string) ([]byte, error) {
	if d == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(string(d), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the agent's state: %w", err)
	}
	return data, nil
}

// write replaces a file as a whole: after a crash it is either old or new.
func (d stateDir) write(name string, data []byte) error {
	if d == "" {
		return nil
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("creating the agent's state folder: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(string(d), name), data, 0o600); err != nil {
		return fmt.Errorf("writing the agent's state: %w", err)
	}
	return nil
}

func (d stateDir) readState() (*savedState, error) {
	data, err := d.read(fileState)
	if err != nil || data == nil {
		return nil, err
	}
	var state savedState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("%s: %w (delete it to start with a new AK)", filepath.Join(string(d), fileState), err)
	}
	return &state, nil
}

func (d stateDir) writeState(state *savedState) error {
	data, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the agent's state: %w", err)
	}
	return d.write(fileState, append(data, '\n'))
}

// readKey returns nil without an error when there is no such file.
func (d stateDir) readKey(name string) (crypto.Signer, error) {
	data, err := d.read(name)
	if err != nil || data == nil {
		return nil, err
	}
	signer, err := keypem.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (delete it to make a new one)", filepath.Join(string(d), name), err)
	}
	return signer, nil
}

func (d stateDir) writeKey(name string, key crypto.Signer) error {
	if d == "" {
		return nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return d.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
