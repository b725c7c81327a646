package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Configure makes the services' certificates, if there are none, and their configuration. Databases are new with every start of the
// lab: the services know nothing of an earlier run, while TPMs, EK CA and agents keep their keys.
func Configure(ctx context.Context, dir state.Dir, p plan.Plan, installation *keylime.Installation) (*keylime.Configured, error) {
	k := p.Keylime
	pki, err := keylime.OpenPKI(dir.PKI())
	if errors.Is(err, fs.ErrNotExist) {
		registrar, verifier := k.Certificate(plan.Registrar), k.Certificate(plan.Verifier)
		pki, err = keylime.CreatePKI(dir.PKI(), keylime.PKIOptions{
			CommonName:     k.Certificates[0].CommonName,
			RegistrarNames: registrar.Names, RegistrarIPs: ips(registrar.Addresses),
			VerifierNames: verifier.Names, VerifierIPs: ips(verifier.Addresses),
		})
	}
	if err != nil {
		return nil, err
	}
	if p.PayloadPackaged() {
		if err := os.MkdirAll(dir.Revocation(), 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of the tenant's authority: %w", err)
		}
	}
	if err := os.RemoveAll(dir.Keylime()); err != nil {
		return nil, fmt.Errorf("delete the services' state of the last run: %w", err)
	}
	return keylime.WriteConfig(ctx, configuration(dir, p, pki, installation))
}

// Reopen is the configuration that Configure has written, without writing anything.
func Reopen(dir state.Dir, p plan.Plan, installation *keylime.Installation) (*keylime.Configured, error) {
	pki, err := keylime.OpenPKI(dir.PKI())
	if err != nil {
		return nil, err
	}
	return keylime.OpenConfig(configuration(dir, p, pki, installation))
}

func configuration(dir state.Dir, p plan.Plan, pki *keylime.PKI, installation *keylime.Installation) keylime.Config {
	k := p.Keylime
	notifiers, webhook := notifiers(k.Revocation)
	return keylime.Config{
		RevocationNotifiers: notifiers, WebhookURL: webhook, CAPassword: packagePassword,
		Dir: dir.Keylime(), PKI: pki, Installation: installation,
		RegistrarIP: k.Registrar.Addr().String(), RegistrarPort: int(k.Registrar.Port()), RegistrarTLSPort: int(k.RegistrarTLS.Port()),
		VerifierIP: k.Verifier.Addr().String(), VerifierPort: int(k.Verifier.Port()),
		Mode: k.Mode, QuoteInterval: time.Duration(k.QuoteInterval),
		TPMCertStore: dir.CertStore(), SkipEKCert: !k.RequireEKCert,
		AcceptSigningAlgs: p.AcceptedSigning(), AcceptHashAlgs: p.AcceptedHashes(),
		VerifierWorkers: k.VerifierWorkers, RegistrarWorkers: k.RegistrarWorkers,
		Overrides: k.Options,
	}
}

// packagePassword locks a store beside which Keylime writes the same keys without one: it protects nothing.
const packagePassword = "keylab"

// notifiers are whom the verifier tells of an agent that it no longer trusts, in Keylime's words.
func notifiers(r *plan.Revocation) (names []string, webhook string) {
	if r == nil {
		return nil, ""
	}
	if r.Agent {
		names = append(names, "agent")
	}
	if r.Webhook != nil {
		names, webhook = append(names, "webhook"), "https://"+r.Webhook.String()+"/revocations"
	}
	return names, webhook
}

func ips(addresses []netip.Addr) []net.IP {
	var out []net.IP
	for _, a := range addresses {
		out = append(out, a.AsSlice())
	}
	return out
}
