package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	graphQuestion = "validationToken"
	// graphTokenMax bounds what a question is answered with, in bytes. Tokens seen have some 100.
	graphTokenMax = 2048
	// graphStateMax is the longest clientState that Graph takes.
	graphStateMax = 128
)

// microsoftGraph is Microsoft Graph's change and lifecycle notifications without resource data.
var microsoftGraph = Source{
	Name:       "microsoft_graph",
	Title:      "Microsoft Graph",
	Docs:       "https://learn.microsoft.com/graph/change-notifications-delivery-webhooks",
	SecretFrom: SecretFromSluice,
	Setup: "Create a subscription (POST /v1.0/subscriptions) with notificationUrl {url}, the same as lifecycleNotificationUrl, " +
		"clientState {secret} and includeResourceData false. Renew it before it expires: subscriptions live for days at most.",
	Signs: "nothing: each notification carries the clientState of its subscription, which is the secret.",
	Notes: []string{
		"Nothing is signed: whoever has seen a notification knows the clientState and can send any. It is left out of the payload, and blotted out in the raw body.",
		"Every notification of a delivery must have the clientState, else the whole is refused.",
		"Rich notifications (validationTokens, encryptedContent) are refused, for their tokens are not checked here.",
		"A notification without an id of its own, such as of OneDrive, is named by its arrival too, since two changes may read the same; then a retry is another event.",
		"Whoever asks with a validationToken hears it back as plain text, as the protocol wants; nothing is stored.",
	},
	Window:       untimed,
	BodySigned:   never,
	IDSigned:     never,
	AnswerWithin: 3 * time.Second,
	Retries:      "For up to 4 hours, with growing pauses; an endpoint that is slow for a tenth of its deliveries is throttled.",
	Order:        "nothing: there is no time and no version that can be compared; read the resource back.",
	BodyMax:      4 << 20, // a delivery may hold many notifications
	Accepted:     &Answer{Status: http.StatusAccepted},

	Challenge: graphChallenge,
	Kept: func(body []byte) []byte {
		return graphState.ReplaceAll(body, []byte(`"clientState":"[secret]"`))
	},
	Verify:      graphVerify,
	Events:      graphEvents,
	Samples:     graphSamples,
	Sign:        graphSign,
	NewSecret:   newHexSecret,
	CheckSecret: graphCheckSecret,
}

// graphChallenge answers the question that Graph asks before it makes a subscription. The token is text of one line, and
// goes out as text that no browser takes for a page.
func graphChallenge(r Request) *Answer {
	_, query, found := strings.Cut(r.URL, "?")
	if !found || r.Method != http.MethodPost {
		return nil
	}
	values, err := url.ParseQuery(query)
	if err != nil || len(values[graphQuestion]) != 1 {
		return nil
	}
	token := values.Get(graphQuestion)
	if token == "" || len(token) > graphTokenMax || !utf8.ValidString(token) || strings.ContainsFunc(token, unicode.IsControl) {
		return nil
	}
	return &Answer{Status: http.StatusOK, Body: []byte(token), Header: http.Header{
		"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}, "Cache-Control": {"no-store"},
		"Content-Security-Policy": {"default-src 'none'; sandbox"},
	}}
}

// graphItems are the notifications of a delivery.
func graphItems(body []byte) (doc object, items []json.RawMessage, err error) {
	if doc, err = parseObject(body); err != nil {
		return nil, nil, err
	}
	if items, err = elements(doc["value"]); err != nil {
		return nil, nil, refuse(ReasonPayloadMalformed, "expected value with at least one notification")
	}
	for _, item := range items {
		if !isObject(item) {
			return nil, nil, refuse(ReasonPayloadMalformed, "expected each notification to be an object")
		}
	}
	return doc, items, nil
}

// graphVerify holds every notification against every secret, as one delivery may be of several subscriptions while a secret
// is being rotated. It names the secret of the first.
func graphVerify(r Request, secrets []string, _ Settings) (int, error) {
	_, items, err := graphItems(r.Body)
	if err != nil {
		return -1, err
	}
	first := -1
	for i, item := range items {
		state := members(item).text("clientState")
		if state == "" {
			return -1, refuse(ReasonSignatureMissing, "a notification has no clientState: give the subscription one")
		}
		matched, err := matchToken(state, secrets)
		if err != nil {
			return -1, err
		}
		if i == 0 {
			first = matched
		}
	}
	return first, nil
}

func graphEvents(r Request, _ Settings) ([]Event, error) {
	doc, items, err := graphItems(r.Body)
	if err != nil {
		return nil, err
	}
	if tokens, found := doc["validationTokens"]; found && string(tokens) != "null" {
		return nil, refuse(ReasonPayloadMalformed, "rich notifications are not taken, for their validationTokens are not checked: set includeResourceData to false")
	}
	events := make([]Event, len(items))
	for i, raw := range items {
		item := members(raw)
		if encrypted, found := item["encryptedContent"]; found && string(encrypted) != "null" {
			return nil, refuse(ReasonPayloadMalformed, "rich notifications are not taken: set includeResourceData to false")
		}
		events[i] = graphEvent(item)
		if events[i].Type == "" {
			return nil, refuse(ReasonPayloadMalformed, "expected each notification to have a changeType or a lifecycleEvent")
		}
		delete(item, "clientState")
		if events[i].Payload, err = json.Marshal(item); err != nil {
			return nil, refuse(ReasonPayloadMalformed, "a notification cannot be written as JSON")
		}
		if events[i].ID == "" {
			events[i].ID = digest(fmt.Appendf(nil, "%d %s %s", i, r.ReceivedAt.UTC().Format(time.RFC3339Nano), events[i].Payload))
		}
		events[i].Once = "graph:" + events[i].ID
	}
	return events, nil
}

// graphEvent names a notification: "message.created" of a message, "updated" where the kind of resource is not said, and
// "lifecycle.missed" of a subscription.
func graphEvent(item object) Event {
	if event := item.text("lifecycleEvent"); event != "" {
		return Event{ID: item.id("id"), Type: "lifecycle." + event, Entity: entity("subscription", item.text("subscriptionId"))}
	}
	resource := item.in("resourceData")
	kind := resource.text("@odata.type")
	kind = strings.ToLower(kind[strings.LastIndexAny(kind, "#.")+1:])
	event := Event{ID: item.id("id"), Type: item.text("changeType"), Entity: entity("resource", item.text("resource"))}
	if kind != "" && event.Type != "" {
		event.Type = kind + "." + event.Type
	}
	if about := entity(kind, resource.id("id")); kind != "" && about != "" {
		event.Entity = about
	}
	return event
}

// graphState is the secret where it stands in a body.
var graphState = regexp.MustCompile(`"clientState"\s*:\s*"(?:[^"\\]|\\.)*"`)

// graphSign gives every notification of a sample the clientState.
func graphSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	doc, items, err := graphItems(in.Body)
	if err != nil {
		return Signed{}, err
	}
	state, err := json.Marshal(in.Secret)
	if err != nil {
		return Signed{}, fmt.Errorf("write the clientState of a sample: %w", err)
	}
	stated := make([]object, len(items))
	for i, raw := range items {
		stated[i] = members(raw)
		stated[i]["clientState"] = state
	}
	if doc["value"], err = json.Marshal(stated); err != nil {
		return Signed{}, fmt.Errorf("write a signed sample: %w", err)
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return Signed{}, fmt.Errorf("write a signed sample: %w", err)
	}
	return Signed{signedHeader(in), body}, nil
}

func graphCheckSecret(secret string, s Settings) error {
	if len(secret) > graphStateMax {
		return errors.New("a clientState has at most 128 characters")
	}
	return checkPlainSecret(secret, s)
}

var graphSamples = []Sample{
	{Type: "event.updated", Body: sampleBody(`
{
  "value": [
    {
      "id": "$ID",
      "subscriptionId": "7f105c7d-2dc5-4530-97cd-4e7ae6534c07",
      "subscriptionExpirationDateTime": "2099-01-01T00:00:00.0000000Z",
      "changeType": "updated",
      "resource": "Users/sample-user/Events/AAMk$NUMBER",
      "tenantId": "84bd8158-6d4d-4958-8b9f-000000000001",
      "resourceData": {
        "@odata.type": "#Microsoft.Graph.Event",
        "@odata.id": "Users/sample-user/Events/AAMk$NUMBER",
        "@odata.etag": "W/\"DwAAABYAAADsample\"",
        "id": "AAMk$NUMBER"
      }
    }
  ]
}`)},
	{Type: "message.created", Body: sampleBody(`
{
  "value": [
    {
      "id": "$ID",
      "subscriptionId": "7f105c7d-2dc5-4530-97cd-4e7ae6534c07",
      "subscriptionExpirationDateTime": "2099-01-01T00:00:00.0000000Z",
      "changeType": "created",
      "resource": "Users/sample-user/Messages/AAMk$NUMBER",
      "tenantId": "84bd8158-6d4d-4958-8b9f-000000000001",
      "resourceData": {
        "@odata.type": "#Microsoft.Graph.Message",
        "@odata.id": "Users/sample-user/Messages/AAMk$NUMBER",
        "@odata.etag": "W/\"CQAAABYAAADsample\"",
        "id": "AAMk$NUMBER"
      }
    }
  ]
}`)},
}
