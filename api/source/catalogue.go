package source

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// eventsMax bounds the events of one delivery. The largest batch known is HubSpot's 100; SendGrid's is bounded by bytes.
const eventsMax = 5000

// catalogue is every source, alphabetical by name.
var catalogue = guardAll([]Source{
	github,
	generic,
	shopify,
	standard,
	stripe,
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
		return tidyEvents(found)
	}
	if s.Payload == nil {
		s.Payload = func(r Request) ([]byte, error) { return r.Body, nil }
	}
	if s.ParseSettings == nil {
		s.ParseSettings = noSettings
	}
	return s
}

func tidyEvents(events []Event) ([]Event, error) {
	if len(events) == 0 || len(events) > eventsMax {
		return nil, refuse(ReasonPayloadMalformed, fmt.Sprintf("expected 1 to %d events in a delivery", eventsMax))
	}
	for i := range events {
		e := &events[i]
		if strings.TrimSpace(e.ID) == "" {
			return nil, refuse(ReasonIDMissing, "the event has no id")
		}
		e.ID, e.Type, e.Entity = tidyID(e.ID), tidyType(e.Type), tidyEntity(e.Entity)
		if !e.OccurredAt.IsZero() {
			e.OccurredAt = e.OccurredAt.UTC()
		}
	}
	return events, nil
}

// noSettings is ParseSettings of a source that has none.
func noSettings(raw json.RawMessage) (Settings, []Fault) {
	fields, faults := settingFields(raw)
	for _, name := range sortedKeys(fields) {
		faults = append(faults, Fault{Place: name, Message: "is not a setting of this source, which has none"})
	}
	return nil, faults
}
