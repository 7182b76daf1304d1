package source_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bwmarrin/discordgo"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// discordEvent is an event of an application as Discord sends it.
func discordEvent(application, event string) source.Request {
	return source.Request{Body: []byte(`{"version":1,"application_id":"` + application + `","type":1,"event":` + event + `}`)}
}

func TestDiscordEvents(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("discord")
	for _, c := range []struct{ title, event, kind, at, entity string }{
		{"ApplicationAuthorized",
			`{"type":"APPLICATION_AUTHORIZED","timestamp":"2026-01-02T03:04:05.678901","data":{"integration_type":0,"scopes":[],"user":{"id":"8"},"guild":{"id":"9"}}}`,
			"APPLICATION_AUTHORIZED", "2026-01-02T03:04:05.678901Z", "user:8"},
		{"ApplicationDeauthorized", `{"type":"APPLICATION_DEAUTHORIZED","timestamp":"2026-01-02T03:04:05","data":{"user":{"id":"8"}}}`,
			"APPLICATION_DEAUTHORIZED", "2026-01-02T03:04:05Z", "user:8"},
		{"Entitlement", `{"type":"ENTITLEMENT_UPDATE","timestamp":"2026-01-02T03:04:05+00:00","data":{"id":"5","user_id":"8"}}`,
			"ENTITLEMENT_UPDATE", "2026-01-02T03:04:05Z", "entitlement:5"},
		{"LobbyMessage", `{"type":"LOBBY_MESSAGE_CREATE","timestamp":"2026-01-02T04:04:05.5+01:00","data":{"id":"6","lobby_id":"7","author":{"id":"8"}}}`,
			"LOBBY_MESSAGE_CREATE", "2026-01-02T03:04:05.5Z", "lobby_message:6"},
		{"WithoutData", `{"type":"BRAND_NEW","timestamp":"yesterday"}`, "BRAND_NEW", "", ""},
		{"WithoutVerb", `{"type":"NEW","data":{"id":"5","user_id":"8"}}`, "NEW", "", "user:8"},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			events, err := s.Events(discordEvent("1", c.event), nil)
			require.NoError(t, err)
			require.Len(t, events, 1)
			require.Equal(t, source.Event{ID: events[0].ID, Type: c.kind, OccurredAt: at(t, c.at), Entity: c.entity}, events[0])
			again, err := s.Events(discordEvent("1", c.event), nil)
			require.NoError(t, err)
			require.Equal(t, events, again)
			elsewhere, err := s.Events(discordEvent("2", c.event), nil)
			require.NoError(t, err)
			require.NotEqual(t, events[0].ID, elsewhere[0].ID)
		})
	}
	requireUnnamed(t, "discord", ``, []unnamed{
		{title: "NoJSON", body: `x`, reason: source.ReasonPayloadMalformed},
		{title: "Ping", body: `{"version":1,"application_id":"1","type":0}`, reason: source.ReasonPayloadMalformed},
		{title: "Interaction", body: `{"id":"1","application_id":"1","type":2,"token":"x","data":{"id":"1"}}`, reason: source.ReasonPayloadMalformed},
	})
}

func TestDiscordPingIsAnswered(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("discord")
	answer := func(body string) *source.Answer { return s.Handshake(source.Request{Body: []byte(body)}, "", nil) }
	want := &source.Answer{Status: http.StatusNoContent, Header: http.Header{"Content-Type": {"application/json"}}}
	require.Equal(t, want, answer(`{"version":1,"application_id":"1234560123453231555","type":0}`))
	require.Equal(t, want, s.Accepted, "events are answered likewise")
	for _, other := range []string{``, `[0]`, `{}`, `{"type":1}`, `{"type":"0"}`, `{"type":0.0}`, `{"type":1,"event":{"type":0}}`} {
		require.Nil(t, answer(other), other)
	}
}

// Both ways: the library accepts what we sign, and we what is signed by the standard library, on which the library stands.
func TestDiscordSignature(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("discord")
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	secret := hex.EncodeToString(public)
	for _, key := range []string{hex.EncodeToString(private.Seed()), hex.EncodeToString(private)} {
		signed, err := s.Sign(source.SignInput{Body: []byte(`{"type":0}`), Secret: key, At: noon})
		require.NoError(t, err)
		request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(signed.Body))
		request.Header = signed.Header
		require.True(t, discordgo.VerifyInteraction(request, public))
		request = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"type":1}`))
		request.Header = signed.Header
		require.False(t, discordgo.VerifyInteraction(request, public))
	}
	body := `{"type":0}`
	right := hex.EncodeToString(ed25519.Sign(private, []byte("1772625600"+body)))
	request := func(timestamp, signature string, late time.Duration) source.Request {
		return source.Request{Header: headers("X-Signature-Timestamp", timestamp, "X-Signature-Ed25519", signature), Body: []byte(body), ReceivedAt: noon.Add(late)}
	}
	matched, err := s.Verify(request("1772625600", right, 15*time.Minute), []string{"", "garbage", strings.Repeat("0", 63) + "1", secret}, nil)
	require.NoError(t, err)
	require.Equal(t, 3, matched)
	for title, c := range map[string]struct {
		timestamp, signature string
		late                 time.Duration
		reason               string
	}{
		"OtherTime":   {"1772625601", right, 0, source.ReasonSignatureMismatch},
		"OtherBytes":  {"1772625600", strings.Repeat("0", 128), 0, source.ReasonSignatureMismatch},
		"Short":       {"1772625600", right[:126], 0, source.ReasonSignatureMalformed},
		"Long":        {"1772625600", right + "00", 0, source.ReasonSignatureMalformed},
		"Unsigned":    {"1772625600", "", 0, source.ReasonSignatureMissing},
		"NoTime":      {"", right, 0, source.ReasonTimestampMissing},
		"TimeInWords": {"now", right, 0, source.ReasonTimestampMalformed},
		"Late":        {"1772625600", right, 15*time.Minute + time.Second, source.ReasonTimestampStale},
		"Early":       {"1772625600", right, -6 * time.Minute, source.ReasonTimestampFuture},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			_, err := s.Verify(request(c.timestamp, c.signature, c.late), []string{secret}, nil)
			requireReason(t, err, c.reason)
		})
	}
	_, err = s.Verify(request("1772625600", right, 0), []string{"garbage", secret[:62]}, nil)
	requireReason(t, err, source.ReasonSecretMissing)
	require.NoError(t, s.CheckSecret(secret, nil))
	require.Error(t, s.CheckSecret(secret[:62], nil))
	require.Error(t, s.CheckSecret(hex.EncodeToString(private), nil), "a private key must not be stored")
}
