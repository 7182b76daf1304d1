package source_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-github/v92/github"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v84/webhook"

	"sluice/api/source"
)

// signed signs every sample of a source and passes each on with its secret. The time is real, for the libraries read the
// clock themselves.
func signed(t *testing.T, name string, pass func(r source.Request, secret string)) {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found)
	at := time.Now()
	for _, sample := range s.Samples {
		secret := subject{Source: s, trait: traits[name]}.key(t, 0).Sign
		body := sample.Body("evt_0001", at)
		signed, err := s.Sign(source.SignInput{Header: sample.Header, Body: body, Secret: secret, ID: "evt_0001", At: at})
		require.NoError(t, err)
		pass(source.Request{Header: signed.Header, Body: signed.Body, ReceivedAt: at}, secret)
	}
}

func TestVendorAcceptsOurSignature(t *testing.T) {
	t.Parallel()
	t.Run("stripe", func(t *testing.T) {
		t.Parallel()
		signed(t, "stripe", func(r source.Request, secret string) {
			event, err := webhook.ConstructEventWithOptions(r.Body, r.Header.Get("Stripe-Signature"), secret,
				webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
			require.NoError(t, err)
			require.Equal(t, "evt_0001", event.ID)
			require.Error(t, webhook.ValidatePayload(r.Body, r.Header.Get("Stripe-Signature"), secret+"x"))
		})
	})
	t.Run("standard", func(t *testing.T) {
		t.Parallel()
		signed(t, "standard", func(r source.Request, secret string) {
			library, err := standardwebhooks.NewWebhook(secret)
			require.NoError(t, err)
			require.NoError(t, library.Verify(r.Body, r.Header))
			require.Error(t, library.Verify(r.Body[1:], r.Header))
		})
	})
	t.Run("github", func(t *testing.T) {
		t.Parallel()
		signed(t, "github", func(r source.Request, secret string) {
			request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(r.Body))
			request.Header = r.Header
			payload, err := github.ValidatePayload(request, []byte(secret))
			require.NoError(t, err)
			_, err = github.ParseWebHook(github.WebHookType(request), payload)
			require.NoError(t, err)
			require.Equal(t, "evt_0001", github.DeliveryID(request))
		})
	})
}

func TestOurVerifyAcceptsTheVendorsSignature(t *testing.T) {
	t.Parallel()
	verify := func(t *testing.T, name, secret string, r source.Request) {
		t.Helper()
		s, _ := source.Get(name)
		matched, err := s.Verify(r, []string{subject{Source: s, trait: traits[name]}.key(t, 1).Verify, secret}, nil)
		require.NoError(t, err)
		require.Equal(t, 1, matched)
	}
	t.Run("stripe", func(t *testing.T) {
		t.Parallel()
		made := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{
			Payload: []byte(`{"id":"evt_1","object":"event","type":"charge.failed"}`), Secret: "whsec_library", Timestamp: noon,
		})
		verify(t, "stripe", "whsec_library", source.Request{
			Header: http.Header{"Stripe-Signature": {made.Header}}, Body: made.Payload, ReceivedAt: noon,
		})
	})
	t.Run("standard", func(t *testing.T) {
		t.Parallel()
		const secret = "whsec_c2l4dGVlbiBieXRlcyBhbmQgc29tZSBtb3Jl"
		library, err := standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		body := []byte(`{"type":"contact.created"}`)
		signature, err := library.Sign("msg_1", noon, body)
		require.NoError(t, err)
		h := http.Header{}
		h.Set(standardwebhooks.HeaderWebhookID, "msg_1")
		h.Set(standardwebhooks.HeaderWebhookTimestamp, "1772625600")
		h.Set(standardwebhooks.HeaderWebhookSignature, signature)
		verify(t, "standard", secret, source.Request{Header: h, Body: body, ReceivedAt: noon})
	})
}

// A form-encoded webhook of GitHub is signed over the form; the library and we find the same JSON in it.
func TestGitHubForm(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("github")
	document := `{"action":"opened","issue":{"id":9007199254740993,"updated_at":"2026-03-04T11:00:00Z"},"text":"a+b & c=d; é"}`
	body := []byte(url.Values{"payload": {document}}.Encode())
	signed, err := s.Sign(source.SignInput{
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-Github-Event": {"issues"}},
		Body:   body, Secret: "It's a Secret to Everybody", ID: "delivery-1", At: noon,
	})
	require.NoError(t, err)
	r := source.Request{Header: signed.Header, Body: body, ReceivedAt: noon}
	_, err = s.Verify(r, []string{"It's a Secret to Everybody"}, nil)
	require.NoError(t, err)
	request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	request.Header = signed.Header
	theirs, err := github.ValidatePayload(request, []byte("It's a Secret to Everybody"))
	require.NoError(t, err)
	events, err := s.Events(r, nil)
	require.NoError(t, err)
	require.Equal(t, document, string(theirs))
	require.NotEmpty(t, events[0].Once)
	events[0].Once = ""
	require.Equal(t, []source.Event{{
		ID: "delivery-1", Type: "issues.opened", Entity: "issue:9007199254740993",
		OccurredAt: time.Date(2026, 3, 4, 11, 0, 0, 0, time.UTC), Payload: theirs,
	}}, events)

	for _, bad := range []string{"", "payload=", "other=%7B%7D", "payload=%zz", "payload=%7B%7D&payload=%7B%7D"} {
		r.Body = []byte(bad)
		_, err := s.Events(r, nil)
		requireReason(t, err, source.ReasonPayloadMalformed)
	}
}

// Anyone can sign with an empty key, so a secret that is empty or cannot be decoded must match nothing.
func TestEmptyKeyMatchesNothing(t *testing.T) {
	t.Parallel()
	body := []byte(`{"id":1}`)
	t.Run("standard", func(t *testing.T) {
		t.Parallel()
		library, err := standardwebhooks.NewWebhookRaw(nil)
		require.NoError(t, err)
		signature, err := library.Sign("msg_1", noon, body)
		require.NoError(t, err)
		r := source.Request{
			Header: headers("webhook-id", "msg_1", "webhook-timestamp", "1772625600", "webhook-signature", signature),
			Body:   body, ReceivedAt: noon,
		}
		s, _ := source.Get("standard")
		for _, broken := range []string{"whsec_", "whsec_!", "whsec_A"} {
			_, err = s.Verify(r, []string{broken}, nil)
			requireReason(t, err, source.ReasonSecretMissing)
			_, err = s.Verify(r, []string{broken, subject{Source: s, trait: traits[s.Name]}.key(t, 0).Verify}, nil)
			requireReason(t, err, source.ReasonSignatureMismatch)
		}
	})
	t.Run("github", func(t *testing.T) {
		t.Parallel()
		mac := hmac.New(sha256.New, nil)
		mac.Write(body)
		r := source.Request{Header: headers("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil))), Body: body}
		s, _ := source.Get("github")
		_, err := s.Verify(r, []string{"", "a real secret"}, nil)
		requireReason(t, err, source.ReasonSignatureMismatch)
	})
}

// A Svix sender may send both sets; one that is whole counts, and the specification's goes first.
func TestWholeSetOfHeadersCounts(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("standard")
	signed(t, "standard", func(r source.Request, secret string) {
		renamed := http.Header{}
		for _, part := range []string{"Id", "Timestamp", "Signature"} {
			renamed.Set("Svix-"+part, r.Header.Get("Webhook-"+part))
		}
		verify := func(change func(h http.Header)) error {
			both := r
			both.Header = r.Header.Clone()
			maps.Copy(both.Header, renamed)
			change(both.Header)
			_, err := s.Verify(both, []string{secret}, nil)
			return err
		}
		require.NoError(t, verify(func(http.Header) {}))
		require.NoError(t, verify(func(h http.Header) { h.Del("Webhook-Timestamp") }))
		require.NoError(t, verify(func(h http.Header) { h.Del("Svix-Timestamp") }))
		require.NoError(t, verify(func(h http.Header) { h.Set("Svix-Signature", "v1,broken") }))
		requireReason(t, verify(func(h http.Header) { h.Set("Webhook-Id", "msg_other") }), source.ReasonSignatureMismatch)
		requireReason(t, verify(func(h http.Header) { h.Del("Webhook-Id"); h.Del("Svix-Timestamp") }), source.ReasonTimestampMissing)
	})
}
