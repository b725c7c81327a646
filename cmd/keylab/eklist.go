package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
)

func newEKList(s streams, f *labFlag) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the EK CAs, the EK certificates they issued, and, of a running lab, which are in the TPMs",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			l, cas, err := openEKCAs(f)
			if err != nil {
				return err
			}
			issued, err := allIssued(cas)
			if err != nil {
				return err
			}
			set, err := l.EKCAs()
			if err != nil {
				return err
			}
			stolen, err := set.LeakedCertificates()
			if err != nil {
				return err
			}
			nodes, running := surveyEKs(c.Context(), s, l)
			if output == "json" {
				return writeJSON(s.out, ekListing(cas, issued, stolen, nodes))
			}
			return printEKs(s, cas, issued, stolen, nodes, running)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// surveyTimeout bounds what list waits for TPMs.
const surveyTimeout = 15 * time.Second

// surveyEKs asks the TPMs of a lab, if it runs, for their certificates. What is on disk is listed even if that fails.
func surveyEKs(ctx context.Context, s streams, l *lab.Lab) (nodes []control.EKNode, running bool) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	done, err := l.EK(ctx, control.EKOrder{Kind: control.EKSurvey})
	if err != nil && !errors.Is(err, lab.ErrNotRunning) {
		fmt.Fprintf(s.err, "keylab: the TPMs could not be looked at: %v\n", err)
	}
	return done.Nodes, err == nil
}

// ekStolen is the status of a certificate that somebody made with a stolen key.
const ekStolen = "made with a stolen key"

func printEKs(s streams, cas []authority.CA, issued []issuedEK, stolen []authority.LeakedCertificate, nodes []control.EKNode, running bool) error {
	var rows [][]string
	for _, ca := range cas {
		chain := ca.Chain()
		for i := len(chain) - 1; i >= 0; i-- {
			rows = append(rows, []string{chain[i].Subject.CommonName, fmt.Sprintf("%X", chain[i].SerialNumber), chain[i].NotAfter.Format(time.DateOnly), ca.Name, caState(ca), yesNo(inStore(ca, i))})
		}
		for _, by := range ca.Cross {
			rows = append(rows, []string{chain[0].Subject.CommonName, "certified by " + by, "", ca.Name, caState(ca), yesNo(true)})
		}
	}
	if err := table(s.out, "CERTIFICATE|SERIAL|VALID UNTIL|CA|STATE|TRUSTED", rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	in := map[string]string{} // nodes by the serial numbers that their TPMs hold
	for _, n := range nodes {
		in[n.Serial] = n.Node
	}
	rows = nil
	header := "NODE|STATUS|SERIAL|VALID UNTIL|CA"
	for _, r := range issued {
		row := []string{r.Label, ekStatus(r), fmt.Sprintf("%X", r.Serial), r.NotAfter.Format(time.DateOnly), r.ca.Name}
		if running {
			row = append(row, yesNo(in[row[2]] == r.Label))
		}
		rows = append(rows, row)
	}
	listed := map[string]bool{}
	for _, c := range stolen {
		serial := fmt.Sprintf("%X", c.SerialNumber)
		listed[serial] = true
		row := []string{orNothing(in[serial]), ekStolen, serial, c.NotAfter.Format(time.DateOnly), orNothing(c.CA)}
		if running {
			row = append(row, yesNo(in[serial] != ""))
		}
		rows = append(rows, row)
	}
	if running {
		header += "|IN THE TPM"
	}
	for _, n := range nodes {
		switch {
		case n.Error != "":
			rows = append(rows, []string{n.Node, "unknown: " + n.Error})
		case n.Serial == "":
			rows = append(rows, []string{n.Node, "none", "-", "-", "-", "-"})
		case listed[n.Serial]:
		case n.Standing == control.EKUnrecorded || n.Standing == control.EKForeign:
			rows = append(rows, []string{n.Node, n.Standing, n.Serial, n.NotAfter.Format(time.DateOnly), orNothing(n.CA), yesNo(true)})
		}
	}
	return table(s.out, header, rows)
}

// caState says in words what a CA is to the lab.
func caState(ca authority.CA) string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{{ca.Active, "active"}, {ca.Active && ca.Unproved, "the rotation to it is not proved"}, {ca.Retired, "retired"}, {ca.Leaked, "leaked"}} {
		if w.is {
			words = append(words, w.word)
		}
	}
	return orNothing(strings.Join(words, ", "))
}

// inStore tells whether keylab put a certificate of the chain into the tpm_cert_store.
func inStore(ca authority.CA, i int) bool {
	switch ca.Level {
	case authority.All:
		return true
	case authority.Issuer:
		return i == 0
	case authority.Root:
		return i == len(ca.Chain())-1
	}
	return false
}

func ekStatus(r issuedEK) string {
	switch {
	case r.Status == ekca.Revoked && r.Reason == 4: // RFC 5280, section 5.3.1
		return control.EKSuperseded
	case r.Status == ekca.Valid && time.Now().After(r.NotAfter):
		return control.EKExpired
	}
	return string(r.Status)
}

// The JSON form of the list.
type (
	ekList struct {
		CAs          []ekListCA       `json:"cas"`
		Certificates []ekListCert     `json:"certificates"` // EK certificates that the CAs' records hold
		Stolen       []ekListStolen   `json:"stolen"`       // that somebody made with a stolen key, and no CA's record holds
		Nodes        []control.EKNode `json:"nodes"`        // what is in the TPMs of a running lab
	}
	ekListCA struct {
		Name         string          `json:"name"`
		Active       bool            `json:"active"`
		Unproved     bool            `json:"unproved,omitempty"` // a rotation went to it, and was not proved to be complete yet
		Retired      bool            `json:"retired"`
		Leaked       bool            `json:"leaked"`
		Certificates []ekListCACert  `json:"certificates"` // root first
		Cross        []string        `json:"cross,omitempty"`
		Level        authority.Level `json:"trusted"` // all, issuer, root, or nothing
	}
	ekListCACert struct {
		Subject  string    `json:"subject"`
		Serial   string    `json:"serial"`
		NotAfter time.Time `json:"not_after"`
		Trusted  bool      `json:"trusted"`
	}
	ekListStolen struct {
		CA        string    `json:"ca"` // whose key it was
		Serial    string    `json:"serial"`
		NotBefore time.Time `json:"not_before"`
		NotAfter  time.Time `json:"not_after"`
	}
	ekListCert struct {
		Node      string     `json:"node"`
		CA        string     `json:"ca"`
		Serial    string     `json:"serial"`
		Status    string     `json:"status"`
		SPKI      string     `json:"spki_sha256"`
		Issued    time.Time  `json:"issued"`
		NotBefore time.Time  `json:"not_before"`
		NotAfter  time.Time  `json:"not_after"`
		RevokedAt *time.Time `json:"revoked_at,omitempty"`
	}
)

func ekListing(cas []authority.CA, issued []issuedEK, stolen []authority.LeakedCertificate, nodes []control.EKNode) ekList {
	list := ekList{CAs: []ekListCA{}, Certificates: []ekListCert{}, Stolen: []ekListStolen{}, Nodes: nodes}
	for _, c := range stolen {
		list.Stolen = append(list.Stolen, ekListStolen{c.CA, fmt.Sprintf("%X", c.SerialNumber), c.NotBefore, c.NotAfter})
	}
	if nodes == nil {
		list.Nodes = []control.EKNode{}
	}
	for _, ca := range cas {
		c := ekListCA{Name: ca.Name, Active: ca.Active, Unproved: ca.Active && ca.Unproved, Retired: ca.Retired, Leaked: ca.Leaked, Level: ca.Level, Cross: ca.Cross}
		chain := ca.Chain()
		for i := len(chain) - 1; i >= 0; i-- {
			c.Certificates = append(c.Certificates, ekListCACert{chain[i].Subject.String(), fmt.Sprintf("%X", chain[i].SerialNumber), chain[i].NotAfter, inStore(ca, i)})
		}
		list.CAs = append(list.CAs, c)
	}
	for _, r := range issued {
		c := ekListCert{Node: r.Label, CA: r.ca.Name, Serial: fmt.Sprintf("%X", r.Serial), Status: ekStatus(r), SPKI: r.SPKI, Issued: r.Issued, NotBefore: r.NotBefore, NotAfter: r.NotAfter}
		if r.Status == ekca.Revoked {
			c.RevokedAt = &r.RevokedAt
		}
		list.Certificates = append(list.Certificates, c)
	}
	return list
}
