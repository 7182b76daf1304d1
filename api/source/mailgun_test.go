package source_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	library "github.com/mailgun/mailgun-go/v4"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func mailgunRequest(timestamp, token, signature, data string) source.Request {
	body := `{"signature":{"timestamp":"` + timestamp + `","token":"` + token + `","signature":"` + signature + `"},"event-data":` + data + `}`
	return source.Request{Method: http.MethodPost, URL: publicURL, Body: []byte(body), ReceivedAt: time.Unix(1735689600, 0)}
}

// Computed with openssl by the documented rule; Mailgun publishes none.
const (
	mailgunToken = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	mailgunMAC   = "957e16f21f28c8ca60e99eb4fc7aef7a172ed03e11fea501fee94504a1963dda"
)

func TestMailgunSignature(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("mailgun")
	for _, c := range []struct{ title, timestamp, token, signature, reason string }{
		{"Vector", "1735689600", mailgunToken, mailgunMAC, ""},
		{"UpperCase", "1735689600", mailgunToken, strings.ToUpper(mailgunMAC), ""},
		{"OtherToken", "1735689600", "b" + mailgunToken[1:], mailgunMAC, source.ReasonSignatureMismatch},
		{"OtherTime", "1735689601", mailgunToken, mailgunMAC, source.ReasonSignatureMismatch},
		{"DigitMovedToTheToken", "173568960", "0" + mailgunToken, mailgunMAC, source.ReasonTimestampStale},
		{"NoTimestamp", "", "1735689600" + mailgunToken, mailgunMAC, source.ReasonTimestampMalformed},
		{"SignedTimestamp", "+735689600", mailgunToken, mailgunMAC, source.ReasonTimestampMalformed},
		{"ShortMAC", "1735689600", mailgunToken, mailgunMAC[:62], source.ReasonSignatureMalformed},
		{"NoMAC", "1735689600", mailgunToken, "", source.ReasonSignatureMissing},
		{"NoToken", "1735689600", "", mailgunMAC, source.ReasonSignatureMissing},
		{"EndlessToken", "1735689600", strings.Repeat("a", 200), mailgunMAC, source.ReasonSignatureMissing},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			_, err := s.Verify(mailgunRequest(c.timestamp, c.token, c.signature, "{}"), []string{"mg-key"}, nil)
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
	for _, legacy := range []string{"timestamp=1735689600&token=" + mailgunToken + "&signature=" + mailgunMAC, "--boundary\r\n", "", `{"event-data":{}}`} {
		_, err := s.Verify(source.Request{Body: []byte(legacy), ReceivedAt: noon}, []string{"mg-key"}, nil)
		requireReason(t, err, source.ReasonSignatureMissing)
	}
	require.Equal(t, http.StatusNotAcceptable, s.Codes.Malformed)
	require.Equal(t, http.StatusUnauthorized, s.Codes.Refused, "a wrong key is retried until it is right")
}

func TestMailgunAndItsLibraryAgree(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("mailgun")
	mg := library.NewMailgun("example.com", "mg-signing-key")
	signed := subject{Source: s}.deliver(t, s.Samples[0], "evt_0001", source.Trial{Sign: "mg-signing-key"})
	var payload library.WebhookPayload
	require.NoError(t, json.Unmarshal(signed.Body, &payload))
	ok, err := mg.VerifyWebhookSignature(payload.Signature)
	require.NoError(t, err)
	require.True(t, ok)

	mac := hmac.New(sha256.New, []byte("mg-signing-key"))
	mac.Write([]byte("1735689600token-of-theirs"))
	theirs := library.Signature{TimeStamp: "1735689600", Token: "token-of-theirs", Signature: hex.EncodeToString(mac.Sum(nil))}
	ok, err = mg.VerifyWebhookSignature(theirs)
	require.NoError(t, err)
	require.True(t, ok)
	_, err = s.Verify(mailgunRequest(theirs.TimeStamp, theirs.Token, theirs.Signature, "{}"), []string{"mg-signing-key"}, nil)
	require.NoError(t, err)
}

func TestMailgunEvents(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("mailgun")
	for _, c := range []struct{ title, data, id, kind, at, entity string }{
		{
			"Delivered", `{"id":"CPgf","event":"delivered","timestamp":1772621999.123456,"message":{"headers":{"message-id":"2026@mail.example.com"}}}`,
			"CPgf", "delivered", "2026-03-04T10:59:59.123456Z", "message:2026@mail.example.com",
		},
		{"Temporary", `{"id":"CPgf","event":"failed","severity":"temporary","timestamp":1772622000}`, "CPgf", "failed.temporary", "2026-03-04T11:00:00Z", ""},
		{"List", `{"id":"x","event":"list_uploaded","timestamp":"odd"}`, "x", "list_uploaded", "", ""},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			events, err := s.Events(mailgunRequest("1735689600", mailgunToken, mailgunMAC, c.data), nil)
			require.NoError(t, err)
			require.Equal(t, "mailgun:"+mailgunToken, events[0].Once)
			require.JSONEq(t, c.data, string(events[0].Payload))
			require.Equal(t, []source.Event{{ID: c.id, Type: c.kind, OccurredAt: at(t, c.at), Entity: c.entity}}, named(events))
		})
	}
	for data, reason := range map[string]string{
		`{}`: source.ReasonPayloadMalformed, `[]`: source.ReasonPayloadMalformed, `{"event":"opened"}`: source.ReasonIDMissing,
	} {
		_, err := s.Events(mailgunRequest("1735689600", mailgunToken, mailgunMAC, data), nil)
		requireReason(t, err, reason)
	}
}

// The event is not under the signature. Another event under a signature that was seen has the same second key.
func TestMailgunForgedEventHasTheOnceOfTheGenuine(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("mailgun")
	once := map[string]bool{}
	for _, data := range []string{`{"id":"1","event":"delivered"}`, `{"id":"2","event":"complained"}`} {
		r := mailgunRequest("1735689600", mailgunToken, mailgunMAC, data)
		_, err := s.Verify(r, []string{"mg-key"}, nil)
		require.NoError(t, err, "which is why BodySigned is false")
		events, err := s.Events(r, nil)
		require.NoError(t, err)
		once[events[0].Once] = true
	}
	require.Len(t, once, 1)
}
