// Package action makes effects in other systems: a file per connector, and one visible list of them.
//
// A connector checks an action when its automation is saved, prepares what will be sent when a run has its output, and sends
// it, once per call of Do. Whether and when to call Do again, and what became of an attempt, is not decided here: a connector
// says how an attempt ended, in the words of Error, and the jobs decide.
//
// What must not enter: the database, templates and models; the reading of credentials (a secret is handed in, opened, for one
// Send, and reaches no error, no Effect and no Receipt); and any way out of the house but the door of jobs/outbound.
package action

import (
	"context"
	"encoding/json"
	"time"

	"sluice/jobs/outbound"
)

// A Connector makes one kind of effect. It is safe for concurrent use.
type Connector interface {
	// Kind is the word in the "kind" of an automation's action.
	Kind() string
	// Check returns every fault of an automation's action object, nil if there are none. It asks nobody outside.
	Check(params json.RawMessage) []Fault
	// Prepare makes of an action object and of a run what will be sent. The same arguments make the same Effect. Its error is
	// an *Error of kind Refused.
	Prepare(params json.RawMessage, in Input) (Effect, error)
	// Do sends an Effect, once. Its error is an *Error.
	Do(ctx context.Context, s Send) (Receipt, error)
	// CredentialKind is the kind of credential that an action object may name, empty if it takes none.
	CredentialKind() string
	// NewSecret makes a secret for a credential of that kind.
	NewSecret() (string, error)
	// CheckSecret tells whether a secret can be used. Its error does not repeat it.
	CheckSecret(secret string) error
}

// A Fault is a field of an action object that cannot be saved.
type Fault struct {
	Place   string // such as "action.url"
	Message string // what was expected there
}

// An Input is what a connector may know of a run.
type Input struct {
	RunID, EventID, AutomationID string // with their prefixes
	AutomationVersion            int
	EventType, Entity            string
	Depth                        int       // how many of our own actions stand in the chain that led to the event
	Mode                         string    // shadow, review or live
	Output                       any       // of the model, as JSON values
	Body                         string    // the action's body template, rendered; empty if there is none
	At                           time.Time // when the run's outcome was kept
}

// An Effect is what will be sent. It is kept with the action, as JSON, and shown to people in shadow mode and in review, and
// holds no secret.
type Effect struct {
	Kind        string `json:"kind"`
	Target      string `json:"target,omitempty"` // for people: the address without the values of its query
	URL         string `json:"url,omitempty"`    // for Do: the address as the tenant wrote it
	ContentType string `json:"content_type,omitempty"`
	// Signed tells that the action names a credential: Do refuses to send it without a secret.
	Signed bool   `json:"signed,omitempty"`
	Body   []byte `json:"body,omitempty"` // the very bytes of every attempt
	// RunID and Depth go with the body where a target can be told of them: what comes back with them was caused by us.
	RunID string `json:"run_id,omitempty"`
	Depth int    `json:"depth,omitempty"`
}

// A Send is one attempt to make an effect.
type Send struct {
	Key     string // the name of the effect, the same for every attempt: visible ASCII without a full stop, 1 to 256 bytes
	Effect  Effect
	Secret  string    // of the credential, opened; empty if the action names none
	At      time.Time // of this attempt
	Attempt int       // from 1
}

// A Receipt is what is kept of an effect that was made. Nothing of the target's own words is in it.
type Receipt struct {
	Status int    `json:"status,omitempty"` // of HTTP
	ID     string `json:"id,omitempty"`     // of what was made, as its target names it
	URL    string `json:"url,omitempty"`    // where people can look at it, without the values of its query
	Note   string `json:"note,omitempty"`   // a sentence for people
}

// A Set holds the connectors.
type Set struct {
	door *outbound.Door
	list []Connector
}

// New makes the connectors. All that they send goes through the door.
func New(door *outbound.Door) *Set {
	return &Set{door: door, list: []Connector{ // add yours here, alphabetical
		callback{door: door},
		none{},
	}}
}

// CheckURL tells whether a tenant may save an address that is asked through the same door. The error's text is for the tenant.
func (s *Set) CheckURL(address string) error { return s.door.CheckURL(address) }

// Get returns the connector of a kind.
func (s *Set) Get(kind string) (Connector, bool) {
	for _, c := range s.list {
		if c.Kind() == kind {
			return c, true
		}
	}
	return nil, false
}

// Kinds returns the kinds of the connectors, in alphabetical order.
func (s *Set) Kinds() []string {
	kinds := make([]string, 0, len(s.list))
	for _, c := range s.list {
		kinds = append(kinds, c.Kind())
	}
	return kinds
}
