package fleet

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/verify"
)

// PushPCR is the PCR that the push model's policy asks for where the lab has no other policy: Keylime takes no evidence without one. It is for
// applications (TCG PC Client Platform Firmware Profile, section 3.3.4), and nothing of a lab extends it.
const PushPCR = 15

// pushPolicy is a tpm_policy by which PushPCR is as a TPM has it after its start.
func pushPolicy() string {
	zero := strings.Repeat("0", 64)
	policy, _ := json.Marshal(map[string][]string{fmt.Sprint(PushPCR): {zero}}) // cannot fail
	return string(policy)
}

// EnrolPush hands an agent of the push model to the verifier. Keylime's tenant makes no check of the EK certificate there, so it is made here, by the rule
// that the tenant has in the pull model: with requireEKCert, an agent whose EK certificate no CA of the tpm_cert_store issued is refused, and
// the tenant is not asked. The message says whose check that was.
func EnrolPush(ctx context.Context, registrar *keylime.RegistrarClient, certStore string, requireEKCert bool, tenant *keylime.Enroller, log io.Writer, request keylime.Request) (verify.Enrolment, error) {
	checked := ""
	if requireEKCert {
		record, err := registrar.Agent(ctx, request.UUID)
		if err != nil {
			return verify.Enrolment{}, fmt.Errorf("ask the registrar for agent %s: %w", request.UUID, err)
		}
		file, err := checkEK(record, certStore)
		if err != nil {
			message := fmt.Sprintf("checked by keylab, since Keylime does not in the push model: %v", err)
			fmt.Fprintf(log, "--- add %s: not asked: %s\n", request.UUID, message)
			return verify.Enrolment{Done: true, Message: message, At: time.Now()}, nil
		}
		checked = file
	}
	request.PushModel = true
	if request.TPMPolicy == "" && request.RuntimePolicyFile == "" && request.RuntimePolicyName == "" && request.MBPolicyFile == "" && request.MBPolicyName == "" {
		request.TPMPolicy = pushPolicy()
	}
	e, err := Enrol(ctx, tenant, log, request)
	e.EKChecked, e.EKCheckedBy = checked != "", "keylab, since Keylime does not in the push model"
	return e, err
}

// checkEK finds the file of the store whose CA issued the EK certificate.
func checkEK(record *keylime.RegistrarAgent, certStore string) (file string, err error) {
	if len(record.EKCert) == 0 {
		return "", fmt.Errorf("agent %s has no EK certificate", record.UUID)
	}
	cert, err := x509.ParseCertificate(record.EKCert)
	if err != nil {
		return "", fmt.Errorf("the EK certificate of agent %s cannot be read: %w", record.UUID, err)
	}
	if file, err = ekca.CheckStore(certStore, cert); err != nil {
		return "", fmt.Errorf("no CA in the tpm_cert_store issued the EK certificate of agent %s: %w", record.UUID, err)
	}
	return file, nil
}
