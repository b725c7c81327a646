package bench

import (
	"math"
	"slices"
)

// Summary is what a table says of a number of samples, in their unit.
type Summary struct {
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Mean   float64 `json:"mean"`
	P95    float64 `json:"p95"`
	Max    float64 `json:"max"`
	// Spread is (max - min) / median: 0.1 means that the samples lie within ten percent. 0 for a single sample or a median of 0.
	Spread float64 `json:"spread"`
}

// Summarize works the samples out; none give the zero Summary.
func Summarize(samples []float64) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	s := Summary{N: len(sorted), Min: sorted[0], Max: sorted[len(sorted)-1], Median: quantile(sorted, 0.5), P95: quantile(sorted, 0.95)}
	for _, v := range sorted {
		s.Mean += v / float64(len(sorted))
	}
	if s.Median != 0 {
		s.Spread = (s.Max - s.Min) / math.Abs(s.Median)
	}
	return s
}

// quantile interpolates linearly between the two samples that lie around it (Hyndman and Fan 1996, type 7). sorted is not empty.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(math.Floor(at))
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	part := at - float64(below)
	return sorted[below]*(1-part) + sorted[below+1]*part
}

// ratios divides sample by sample: repetition i of one by repetition i of the other, which ran next to it. Repetitions that only one
// of them has, and those that would divide by 0, are left out.
func ratios(of, to []float64) []float64 {
	var out []float64
	for i := range min(len(of), len(to)) {
		if to[i] != 0 {
			out = append(out, of[i]/to[i])
		}
	}
	return out
}
