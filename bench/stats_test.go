package bench

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSummarize(t *testing.T) {
	hundred := make([]float64, 101) // 0 … 100, largest first
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, c := range []struct {
		name    string
		samples []float64
		want    Summary
	}{
		{"none", nil, Summary{}},
		{"one", []float64{4}, Summary{N: 1, Min: 4, Median: 4, Mean: 4, P95: 4, Max: 4}},
		{"an even number", []float64{4, 1, 3, 2}, Summary{N: 4, Min: 1, Median: 2.5, Mean: 2.5, P95: 3.85, Max: 4, Spread: 1.2}},
		{"0 to 100", hundred, Summary{N: 101, Max: 100, Median: 50, Mean: 50, P95: 95, Spread: 2}},
		{"all 0", []float64{0, 0}, Summary{N: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Summarize(c.samples), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestSummarizeLeavesSamplesInOrder(t *testing.T) {
	samples := []float64{3, 1, 2}
	Summarize(samples)
	if diff := cmp.Diff([]float64{3, 1, 2}, samples); diff != "" {
		t.Errorf("the samples of repetitions lost their order:\n%s", diff)
	}
}

func TestRatiosArePairwise(t *testing.T) {
	got := ratios([]float64{3, 8, 5, 9}, []float64{2, 4, 0})
	if diff := cmp.Diff([]float64{1.5, 2}, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	for _, v := range got {
		if math.IsInf(v, 0) {
			t.Errorf("a ratio is infinite, which JSON cannot hold")
		}
	}
}

func TestNoisy(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Figure
		want bool
	}{
		{"repetitions that agree", repeated("f", "s", []float64{1, 1.1, 1.2}), false},
		{"repetitions that differ", repeated("f", "s", []float64{1, 1.1, 2}), true},
		{"one repetition", repeated("f", "s", []float64{1}), false},
		{"requests may differ", distribution("f", "ms", []float64{1, 1.1, 9}), false},
		{"a part is not marked, the whole is", detail("f", []float64{1, 9}), false},
	} {
		if c.f.Noisy != c.want {
			t.Errorf("%s: noisy is %t", c.name, c.f.Noisy)
		}
	}
}
