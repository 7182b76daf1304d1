// Package action makes effects in other systems: a file per connector, and one visible list of them.
//
// A connector says what an action object of its kind holds, prepares what will be sent when a run has its output, sends it, once per call of Do, and
// where its target can be asked, looks for an effect whose fate is not known. Whether and when to do any of these, and what became of an attempt, is
// not decided here: a connector says how an attempt ended, in the words of Error, and the jobs decide.
//
// Who is written to comes from the automation and from the verified event, never from what a model wrote; what a model wrote passes through
// jobs/action/harmless before it becomes a part of an Effect.
//
// What must not enter: the database, templates and models; the reading of credentials (a secret is handed in, opened, for one
// Send, and reaches no error, no Effect and no Receipt); and any way out of the house but the door of jobs/outbound.
package action

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// A Connector makes one kind of effect. It is safe for concurrent use.
type Connector interface {
	// Spec says what the connector is. It is always the same.
	Spec() Spec
	// Check returns the faults of an action object that its fields alone do not tell, nil if there are none. It asks nobody outside. A text that
	// holds a template is not known yet, see Params.Literal; Prepare meets what it comes to.
	Check(p Params) []Fault
	// Prepare makes of an action object, its templates rendered, and of a run what will be sent. The same arguments make the same Effect. Its error
	// is an *Error of kind Refused.
	Prepare(p Params, in Input) (Effect, error)
	// Do sends an Effect, once: at most one request of it can make the effect. Its error is an *Error.
	Do(ctx context.Context, s Send) (Receipt, error)
}

// A Finder is a connector whose target can be asked whether an effect was made. Those whose Effects are Once by its mark are Finders.
type Finder interface {
	// Find looks for the effect of s, by the mark that Do left with it, and returns the receipt that Do would have returned, or nil where the target
	// surely has no such effect now. Its error, an *Error, says that nobody can tell: of kind Retry if it may be asked again, else never.
	Find(ctx context.Context, s Send) (*Receipt, error)
}

// A Spec says what a connector is.
type Spec struct {
	// Kind is the word in the "kind" of an automation's action.
	Kind string
	// Account is the kind of credential that its action object must name, empty if it takes none.
	Account string
	// Fields are those of an action object beside kind and credential_id.
	Fields []Field
}

// A Once says how an effect is kept from being made twice where it is not known whether an attempt has made it.
type Once string

// The ways to make an effect once.
const (
	// OnceKey: the target drops what it has seen, by the key that goes with every attempt; or a second attempt changes nothing by its nature. It is sent again.
	OnceKey Once = "key"
	// OnceMark: a mark goes with the effect, by which it is looked for at the target before it is sent again.
	OnceMark Once = "mark"
	// OnceNever: nobody can tell. It is not sent again, and a person has to look.
	OnceNever Once = "never"
)

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
	Output                       any       // of the model, as JSON values, or as a person has changed it
	At                           time.Time // when the run's outcome was kept
}

// An Effect is what will be sent. It is kept with the action, as JSON, and shown to people in shadow mode and in review, and
// holds no secret.
type Effect struct {
	Kind        string `json:"kind"`
	Target      string `json:"target,omitempty"` // for people, and the name of the target: what goes to the same place has the same
	URL         string `json:"url,omitempty"`    // for Do: the address as the tenant wrote it, of connectors without an Account
	ContentType string `json:"content_type,omitempty"`
	// Signed tells that the action names a credential: Do refuses to send it without a secret.
	Signed bool   `json:"signed,omitempty"`
	Body   []byte `json:"body,omitempty"` // what is written there, harmless, without the mark; of a callback the very bytes of every attempt
	// Args are what the connector needs beside it, such as the repository and the number of an issue.
	Args map[string]string `json:"args,omitempty"`
	Once Once              `json:"once,omitempty"` // empty means OnceKey
	// Update asks for the last effect on the same target to be changed in place of another one, where there is one: see Send.Previous.
	Update bool `json:"update,omitempty"`
	// RunID and Depth go with the body where a target can be told of them: what comes back with them was caused by us.
	RunID string `json:"run_id,omitempty"`
	Depth int    `json:"depth,omitempty"`
}

// An Access is a credential, opened, and where it is good.
type Access struct {
	Secret string // empty if the action names no credential
	Base   string // the address of the service, without a final slash; empty means that of its Account
}

// A Send is one attempt to make an effect, or to find it.
type Send struct {
	Access

	Key     string // the name of the effect, the same for every attempt: visible ASCII without a full stop, 1 to 256 bytes
	Effect  Effect
	At      time.Time // of this attempt
	Attempt int       // from 1
	// Since is when the first attempt was made, for Find: what is older cannot be the effect. A minute or two earlier is looked at, too: clocks differ.
	Since time.Time
	// Previous is the receipt of what is to be changed, of an Effect with Update; nil if there is nothing yet.
	Previous *Receipt
}

// A Receipt is what is kept of an effect that was made. Nothing of the target's own words is in it.
type Receipt struct {
	Status int    `json:"status,omitempty"` // of HTTP
	ID     string `json:"id,omitempty"`     // of what was made, as its target names it
	URL    string `json:"url,omitempty"`    // where people can look at it, without the values of its query
	Note   string `json:"note,omitempty"`   // a sentence for people
}

// A Set holds the connectors and the kinds of accounts that they write with.
type Set struct {
	door     *outbound.Door
	list     []Connector
	accounts []Account
}

// New makes the connectors. All that they send goes through the door.
func New(door *outbound.Door) *Set {
	return &Set{
		door: door,
		list: []Connector{ // add yours here, alphabetical
			callback{door: door},
			email{smtp{door: door}},
			githubComment{github{door: door}},
			githubLabels{github{door: door}},
			gitlabNote{gitlab{door: door}},
			httpRequest{door: door},
			hubspotNote{hubspot{door: door}},
			intercomReply{intercom{door: door}},
			jiraComment{jira{door: door}},
			linearComment{linear{door: door}},
			none{},
			pagerdutyNote{pagerduty{door: door}},
			slackMessage{slack{door: door}},
			zendeskComment{zendesk{door: door}},
		},
		accounts: []Account{ // alphabetical, too
			callbackAccount(),
			githubAccount(door),
			gitlabAccount(door),
			httpAccount(),
			hubspotAccount(door),
			intercomAccount(door),
			jiraAccount(door),
			linearAccount(door),
			pagerdutyAccount(door),
			slackAccount(door),
			smtpAccount(door),
			zendeskAccount(door),
		},
	}
}

// CheckURL tells whether a tenant may save an address that is asked through the same door. The error's text is for the tenant.
func (s *Set) CheckURL(address string) error { return s.door.CheckURL(address) }

// Get returns the connector of a kind.
func (s *Set) Get(kind string) (Connector, bool) {
	for _, c := range s.list {
		if c.Spec().Kind == kind {
			return c, true
		}
	}
	return nil, false
}

// Kinds returns the kinds of the connectors, in alphabetical order.
func (s *Set) Kinds() []string {
	kinds := make([]string, 0, len(s.list))
	for _, c := range s.list {
		kinds = append(kinds, c.Spec().Kind)
	}
	return kinds
}

// Check reads an action object and returns every fault of it, one for each place, nil if there are none.
func (s *Set) Check(c Connector, raw json.RawMessage) []Fault {
	p, faults := Read(c.Spec(), raw)
	if p.Texts == nil {
		return faults
	}
	for _, one := range c.Check(p) {
		if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Place == one.Place }) {
			faults = append(faults, one)
		}
	}
	slices.SortFunc(faults, func(a, b Fault) int { return strings.Compare(a.Place, b.Place) })
	return faults
}
