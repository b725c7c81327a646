package fleet

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// UUID follows the plan's policy for one node. A random UUID is kept with the agent's keys, so that it stays the same.
func UUID(dir state.Dir, n plan.Node, ek crypto.PublicKey) (string, error) {
	switch n.Agent.UUID {
	case spec.UUIDHashEK:
		spki, err := x509.MarshalPKIXPublicKey(ek)
		if err != nil {
			return "", fmt.Errorf("encode the EK of %s: %w", n.Name, err)
		}
		return plan.HashEK(spki), nil
	case spec.UUIDGenerate:
		path := filepath.Join(dir.Agent(n.Name), "uuid")
		kept, err := os.ReadFile(path)
		if err == nil {
			return strings.TrimSpace(string(kept)), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read the UUID of %s: %w", n.Name, err)
		}
		id := uuid.NewString()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("keep the UUID of %s: %w", n.Name, err)
		}
		return id, atomicfile.Write(path, []byte(id+"\n"), 0o600)
	}
	return n.Agent.UUID, nil
}

// UUIDOption is the agent's setting from which it comes to the UUID that the lab expects. It takes 64 digits from nobody:
// it must hash the EK itself.
func UUIDOption(n plan.Node, uuid string) string {
	if n.Agent.UUID == spec.UUIDHashEK {
		return spec.UUIDHashEK
	}
	return uuid
}

// ServerCertificate is an agent's, with its hostname, which the Rust agent cannot make itself; its folder keeps it, as server-cert.pem and
// server-key.pem. It must stay the same while the verifier knows the agent: that trusts the certificate which was registered
// when the agent was enrolled.
func ServerCertificate(dir, hostname string) (pair tls.Certificate, certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(dir, "server-cert.pem"), filepath.Join(dir, "server-key.pem")
	pair, err = tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil && pair.Leaf.VerifyHostname(hostname) == nil {
		return pair, certFile, keyFile, nil
	}
	cert, key, err := keylime.AgentServerCertificate(keylime.RSA2048, hostname)
	if err != nil {
		return pair, certFile, keyFile, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return pair, certFile, keyFile, fmt.Errorf("make the agent's folder: %w", err)
	}
	if err := errors.Join(atomicfile.Write(certFile, cert, 0o644), atomicfile.Write(keyFile, key, 0o600)); err != nil {
		return pair, certFile, keyFile, err
	}
	if pair, err = tls.X509KeyPair(cert, key); err != nil {
		err = fmt.Errorf("the agent's server certificate: %w", err)
	}
	return pair, certFile, keyFile, err
}
