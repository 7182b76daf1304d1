package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/jobs/outbound"
)

// callback posts a run's output to an address of the tenant, signed as the Standard Webhooks specification says
// (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md), so that receivers can check it with that
// project's libraries. The webhook-id is the Send's Key, and the body is that of the Effect, so that a receiver that drops
// ids it has seen makes the effect once however often it is asked. Without a credential the request bears no signature.
//
// Sluice-Run and Sluice-Depth name the run and how many of our own actions led to it. They are not signed, and what comes in with them is believed
// only as far as the database knows it.
type callback struct{ door *outbound.Door }

var _ Connector = callback{}

const (
	callbackBodyBytesMax = 1 << 20 // of a request's body
	callbackKeyBytesMax  = 256
	fieldURL             = "url"
	jsonType             = "application/json"
	textType             = "text/plain; charset=utf-8"
)

// callbackAccount is the secret that signs callbacks.
func callbackAccount() Account {
	return Account{
		Kind: "callback", NoBase: true, SecretDoc: "whsec_ and the base64 of 24 to 64 random bytes; left out, one is made", NewSecret: newWebhookSecret,
		Check: func(secret string) error { _, err := webhookKeys(secret); return err },
	}
}

func (callback) Spec() Spec {
	return Spec{Kind: "callback", Account: "callback", Fields: []Field{
		{Name: fieldURL, Form: FormLiteral, Required: true, Doc: "the address of the callback, https://..."},
		{Name: fieldBody, Form: FormContent, Doc: "what is sent; left out, an envelope with the whole output as JSON"},
	}}
}

func (c callback) Check(p Params) []Fault {
	if err := c.door.CheckURL(p.Texts[fieldURL]); err != nil {
		return []Fault{{Place: "action.url", Message: err.Error()}}
	}
	return nil
}

func (c callback) Prepare(p Params, in Input) (Effect, error) {
	target, err := masked(p.Texts[fieldURL])
	if err != nil {
		return Effect{}, refused(CodeInvalid, "action.url: expected an address")
	}
	effect := Effect{
		Kind: "callback", Target: target, URL: p.Texts[fieldURL], ContentType: jsonType, Signed: p.Texts[fieldCredential] != "",
		Once: OnceKey, RunID: in.RunID, Depth: in.Depth,
	}
	body, templated := p.Texts[fieldBody]
	switch {
	case body != "":
		// The text of a model may hold anything; what is declared as UTF-8 is made so once, and then stays.
		effect.Body = []byte(strings.ToValidUTF8(body, string(utf8.RuneError)))
		if !json.Valid(effect.Body) {
			effect.ContentType = textType
		}
	case templated:
		// Falling back to the whole output would send what the template was written to leave out.
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	default:
		if effect.Body, err = completed(in); err != nil {
			return Effect{}, refused(CodeInvalid, "the output cannot be written as JSON")
		}
	}
	if len(effect.Body) > callbackBodyBytesMax {
		return Effect{}, refused(CodeTooLarge, fmt.Sprintf("the body is longer than %d bytes", callbackBodyBytesMax))
	}
	return effect, nil
}

// completed is the body where no template is given, in the envelope that the specification recommends.
func completed(in Input) ([]byte, error) {
	type data struct {
		RunID             string `json:"run_id"`
		EventID           string `json:"event_id"`
		AutomationID      string `json:"automation_id"`
		AutomationVersion int    `json:"automation_version"`
		EventType         string `json:"event_type"`
		Entity            string `json:"entity"`
		Depth             int    `json:"depth"`
		Output            any    `json:"output"`
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(struct {
		Type      string `json:"type"`
		Timestamp string `json:"timestamp"`
		Data      data   `json:"data"`
	}{"run.completed", in.At.UTC().Format(time.RFC3339Nano), data{
		RunID: in.RunID, EventID: in.EventID, AutomationID: in.AutomationID, AutomationVersion: in.AutomationVersion,
		EventType: in.EventType, Entity: in.Entity, Depth: in.Depth, Output: in.Output,
	}})
	return bytes.TrimSuffix(body.Bytes(), []byte("\n")), err
}

func (c callback) Do(ctx context.Context, s Send) (Receipt, error) {
	if s.Key == "" || len(s.Key) > callbackKeyBytesMax || strings.ContainsFunc(s.Key, badKeyRune) {
		return Receipt{}, refused(CodeInvalid, "the key of the effect cannot be sent as a webhook-id")
	}
	header := http.Header{}
	header.Set("Content-Type", s.Effect.ContentType)
	header.Set("Idempotency-Key", s.Key) // the same, for receivers that know this name only
	if s.Effect.RunID != "" {
		header.Set("Sluice-Run", s.Effect.RunID)
		header.Set("Sluice-Depth", strconv.Itoa(s.Effect.Depth))
	}
	header.Set("User-Agent", "Sluice/1")
	header.Set("Webhook-Id", s.Key)
	header.Set("Webhook-Timestamp", strconv.FormatInt(s.At.Unix(), 10))
	if s.Effect.Signed {
		keys, err := webhookKeys(s.Secret)
		if err != nil {
			return Receipt{}, refused(CodeCredential, "the credential's secret cannot be used")
		}
		header.Set("Webhook-Signature", webhookSignatures(keys, s.Key, s.At, s.Effect.Body))
	}
	res, err := c.door.Do(ctx, outbound.Request{
		Body: s.Effect.Body, Header: header, Method: http.MethodPost, URL: s.Effect.URL,
	})
	if err != nil {
		return Receipt{}, undelivered(err)
	}
	if failure := answered(res, s.At); failure != nil {
		return Receipt{}, failure
	}
	return Receipt{Note: "the callback was accepted", Status: res.Status, URL: s.Effect.Target}, nil
}

// badKeyRune reports what a webhook-id must not hold: the full stop would let two messages have one signed string.
func badKeyRune(r rune) bool { return r <= ' ' || r > '~' || r == '.' }

// masked is an address without the values of its query, which often are tokens.
func masked(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", errors.New("the address is not a URL")
	}
	shown := u.Scheme + "://" + u.Host + u.EscapedPath()
	if u.RawQuery == "" {
		return shown, nil
	}
	pairs := strings.Split(u.RawQuery, "&")
	for i, pair := range pairs {
		if name, _, ok := strings.Cut(pair, "="); ok {
			pairs[i] = name + "=***"
		} else {
			pairs[i] = "***" // a token on its own
		}
	}
	return shown + "?" + strings.Join(pairs, "&"), nil
}
