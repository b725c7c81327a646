package keylime

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// PushAttestation is one attestation of the push model, as the verifier keeps it.
type PushAttestation struct {
	Stage      string // "verification_complete" when there is an evaluation
	Evaluation string // "pass", "fail", "pending"
	Received   time.Time
	Challenge  []byte // what the quote had to be over
	AK         []byte // TPMT_PUBLIC of the key that the verifier checked the quote with
	// Quote has the form of the pull model's: "r" and base64 of TPMS_ATTEST, TPMT_SIGNATURE and the PCRs' values, with colons between.
	Quote string
	// BootLog is the firmware's log as it came with the evidence; nil: the verifier asked for none.
	BootLog []byte
	// IMAEntries are the lines of the IMA list that came with the evidence, from the entry numbered IMAStart on, 0 being the first. IMAStart is -1 where
	// the verifier asked for none.
	IMAEntries string
	IMAStart   int
}

// IMACount is how many lines IMAEntries has.
func (a PushAttestation) IMACount() int { return strings.Count(a.IMAEntries, "\n") }

// Complete tells whether the verifier has come to its verdict.
func (a PushAttestation) Complete() bool { return a.Stage == "verification_complete" }

// LatestAttestation reads an agent's latest attestation. The error is [ErrNotFound] before the first. Only a verifier in push mode knows it.
func (c *VerifierClient) LatestAttestation(ctx context.Context, uuid string) (*PushAttestation, error) {
	var r struct {
		Attributes struct {
			Stage      string    `json:"stage"`
			Evaluation string    `json:"evaluation"`
			Received   time.Time `json:"evidence_received_at"`
			Evidence   []struct {
				Class      string `json:"evidence_class"`
				Type       string `json:"evidence_type"`
				Parameters struct {
					Start     int    `json:"starting_offset"`
					Challenge []byte `json:"challenge"`
					Key       struct {
						Public []byte `json:"public"`
					} `json:"certification_key"`
				} `json:"chosen_parameters"`
				Data struct {
					Subject   string `json:"subject_data"`
					Message   string `json:"message"`
					Signature string `json:"signature"`
					Entries   string `json:"entries"` // null where there is nothing new
				} `json:"data"`
			} `json:"evidence"`
		} `json:"attributes"`
	}
	if _, err := c.do(ctx, http.MethodGet, "/v3.0/agents/"+url.PathEscape(uuid)+"/attestations/latest", nil, &r); err != nil {
		return nil, err
	}
	a := &PushAttestation{Stage: r.Attributes.Stage, Evaluation: r.Attributes.Evaluation, Received: r.Attributes.Received, IMAStart: -1}
	for _, e := range r.Attributes.Evidence {
		switch {
		case e.Class == "certification":
			a.Challenge, a.AK = e.Parameters.Challenge, e.Parameters.Key.Public
			a.Quote = "r" + e.Data.Message + ":" + e.Data.Signature + ":" + e.Data.Subject
		case e.Type == "uefi_log":
			log, err := base64.StdEncoding.DecodeString(e.Data.Entries)
			if err != nil {
				return nil, fmt.Errorf("the boot log in the verifier's answer: %w", err)
			}
			a.BootLog = log
		case e.Type == "ima_log":
			a.IMAEntries, a.IMAStart = e.Data.Entries, e.Parameters.Start
		}
	}
	return a, nil
}
