package source_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestSendGridBatchIsManyEvents(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("sendgrid")
	first := `{"email":"a@example.com","event":"delivered","timestamp":1767323045,"sg_event_id":"ev-1","sg_message_id":"m1.recvd-1-2.0"}`
	second := `{"event": "open", "timestamp": 1767323046, "sg_event_id": "ev-2", "sg_message_id": "m1.recvd-1-2.1"}`
	third := `{"event":"bounce","timestamp":1767323047,"email":"b@example.com"}`
	read := func(body string) []source.Event {
		events, err := s.Events(source.Request{Body: []byte(body)}, nil)
		require.NoError(t, err)
		return events
	}
	events := read("[" + first + ",\r\n " + second + " , " + third + "]\r\n")
	sum := events[2].ID
	require.Equal(t, "sha256:", sum[:7])
	require.Equal(t, []source.Event{
		{ID: "ev-1", Type: "delivered", OccurredAt: at(t, "2026-01-02T03:04:05Z"), Entity: "message:m1.recvd-1-2.0", Payload: []byte(first)},
		{ID: "ev-2", Type: "open", OccurredAt: at(t, "2026-01-02T03:04:06Z"), Entity: "message:m1.recvd-1-2.1", Payload: []byte(second)},
		{ID: sum, Type: "bounce", OccurredAt: at(t, "2026-01-02T03:04:07Z"), Payload: []byte(third)},
	}, events)
	require.Equal(t, sum, read("[" + third + "]")[0].ID, "alone, the event has the same id")

	requireUnnamed(t, "sendgrid", ``, []unnamed{
		{title: "NoArray", body: first, reason: source.ReasonPayloadMalformed},
		{title: "Empty", body: `[]`, reason: source.ReasonPayloadMalformed},
		{title: "NotOfObjects", body: "[" + first + `, "x"]`, reason: source.ReasonPayloadMalformed},
	})
}

func TestSendGridsLibraryAcceptsOurSignature(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("sendgrid")
	key, err := s.Trial()
	require.NoError(t, err)
	public, err := eventwebhook.ConvertPublicKeyBase64ToECDSA(key.Verify)
	require.NoError(t, err)
	for _, sample := range s.Samples {
		signed, err := s.Sign(source.SignInput{Body: sample.Body("evt_0001", noon), Secret: key.Sign, ID: "evt_0001", At: noon})
		require.NoError(t, err)
		verify := func(body []byte) bool {
			held, err := eventwebhook.VerifySignature(public, body, signed.Header.Get(eventwebhook.VerificationHTTPHeader),
				signed.Header.Get(eventwebhook.TimestampHTTPHeader))
			return err == nil && held
		}
		require.True(t, verify(signed.Body))
		require.False(t, verify(signed.Body[1:]))
	}
}

// The library has no signer; this is the documented rule with the standard library. The line end belongs to the body.
func TestSendGridSignatureMadeElsewhere(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("sendgrid")
	secretOf := func(curve elliptic.Curve) (*ecdsa.PrivateKey, string) {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		require.NoError(t, err)
		return key, base64.StdEncoding.EncodeToString(der)
	}
	key, secret := secretOf(elliptic.P256())
	_, larger := secretOf(elliptic.P384())
	body := `[{"event":"dropped","sg_event_id":"ev-1"}]` + "\r\n"
	hash := sha256.Sum256([]byte("1772625600" + body))
	signature, err := ecdsa.SignASN1(rand.Reader, key, hash[:])
	require.NoError(t, err)
	encoded := base64.StdEncoding.EncodeToString(signature)
	request := func(timestamp, signature, body string) source.Request {
		return source.Request{Header: headers("X-Twilio-Email-Event-Webhook-Timestamp", timestamp,
			"X-Twilio-Email-Event-Webhook-Signature", signature), Body: []byte(body), ReceivedAt: noon}
	}
	matched, err := s.Verify(request("1772625600", encoded, body), []string{"garbage", larger, secret}, nil)
	require.NoError(t, err)
	require.Equal(t, 2, matched)
	for title, c := range map[string]struct{ timestamp, signature, body, reason string }{
		"OtherTime":     {"1772625601", encoded, body, source.ReasonSignatureMismatch},
		"NoLineEnd":     {"1772625600", encoded, strings.TrimSpace(body), source.ReasonSignatureMismatch},
		"NoBase64":      {"1772625600", "!", body, source.ReasonSignatureMalformed},
		"NoASN1":        {"1772625600", base64.StdEncoding.EncodeToString([]byte("no signature")), body, source.ReasonSignatureMismatch},
		"Longer":        {"1772625600", base64.StdEncoding.EncodeToString(append(signature, 0)), body, source.ReasonSignatureMismatch},
		"NoTime":        {"", encoded, body, source.ReasonTimestampMissing},
		"TimeInWords":   {"now", encoded, body, source.ReasonTimestampMalformed},
		"Signatureless": {"1772625600", "", body, source.ReasonSignatureMissing},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			_, err := s.Verify(request(c.timestamp, c.signature, c.body), []string{secret}, nil)
			requireReason(t, err, c.reason)
		})
	}
	_, err = s.Verify(request("1772625600", encoded, body), []string{larger}, nil)
	requireReason(t, err, source.ReasonSecretMissing)
	late := request("1772625600", encoded, body)
	late.ReceivedAt = noon.Add(time.Hour)
	_, err = s.Verify(late, []string{secret}, nil)
	requireReason(t, err, source.ReasonTimestampStale)

	require.NoError(t, s.CheckSecret(secret, nil))
	for _, bad := range []string{larger, "garbage", secret[:40], "SG.api-key"} {
		require.Error(t, s.CheckSecret(bad, nil))
	}
}
