package control_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab/control"
)

// measuring is a lab that answers with what it was asked.
type measuring struct {
	control.Lab
	asked control.Measurement
}

func (m *measuring) Measure(_ context.Context, asked control.Measurement) (control.Measured, error) {
	m.asked = asked
	if asked.Kind == control.TamperPCR {
		return control.Measured{}, errors.New("the TPM is off")
	}
	return control.Measured{
		Done: "done", IMA: &control.IMAList{Entries: []control.IMAEntry{{Path: "/a", Allowed: true}}, PCR: "00", Replay: "01"},
		Boot: &control.BootLog{Firmware: "2", Events: []control.BootEvent{{PCR: 8, Text: "x"}}, PCRs: []control.BootPCR{{PCR: 14, TPM: "aa"}}},
	}, nil
}

func TestMeasure(t *testing.T) {
	lab := &measuring{}
	c := serve(t, lab)
	want := control.Measurement{Kind: control.MeasureFile, Node: "n", Path: "/p", Digest: "sha256:00", Tamper: "t", Version: "v"}
	got, err := c.Measure(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, lab.asked); d != "" {
		t.Errorf("the lab was asked for something else (-want +got):\n%s", d)
	}
	sent, _ := lab.Measure(t.Context(), want)
	if d := cmp.Diff(sent, got); d != "" {
		t.Errorf("the answer changed on its way (-sent +got):\n%s", d)
	}
	if _, err := c.Measure(t.Context(), control.Measurement{Kind: control.TamperPCR}); err == nil || err.Error() != "the TPM is off" {
		t.Errorf("the lab's error: %v", err)
	}
}
