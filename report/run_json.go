package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// jsonSeconds is a length of time as a JSON number of seconds.
type jsonSeconds time.Duration

// MarshalJSON implements json.Marshaler: to the microsecond, without an exponent.
func (s jsonSeconds) MarshalJSON() ([]byte, error) {
	// One division, so that the number is the nearest one, and short: Duration.Seconds adds two numbers that are rounded already.
	us := time.Duration(s).Round(time.Microsecond).Microseconds()
	return strconv.AppendFloat(nil, float64(us)/1e6, 'f', -1, 64), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *jsonSeconds) UnmarshalJSON(data []byte) error {
	var f float64
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	us := math.Round(f * 1e6)
	if math.Abs(us) > math.MaxInt64/1e3 {
		return fmt.Errorf("%s seconds are more than a duration can hold", data)
	}
	*s = jsonSeconds(time.Duration(us) * time.Microsecond)
	return nil
}

// The types below are those of the JSON: in each, fields that stand before the embedded one hide those of the same name in it. They also
// say which fields come first.
type (
	plainRun  Run
	plainStep Step
	plainGap  Gap
	plainItem Entry

	jsonRun struct {
		Schema   string      `json:"schema"`
		Scenario string      `json:"scenario"`
		Title    string      `json:"title"`
		Verdict  Verdict     `json:"verdict"`
		Error    string      `json:"error,omitempty"`
		Started  time.Time   `json:"started"`
		Duration jsonSeconds `json:"seconds"`
		Polling  jsonSeconds `json:"polling_seconds"`
		*plainRun
	}
	jsonStep struct {
		Number   int         `json:"number"`
		Kind     StepKind    `json:"kind"`
		Name     string      `json:"name"`
		Status   StepStatus  `json:"status"`
		At       jsonSeconds `json:"at_seconds"`
		Duration jsonSeconds `json:"seconds"`
		*plainStep
	}
	jsonGap struct {
		Node    string      `json:"node"`
		Longest jsonSeconds `json:"longest_seconds"`
		At      jsonSeconds `json:"at_seconds"`
		*plainGap
	}
	jsonEntry struct {
		At jsonSeconds `json:"at_seconds"`
		*plainItem
	}
)

// MarshalJSON implements json.Marshaler. The schema is always RunSchema, and lists are never null.
func (r Run) MarshalJSON() ([]byte, error) {
	p := plainRun(r)
	fill(&p.Steps)
	fill(&p.Nodes)
	fill(&p.Certificates)
	fill(&p.Gaps)
	fill(&p.History)
	return encode(jsonRun{RunSchema, r.Scenario, r.Title, r.Verdict, r.Error, r.Started, jsonSeconds(r.Duration), jsonSeconds(r.Polling), &p})
}

// encode is json.Marshal without escapes for HTML, which make commands hard to read. Who wants them has them: json.Marshal puts them into
// what a MarshalJSON returned.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

// fill makes a list that is nil an empty one.
func fill[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Run) UnmarshalJSON(data []byte) error {
	j := jsonRun{plainRun: (*plainRun)(r)}
	err := json.Unmarshal(data, &j)
	r.Schema, r.Scenario, r.Title, r.Verdict, r.Error = j.Schema, j.Scenario, j.Title, j.Verdict, j.Error
	r.Started, r.Duration, r.Polling = j.Started, time.Duration(j.Duration), time.Duration(j.Polling)
	return err
}

// MarshalJSON implements json.Marshaler.
func (s Step) MarshalJSON() ([]byte, error) {
	return encode(jsonStep{s.Number, s.Kind, s.Name, s.Status, jsonSeconds(s.At), jsonSeconds(s.Duration), (*plainStep)(&s)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Step) UnmarshalJSON(data []byte) error {
	j := jsonStep{plainStep: (*plainStep)(s)}
	err := json.Unmarshal(data, &j)
	s.Number, s.Kind, s.Name, s.Status = j.Number, j.Kind, j.Name, j.Status
	s.At, s.Duration = time.Duration(j.At), time.Duration(j.Duration)
	return err
}

// MarshalJSON implements json.Marshaler.
func (g Gap) MarshalJSON() ([]byte, error) {
	return encode(jsonGap{g.Node, jsonSeconds(g.Longest), jsonSeconds(g.At), (*plainGap)(&g)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (g *Gap) UnmarshalJSON(data []byte) error {
	j := jsonGap{plainGap: (*plainGap)(g)}
	err := json.Unmarshal(data, &j)
	g.Node, g.Longest, g.At = j.Node, time.Duration(j.Longest), time.Duration(j.At)
	return err
}

// MarshalJSON implements json.Marshaler.
func (e Entry) MarshalJSON() ([]byte, error) {
	return encode(jsonEntry{jsonSeconds(e.At), (*plainItem)(&e)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *Entry) UnmarshalJSON(data []byte) error {
	j := jsonEntry{plainItem: (*plainItem)(e)}
	err := json.Unmarshal(data, &j)
	e.At = time.Duration(j.At)
	return err
}

// WriteRunJSON writes r as one indented JSON object of the schema RunSchema (run.schema.json), which ReadRun reads. The picture of the lab
// is not in it.
func WriteRunJSON(w io.Writer, r Run) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write the JSON report of scenario %s: %w", r.Scenario, err)
	}
	return nil
}

// ReadRun reads what WriteRunJSON wrote. It refuses another schema. Fields that it does not know it passes over: a later keylab may have
// added them.
func ReadRun(r io.Reader) (Run, error) {
	var run Run
	decoder := json.NewDecoder(r)
	if err := decoder.Decode(&run); err != nil {
		return Run{}, fmt.Errorf("read the report of a run: %w", err)
	}
	if run.Schema != RunSchema {
		return Run{}, fmt.Errorf("read the report of a run: its schema is %q, and this keylab reads %q", run.Schema, RunSchema)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return Run{}, fmt.Errorf("read the report of a run: more than one JSON document")
	}
	return run, nil
}

// WriteHistory writes the history of r as JSON Lines: one entry a line, in the order in which they are.
func WriteHistory(w io.Writer, r Run) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, e := range r.History {
		if err := encoder.Encode(e); err != nil {
			return fmt.Errorf("write the history of scenario %s: %w", r.Scenario, err)
		}
	}
	return nil
}
