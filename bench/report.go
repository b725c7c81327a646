package bench

import (
	"encoding/json"
	"fmt"
	"time"
)

// noisySpread is the [Summary.Spread] above which repetitions of one measurement are called noisy.
const noisySpread = 0.25

// Report is the outcome of one run.
type Report struct {
	Machine  Machine       `json:"machine"`
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration_ns"`
	Options  Options       `json:"options"`
	Sections []Section     `json:"sections"`
}

// Section is a group of figures that belong together.
type Section struct {
	Title   string   `json:"title"`
	Figures []Figure `json:"figures"`
	Notes   []string `json:"notes,omitempty"` // how to read the figures, and what could not be measured, and why
}

// Figure is one measured quantity.
type Figure struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"` // s, ms, MiB, 1/s, % of one processor, or x for a ratio
	Samples []float64 `json:"samples"`
	Summary Summary   `json:"summary"`
	// Aim is the value that the project strives for the median to stay at or below; 0: none. Nobody fails because of it.
	Aim float64 `json:"aim,omitempty"`
	// Distribution says that the samples are different things (requests, TPMs, processes), which may well differ.
	Distribution bool `json:"distribution,omitempty"`
	// Noisy says that repetitions of the same thing differ by more than a quarter: do not compare this figure.
	Noisy bool   `json:"noisy,omitempty"`
	Note  string `json:"note,omitempty"`
}

// repeated is a figure whose samples are repetitions of one measurement.
func repeated(name, unit string, samples []float64) Figure {
	f := Figure{Name: name, Unit: unit, Samples: samples, Summary: Summarize(samples)}
	f.Noisy = f.Summary.Spread > noisySpread
	return f
}

// distribution is a figure whose samples are different things.
func distribution(name, unit string, samples []float64) Figure {
	return Figure{Name: name, Unit: unit, Samples: samples, Summary: Summarize(samples), Distribution: true}
}

// aim sets what the median should not exceed.
func (f Figure) aim(v float64) Figure {
	f.Aim = v
	return f
}

// note adds a remark.
func (f Figure) note(format string, args ...any) Figure {
	f.Note = fmt.Sprintf(format, args...)
	return f
}

func (s *Section) add(f ...Figure) { s.Figures = append(s.Figures, f...) }

func (s *Section) say(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// JSON is the whole report with every sample, indented, for machines.
func (r *Report) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the benchmark report: %w", err)
	}
	return append(data, '\n'), nil
}

// seconds and milliseconds are durations as samples.
func seconds(d time.Duration) float64      { return d.Seconds() }
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
