package netns

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// binaryAgent is a real Keylime agent, such as rust-keylime's, run as a program on its node.
type binaryAgent struct {
	n    *node
	p    *process
	cert *x509.Certificate
}

// startBinaryAgent prepares what the Rust agent needs and starts it: a server certificate with its hostname (it cannot
// make one for a name itself), a tmpfs at <dir>/secure (which it could not mount without privilege), and its
// configuration in the environment.
func (n *node) startBinaryAgent(context.Context) (nodeAgent, error) {
	dir := n.s.dir.Agent(n.Name)
	secure := filepath.Join(dir, "secure")
	if err := os.MkdirAll(secure, 0o700); err != nil {
		return nil, fmt.Errorf("make the agent's folder: %w", err)
	}
	if err := unix.Mount("secure", secure, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=1m"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs at %s: %w", secure, err)
	}
	pair, cert, key, err := fleet.ServerCertificate(dir, n.hostname)
	if err != nil {
		return nil, err
	}
	k := n.s.plan.Keylime
	options := map[string]string{
		"UUID": fleet.UUIDOption(n.Node, n.uuid), "KEYLIME_DIR": dir, "IP": n.Address.String(), "PORT": strconv.Itoa(int(n.Agent.Port)),
		"CONTACT_IP": n.hostname, "CONTACT_PORT": strconv.Itoa(plan.IngressPort),
		"REGISTRAR_IP": k.Registrar.Addr().String(), "REGISTRAR_PORT": strconv.Itoa(int(k.Registrar.Port())),
		"TRUSTED_CLIENT_CA": n.s.configured.PKI.CACertFile(), "SERVER_CERT": cert, "SERVER_KEY": key,
		"TPM_ENCRYPTION_ALG": encryptionAlgorithm(n.TPM.EKAlgorithm), "TPM_SIGNING_ALG": n.Agent.AKAlgorithm,
		"RUN_AS": "", "ENABLE_REVOCATION_NOTIFICATIONS": "false", "ENABLE_IAK_IDEVID": "false",
	}
	if h := n.Agent.HashAlgorithm; h != "" {
		options["TPM_HASH_ALG"] = h
	}
	if versions := keylime.AgentAPIVersions(k.Version); versions != nil {
		options["API_VERSIONS"] = strings.Join(versions, ", ")
	}
	log := "info"
	if k.Push() {
		options["VERIFIER_URL"], options["VERIFIER_TLS_CA_CERT"] = "https://"+k.Verifier.String(), n.s.configured.PKI.CACertFile()
		options["ATTESTATION_INTERVAL_SECONDS"] = strconv.Itoa(int(time.Duration(k.QuoteInterval).Seconds()))
		log += ",keylime_push_model_agent::attestation=debug" // which challenges it answers
	}
	env := append(os.Environ(), "TCTI="+TCTI, "RUST_LOG="+log)
	for _, name := range slices.Sorted(maps.Keys(options)) {
		env = append(env, "KEYLIME_AGENT_"+name+"="+options[name])
	}
	p, err := startProcess(n.s.plan.Lab, n.Name, keylime.Command{Name: "agent of " + n.Name, Argv: []string{n.Agent.Path}, Env: env, Dir: dir}, n.s.dir.Log(n.Name))
	if err != nil {
		return nil, err
	}
	return &binaryAgent{n: n, p: p, cert: pair.Leaf}, nil
}

// encryptionAlgorithm is the Rust agent's word for the EK's algorithm.
func encryptionAlgorithm(ek string) string {
	if ek == "ecc-p256" {
		return "ecc256"
	}
	return "rsa2048"
}

// register waits until the agent has made itself active at the registrar, and, if it is to be asked, listens, which it does last.
func (b *binaryAgent) register(ctx context.Context) error {
	return b.p.awaitReady(ctx, func(ctx context.Context) error {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			_, err := b.n.s.registrar.Agent(ctx, b.n.uuid)
			if err == nil && b.n.s.plan.Keylime.Push() {
				return nil
			}
			if err == nil {
				var c net.Conn
				if c, err = b.n.s.network.Host(b.n.Name).DialContext(ctx, "tcp", join(b.n.Address, b.n.Agent.Port)); err == nil {
					return c.Close()
				}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for the agent of %s to register and listen: %w; last: %w", b.n.Name, context.Cause(ctx), err)
			case <-tick.C:
			}
		}
	})
}

func (b *binaryAgent) certificate() *x509.Certificate { return b.cert }

// served counts the quotes for this nonce in the agent's own access log; of an agent of the push model, the challenges that it was given.
func (b *binaryAgent) served(nonce string) (int, error) {
	marks := []string{"nonce=" + nonce, " result 200 "}
	if b.n.s.plan.Keylime.Push() {
		challenge, err := hex.DecodeString(nonce)
		if err != nil {
			return 0, fmt.Errorf("challenge %q: %w", nonce, err)
		}
		marks = []string{`"` + base64.StdEncoding.EncodeToString(challenge) + `"`, "> Response body: "} // not those of "PATCH Response body", which has it again
	}
	f, err := os.Open(b.p.log)
	if err != nil {
		return 0, fmt.Errorf("read the agent's log: %w", err)
	}
	defer f.Close()
	count := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20) // a push agent's evidence is one line
	for lines.Scan() {
		if line := lines.Text(); strings.Contains(line, marks[0]) && strings.Contains(line, marks[1]) {
			count++
		}
	}
	return count, lines.Err()
}

func (b *binaryAgent) ended() error {
	if b.p.alive() {
		return nil
	}
	return b.p.died()
}

func (b *binaryAgent) stop(ctx context.Context) error {
	err := b.p.stop(ctx)
	if e := unix.Unmount(filepath.Join(b.n.s.dir.Agent(b.n.Name), "secure"), unix.MNT_DETACH); e != nil && err == nil {
		err = fmt.Errorf("unmount the agent's tmpfs: %w", e)
	}
	return err
}
