package source

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// eventsMax bounds the events of one delivery. The largest batch known is HubSpot's 100; SendGrid's is bounded by bytes.
const eventsMax = 5000

// catalogue is every source, alphabetical by name.
var catalogue = guardAll([]Source{
	awsSNS,
	basic,
	bearer,
	bitbucket,
	calendly,
	discord,
	github,
	gitlab,
	generic,
	hubspot,
	intercom,
	jira,
	linear,
	mailgun,
	microsoftGraph,
	mtlsHeader,
	paddle,
	pagerduty,
	paypal,
	pipedrive,
	salesforce,
	sendgrid,
	serviceNow,
	shopify,
	slack,
	square,
	standard,
	stripe,
	twilio,
	typeform,
	zendesk,
	zoom,
})

// All gives every source, alphabetical by name.
func All() []Source { return slices.Clone(catalogue) }

// Get finds a source by its name.
func Get(name string) (Source, bool) {
	i := slices.IndexFunc(catalogue, func(s Source) bool { return s.Name == name })
	if i < 0 {
		return Source{}, false
	}
	return catalogue[i], true
}

func guardAll(sources []Source) []Source {
	for i := range sources {
		sources[i] = guard(sources[i])
	}
	return sources
}

// guard lays around a source what must hold for all of them, whatever their own code does: without a secret nothing
// verifies, a match names a secret that exists and is not empty, and the names of events are fit to store.
func guard(s Source) Source {
	verify, events := s.Verify, s.Events
	s.Verify = func(r Request, secrets []string, set Settings) (int, error) {
		if s.SecretFrom == SecretNone {
			_, err := verify(r, secrets, set)
			return -1, err
		}
		if !slices.ContainsFunc(secrets, func(secret string) bool { return secret != "" }) {
			return -1, refuse(ReasonSecretMissing, "the endpoint has no signing secret")
		}
		matched, err := verify(r, secrets, set)
		if err != nil {
			return -1, err
		}
		if matched < 0 || matched >= len(secrets) || secrets[matched] == "" {
			return -1, refuse(ReasonSignatureMismatch, "no secret of the endpoint made this signature")
		}
		return matched, nil
	}
	s.Events = func(r Request, set Settings) ([]Event, error) {
		found, err := events(r, set)
		if err != nil {
			return nil, err
		}
		if err := tidyEvents(found); err != nil {
			return nil, err
		}
		for i := range found {
			if bytes.Equal(found[i].Payload, r.Body) {
				found[i].Payload = nil
			}
			if found[i].Once == "" && !s.IDSigned(set) {
				found[i].Once = bodyOnce(i, found[i].Type, r.Body)
			}
		}
		return found, nil
	}
	s.Codes = Codes{
		Refused:   cmp.Or(s.Codes.Refused, http.StatusUnauthorized),
		Malformed: cmp.Or(s.Codes.Malformed, http.StatusBadRequest),
		TooLarge:  cmp.Or(s.Codes.TooLarge, http.StatusRequestEntityTooLarge),
		Disabled:  cmp.Or(s.Codes.Disabled, http.StatusNotFound),
		Busy:      cmp.Or(s.Codes.Busy, http.StatusServiceUnavailable),
	}
	if s.ParseSettings == nil {
		s.ParseSettings = noSettings
	}
	return s
}

// bodyOnce is the second key of an event whose id is not under the signature. The type is in it although it is not signed
// either: Shopify sends one order under two topics with the same bytes, and to lose a genuine event is worse than to take
// a replay once for every topic.
func bodyOnce(index int, kind string, body []byte) string {
	h := sha256.New()
	_, _ = io.WriteString(h, strconv.Itoa(index)+"\x00"+kind+"\x00")
	_, _ = h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

func tidyEvents(events []Event) error {
	if len(events) == 0 || len(events) > eventsMax {
		return refuse(ReasonPayloadMalformed, fmt.Sprintf("expected 1 to %d events in a delivery", eventsMax))
	}
	for i := range events {
		e := &events[i]
		if strings.TrimSpace(e.ID) == "" {
			return refuse(ReasonIDMissing, "the event has no id")
		}
		e.ID, e.Type, e.Entity = tidyID(e.ID), tidyType(e.Type), tidyEntity(e.Entity)
		if e.Once != "" {
			e.Once = tidyID(e.Once)
		}
		if !e.OccurredAt.IsZero() {
			e.OccurredAt = e.OccurredAt.UTC()
		}
	}
	return nil
}

// noSettings is ParseSettings of a source that has none.
func noSettings(raw json.RawMessage) (Settings, []Fault) {
	fields, faults := settingFields(raw)
	for _, name := range sortedKeys(fields) {
		faults = append(faults, Fault{Place: name, Message: "is not a setting of this source, which has none of its own"})
	}
	return nil, faults
}
