package bench

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// example is a report with one figure of each kind.
func example() *Report {
	latencies := make([]float64, 20)
	for i := range latencies {
		latencies[i] = float64(i + 1)
	}
	s := Section{Title: "up"}
	s.add(
		repeated("up", "s", []float64{3, 2, 4}).aim(1.5),
		repeated("memory", "MiB", []float64{107.3}).note("3 processes"),
		distribution("quote", "ms", latencies),
	)
	s.say("swtpm_setup: not measured: not installed\ntry again")
	return &Report{
		Machine:  Machine{CPUs: 2, CPU: "Test 1", MemoryMiB: 1024, Kernel: "6.1", OS: "Debian", Go: "go1.26", Keylab: "abc", LoadAtStart: "0.10 0.20 0.30", LoadAtEnd: "1.00 0.50 0.40"},
		Duration: 65 * time.Second,
		Sections: []Section{s},
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := example().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	want := `2 CPUs (Test 1), 1024 MiB, Linux 6.1, Debian, go1.26, keylab abc
load average at start 0.10 0.20 0.30

up
          median   min   max   p95   n  unit
  up        3.00  2.00  4.00         3  s     aim ≤ 1.50; noisy (±33 %)
  memory     107                     1  MiB   3 processes
  quote     10.5  1.00  20.0  19.1  20  ms
  swtpm_setup: not measured: not installed
    try again

measured in 1m5s; load average at the end 1.00 0.50 0.40
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestTableWarnsOfBusyMachine(t *testing.T) {
	r := example()
	r.Machine.LoadAtStart = "0.60 0 0"
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "the machine is busy") {
		t.Errorf("no warning:\n%s", b.String())
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.034: "0.03", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 12345: "12345", -0.5: "-0.50"} {
		if got := number(v); got != want {
			t.Errorf("%v is written %s, not %s", v, got, want)
		}
	}
}

func TestJSONHoldsEverySample(t *testing.T) {
	data, err := example().JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine  struct{ CPUs int }
		Sections []struct {
			Title   string
			Figures []struct {
				Name, Unit   string
				Samples      []float64
				Summary      map[string]float64
				Aim          float64
				Noisy        bool
				Distribution bool
			}
			Notes []string
		}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	if len(got.Sections) != 1 || len(got.Sections[0].Figures) != 3 || len(got.Sections[0].Notes) != 1 {
		t.Fatalf("not one section with three figures and a note:\n%s", data)
	}
	up, quote := got.Sections[0].Figures[0], got.Sections[0].Figures[2]
	if diff := cmp.Diff([]float64{3, 2, 4}, up.Samples); diff != "" {
		t.Errorf("samples: want -, got +:\n%s", diff)
	}
	if up.Unit != "s" || up.Summary["median"] != 3 || up.Aim != 1.5 || !up.Noisy || up.Distribution {
		t.Errorf("up is %+v", up)
	}
	if !quote.Distribution || quote.Summary["p95"] < 19 || quote.Summary["n"] != 20 {
		t.Errorf("quote is %+v", quote)
	}
	if got.Machine.CPUs != 2 {
		t.Errorf("the machine is %+v", got.Machine)
	}
}

func TestOptions(t *testing.T) {
	o := Options{}
	if err := o.setDefaults(); err != nil {
		t.Fatal(err)
	}
	if o.Nodes != 8 || o.Repetitions != 5 || o.TPMs != 64 || !o.has(SectionUp) || !o.has(SectionQuotes) {
		t.Errorf("defaults are %+v", o)
	}
	for name, wrong := range map[string]Options{
		"nodes: 1":            {Nodes: 1}, // memory per node is the difference of two labs
		"repetitions: -1":     {Repetitions: -1},
		`sections: "nothing"`: {Sections: "up,nothing"},
	} {
		if err := wrong.setDefaults(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v gives %v, not an error about %q", wrong, err, name)
		}
	}
}
