package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab"
)

// ChildCommand is the first argument by which a program that calls [Run] is started again on a host of the lab; main must then call
// [RunChild] with its standard input and output.
const ChildCommand = "on-a-host"

// order is what a child is to do.
type order struct {
	Do        string `json:"do"` // one of the words below
	UUID      string `json:"uuid"`
	Hostname  string `json:"hostname,omitempty"`
	Address   string `json:"address,omitempty"` // host:port to dial
	Registrar string `json:"registrar"`         // its mutual TLS port, host:port
	Verifier  string `json:"verifier"`          // host:port
	PKI       string `json:"pki"`               // folder of Keylime's certificates
	Direct    bool   `json:"direct,omitempty"`  // which cases
}

const (
	doCases      = "cases"      // do all cases, and give [Observations]
	doVerdict    = "verdict"    // wait until the verifier has come to one, and give it: a [Verdict]
	doReactivate = "reactivate" // have the verifier ask again
	doForget     = "forget"     // have the registrar delete the registration
)

// RunChild reads an order (JSON), carries it out where the program was started, and writes the result (JSON).
func RunChild(ctx context.Context, in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	pki, err := keylime.OpenPKI(o.PKI)
	if err != nil {
		return err
	}
	var result any = struct{}{}
	switch o.Do {
	case doCases:
		result, err = o.cases(ctx, pki)
	case doVerdict:
		result, err = awaitVerdict(ctx, keylime.NewVerifierClient(o.Verifier, pki.ClientTLS(), nil), o.UUID)
	case doReactivate:
		err = keylime.NewVerifierClient(o.Verifier, pki.ClientTLS(), nil).Reactivate(ctx, o.UUID)
	case doForget:
		if err = keylime.NewRegistrarClient(o.Registrar, pki.ClientTLS(), nil).Delete(ctx, o.UUID); errors.Is(err, keylime.ErrNotFound) {
			err = nil
		}
	default:
		err = fmt.Errorf("there is no order %q", o.Do)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// onHost starts this program again on a host of the lab to carry out an order, whose result it decodes.
func onHost(ctx context.Context, l *lab.Lab, host string, o order, result any) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	cmd, err := l.Command(ctx, host, exe, ChildCommand)
	if err != nil {
		return err
	}
	input, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode the order: %w", err)
	}
	var out, log bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s on %s: %w\noutput: %s", o.Do, host, err, log.String())
	}
	if err := json.Unmarshal(out.Bytes(), result); err != nil {
		return fmt.Errorf("%s on %s: read the result: %w\noutput: %s", o.Do, host, err, out.String())
	}
	return nil
}

// How long a request may take, and how long a deadline of an agent's is waited for. actix-web, of which the Rust agent is made, has 5 s;
// keylab's own agent has 30 s, and on busy machines some more.
const (
	caseTimeout  = 30 * time.Second
	casePatience = 60 * time.Second
)

// cases does the cases to one agent.
func (o order) cases(ctx context.Context, pki *keylime.PKI) (Observations, error) {
	registered, err := keylime.NewRegistrarClient(o.Registrar, pki.ClientTLS(), nil).Agent(ctx, o.UUID)
	if o.Direct && err != nil {
		return nil, fmt.Errorf("ask the registrar for agent %s from its own host: %w", o.UUID, err)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the registrar for agent %s: %w", o.UUID, err)
	}
	if registered.MTLSCert == nil {
		return nil, fmt.Errorf("agent %s has registered no certificate", o.UUID)
	}
	t := &Target{
		UUID: o.UUID, ServerName: o.Hostname, Registered: registered.MTLSCert, AK: registered.AIKTPM, Client: pki.ClientTLS().Certificates[0],
		Timeout: caseTimeout, Patience: casePatience,
		Dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", o.Address) },
	}
	if err := t.otherCertificates(o.PKI); err != nil {
		return nil, err
	}
	return t.DoAll(ctx, Cases(), o.Direct)
}

// DoAll does all cases that are direct, or all others, and gives the observations by [Case.ID].
func (t *Target) DoAll(ctx context.Context, cases []Case, direct bool) (Observations, error) {
	var mu sync.Mutex
	all := Observations{}
	do := func(c Case) {
		o := c.Do(ctx, t)
		mu.Lock()
		defer mu.Unlock()
		all[c.ID()] = o
	}
	var slow errgroup.Group
	for _, c := range cases {
		if c.Direct == direct && !c.Slow && ctx.Err() == nil {
			do(c)
		}
	}
	for _, c := range cases {
		if c.Direct == direct && c.Slow {
			slow.Go(func() error { do(c); return nil })
		}
	}
	_ = slow.Wait() // they only observe
	return all, context.Cause(ctx)
}
