package netns

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
)

// binaryAgent is a real Keylime agent, such as rust-keylime's, run as a program on its node.
type binaryAgent struct {
	n    *node
	p    *process
	cert *x509.Certificate
}

// startBinaryAgent prepares what the Rust agent needs and starts it: a server certificate with its hostname (it cannot
// make one for a name itself), the tmpfs at <dir>/secure (which it could not mount without privilege), and its
// configuration in the environment. What it writes is for its user alone.
func (n *node) startBinaryAgent(path string) (nodeAgent, error) {
	dir := n.s.dir.Agent(n.Name)
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
		"EXTRACT_PAYLOAD_ZIP": strconv.FormatBool(n.extract()), "PAYLOAD_SCRIPT": n.script(),
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
	n.logOptions(options)
	env := append(os.Environ(), "TCTI="+TCTI, "RUST_LOG="+log)
	for _, name := range slices.Sorted(maps.Keys(options)) {
		env = append(env, "KEYLIME_AGENT_"+name+"="+options[name])
	}
	command := keylime.Command{Name: "agent of " + n.Name, Argv: []string{"sh", "-c", `umask 077 && exec "$0"`, path}, Env: env, Dir: dir}
	p, err := n.s.startProcess(n.Name, command, n.s.execOn(n.Name))
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
	err := b.awaitRegistered(ctx)
	if err != nil && !errors.Is(err, fleet.ErrForbidden) && b.forbidden() {
		err = fmt.Errorf("%w: %w", fleet.ErrForbidden, err)
	}
	return err
}

func (b *binaryAgent) awaitRegistered(ctx context.Context) error {
	return b.p.awaitReady(ctx, func(ctx context.Context) error {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			var err error
			if b.n.s.plan.Keylime.Push() {
				if err = b.activated(); err == nil || errors.Is(err, fleet.ErrForbidden) {
					return err
				}
			} else {
				_, err = b.n.s.registrar.Agent(ctx, b.n.uuid)
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

// activated reads in the log of an agent of the push model that it has made itself active since it was started.
func (b *binaryAgent) activated() error {
	f, err := os.Open(b.p.log)
	if err != nil {
		return fmt.Errorf("read the agent's log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(b.p.from, io.SeekStart); err != nil {
		return fmt.Errorf("read the agent's log: %w", err)
	}
	return fleet.Activated(f, b.n.uuid)
}

// forbidden tells whether an agent that has ended said that the registrar forbids it to register.
func (b *binaryAgent) forbidden() bool {
	return !b.p.alive() && fleet.RefusedRegistration(b.p.lastOutput()) != ""
}

func (b *binaryAgent) certificate() *x509.Certificate { return b.cert }

// served counts the quotes for this nonce, or the answers to this challenge, in the agent's own log.
func (b *binaryAgent) served(nonce string) (int, error) {
	f, err := os.Open(b.p.log)
	if err != nil {
		return 0, fmt.Errorf("read the agent's log: %w", err)
	}
	defer f.Close()
	return fleet.Served(f, b.n.s.plan.Keylime.Push(), nonce)
}

func (b *binaryAgent) ended() error {
	if b.p.alive() {
		return nil
	}
	return b.p.died()
}

func (b *binaryAgent) stop(ctx context.Context) error {
	return b.p.stop(ctx)
}

func (b *binaryAgent) kill(context.Context) error {
	b.p.kill()
	return nil
}

func (b *binaryAgent) end() proof.End { return b.p.facts().End }
