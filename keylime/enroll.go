package keylime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Request names an agent and how to reach it. Only UUID is required: the rest is known to Keylime from registration and configuration.
type Request struct {
	UUID string

	AgentIP      string // -t: where the tenant reaches the agent, a name or an address; default what the agent registered
	AgentPort    int    // -tp
	CVAgentIP    string // --cv_targethost: where the verifier reaches it, if that differs
	VerifierIP   string // -v
	VerifierPort int    // -vp
	PushModel    bool   // --push-model: the agent is not contacted, and its EK certificate NOT checked

	TPMPolicy         string // --tpm_policy: JSON, PCR -> digests
	RuntimePolicyFile string // --runtime-policy
	RuntimePolicyName string // --runtime-policy-name
	MBPolicyFile      string // --mb-policy
	MBPolicyName      string // --mb-policy-name
	PayloadFile       string // -f: delivered to the agent, encrypted
	CertDir           string // --cert: deliver a package with a certificate for the agent, and the one of the verifier's notices; made there by Keylime
	IncludeDir        string // --include: put this folder's files into the package
	VerifyPayload     bool   // --verify: wait until the agent proves that it has derived the payload's key

	Extra []string // more arguments of keylime_tenant
}

func (r Request) args(command string) []string {
	args := []string{"-c", command, "-u", r.UUID}
	for _, o := range []struct{ flag, value string }{
		{"-t", r.AgentIP}, {"--cv_targethost", r.CVAgentIP}, {"-v", r.VerifierIP}, {"--tpm_policy", r.TPMPolicy},
		{"--runtime-policy", r.RuntimePolicyFile}, {"--runtime-policy-name", r.RuntimePolicyName},
		{"--mb-policy", r.MBPolicyFile}, {"--mb-policy-name", r.MBPolicyName}, {"-f", r.PayloadFile}, {"--cert", r.CertDir}, {"--include", r.IncludeDir},
	} {
		if o.value != "" {
			args = append(args, o.flag, o.value)
		}
	}
	if r.AgentPort != 0 {
		args = append(args, "-tp", strconv.Itoa(r.AgentPort))
	}
	if r.VerifierPort != 0 {
		args = append(args, "-vp", strconv.Itoa(r.VerifierPort))
	}
	if r.PushModel {
		args = append(args, "--push-model")
	}
	if r.VerifyPayload {
		args = append(args, "--verify")
	}
	return append(args, r.Extra...)
}

// Result is how one command of the tenant ended.
type Result struct {
	UUID     string
	OK       bool
	ExitCode int           // of the command; negative: killed by that signal
	Message  string        // Keylime's own complaints, or "" when there are none
	Output   string        // everything it logged and printed
	Duration time.Duration // from its start, without the time it waited for its turn

	QuoteValidated bool   // the tenant verified a quote by the agent's AK
	EKChecked      bool   // a file of tpm_cert_store vouched for the EK's certificate
	EKStoreFile    string // the base name of that file
}

// ErrRejected is in the chain of errors about commands that Keylime's tenant refused or failed.
var ErrRejected = errors.New("keylime's tenant failed")

// Err is nil for a success, else an error with Keylime's own words.
func (r *Result) Err() error {
	if r.OK {
		return nil
	}
	msg := r.Message
	if msg == "" {
		msg = fmt.Sprintf("exit status %d, output:\n%s", r.ExitCode, indent(r.Output))
	}
	return fmt.Errorf("agent %s: %w: %s", r.UUID, ErrRejected, msg)
}

var (
	// The time stamp is absent in lines that the enroll script adds.
	complaint   = regexp.MustCompile(`(?m)^(?:[-\d]+ [:.\d]+ - )?\S+ - (?:WARNING|ERROR|CRITICAL) - (.*)$`)
	storeMatch  = regexp.MustCompile(`(?m)^keylime\.cert_utils - DEBUG - Cert to verify matched cert: (.*)$`)
	usageError  = regexp.MustCompile(`(?m)^keylime_tenant: error: (.*)$`)
	boringWords = []string{"configuration upgrade templates path", "Please use \"keylime_upgrade_config", "CA directory does not exist. Creating"}
)

func newResult(args []string, r scriptReply) *Result {
	res := &Result{OK: r.Code == 0, ExitCode: r.Code, Output: r.Output, Duration: time.Duration(r.Seconds * float64(time.Second))}
	for i, a := range args {
		if a == "-u" && i+1 < len(args) {
			res.UUID = args[i+1]
		}
	}
	var words []string
	for _, re := range []*regexp.Regexp{complaint, usageError} {
		for _, m := range re.FindAllStringSubmatch(r.Output, -1) {
			if text := strings.TrimSpace(m[1]); !boring(text) {
				words = append(words, text)
			}
		}
	}
	res.Message = strings.Join(words, "; ")
	res.QuoteValidated = strings.Contains(r.Output, "Quote from Agent "+res.UUID) && strings.Contains(r.Output, " validated")
	if m := storeMatch.FindStringSubmatch(r.Output); m != nil {
		res.EKChecked, res.EKStoreFile = true, filepath.Base(strings.TrimSpace(m[1]))
	}
	return res
}

func boring(text string) bool {
	for _, w := range boringWords {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// Enroll is `keylime_tenant -c add`: the tenant fetches the registration, checks a quote and the EK's certificate, and gives the agent to the
// verifier. The error is about the enroller itself; a refusal is in the Result: see [Result.Err].
func (e *Enroller) Enroll(ctx context.Context, r Request) (*Result, error) {
	return e.Run(ctx, r.args("add")...)
}

// Update is `keylime_tenant -c update`: delete and add, with all checks.
func (e *Enroller) Update(ctx context.Context, r Request) (*Result, error) {
	return e.Run(ctx, r.args("update")...)
}

// Delete is `keylime_tenant -c delete`: the verifier forgets the agent, the registrar does not.
func (e *Enroller) Delete(ctx context.Context, uuid string) (*Result, error) {
	return e.Run(ctx, Request{UUID: uuid}.args("delete")...)
}

// Reactivate is `keylime_tenant -c reactivate`.
func (e *Enroller) Reactivate(ctx context.Context, uuid string) (*Result, error) {
	return e.Run(ctx, Request{UUID: uuid}.args("reactivate")...)
}

// Status is `keylime_tenant -c status`.
func (e *Enroller) Status(ctx context.Context, uuid string) (*Result, error) {
	return e.Run(ctx, Request{UUID: uuid}.args("status")...)
}
