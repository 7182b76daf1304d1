package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
)

const targetControlBytesMax = 1 << 20 // of the body of POST /_control

// A TargetControl is the body of POST /_control. Status is a sequence of answers, one request each, and the other fields
// hold for each of them: {"status": [500, 500, 200], "delay_ms": 20}. Without a sequence they hold for every request. Steps,
// in place of all others, spells each answer out. An empty object answers 200 to everything again.
type TargetControl struct {
	Status     []int        `json:"status"`
	Act        bool         `json:"act"`
	DelayMS    int64        `json:"delay_ms"`
	Hang       bool         `json:"hang"`
	Cut        bool         `json:"cut"`
	RetryAfter textOrNumber `json:"retry_after"` // seconds, or a date
	Location   string       `json:"location"`
	Body       string       `json:"body"`
	BodyBytes  int64        `json:"body_bytes"`
	Steps      []TargetStep `json:"steps"`
}

// textOrNumber is a string that may be written as a number.
type textOrNumber string

func (t *textOrNumber) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*t = textOrNumber(text)
		return nil
	}
	var number json.Number
	if err := json.Unmarshal(b, &number); err != nil {
		return fmt.Errorf("expected a text or a number: %w", err)
	}
	*t = textOrNumber(number)
	return nil
}

// Control sets the answers to come from their JSON, as POST /_control does.
func (t *Target) Control(c TargetControl) error {
	steps := c.Steps
	if len(steps) == 0 {
		statuses := c.Status
		if len(statuses) == 0 {
			statuses = []int{http.StatusOK}
		}
		for _, status := range statuses {
			steps = append(steps, TargetStep{
				Act: c.Act, Body: c.Body, BodyBytes: c.BodyBytes, Cut: c.Cut, DelayMS: c.DelayMS, Hang: c.Hang,
				Location: c.Location, RetryAfter: string(c.RetryAfter), Status: status,
			})
		}
	}
	if len(steps) > targetStepsMax {
		return fmt.Errorf("steps: expected at most %d, got %d", targetStepsMax, len(steps))
	}
	for i, step := range steps {
		if step.Status != 0 && (step.Status < 200 || step.Status > 599) {
			return fmt.Errorf("status %d: expected 200 to 599, got %d", i, step.Status)
		}
	}
	t.Script(steps...)
	return nil
}

func (t *Target) control(w http.ResponseWriter, r *http.Request) {
	var c TargetControl
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, targetControlBytesMax))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&c)
	if err == nil {
		err = t.Control(c)
	}
	if err != nil {
		http.Error(w, "control: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
