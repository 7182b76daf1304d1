package source_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v84/webhook"

	"sluice/api/source"
)

func configured(t *testing.T, name, settings string) (source.Source, source.Settings) {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found)
	set, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	return s, set
}

func TestTokenIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	pair := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	const token = "a-token-of-the-sender"
	for _, c := range []struct{ title, source, settings, secret, header, value, reason string }{
		{title: "Right", source: "basic", secret: "user:password", value: pair("user:password")},
		{title: "SchemeInAnyCase", source: "basic", secret: "user:password", value: "bASIC" + pair("user:password")[5:]},
		{title: "ColonInThePassword", source: "basic", secret: "user:pass:word", value: pair("user:pass:word")},
		{title: "ColonMoved", source: "basic", secret: "user:password", value: pair("userp:assword"), reason: source.ReasonSignatureMismatch},
		{title: "OtherUser", source: "basic", secret: "user:password", value: pair("admin:password"), reason: source.ReasonSignatureMismatch},
		{title: "OtherPassword", source: "basic", secret: "user:password", value: pair("user:passwore"), reason: source.ReasonSignatureMismatch},
		{title: "NoPassword", source: "basic", secret: "user:password", value: pair("user:"), reason: source.ReasonSignatureMismatch},
		{title: "NoColon", source: "basic", secret: "user:password", value: pair("user"), reason: source.ReasonSignatureMalformed},
		{title: "NoBase64", source: "basic", secret: "user:password", value: "Basic user:password", reason: source.ReasonSignatureMalformed},
		{title: "OtherScheme", source: "basic", secret: "user:password", value: "Bearer user:password", reason: source.ReasonSignatureMalformed},
		{title: "Absent", source: "basic", secret: "user:password", header: "X-Other", value: pair("user:password"), reason: source.ReasonSignatureMissing},
		{title: "SecretWithoutColon", source: "basic", secret: "password", value: pair("password:"), reason: source.ReasonSecretMissing},

		{title: "Right", source: "bearer", secret: token, value: "Bearer " + token},
		{title: "SchemeInAnyCase", source: "bearer", secret: token, value: "bearer " + token},
		{title: "NoScheme", source: "bearer", secret: token, value: token, reason: source.ReasonSignatureMalformed},
		{title: "OtherScheme", source: "bearer", secret: token, value: "Token " + token, reason: source.ReasonSignatureMalformed},
		{title: "NoToken", source: "bearer", secret: token, value: "Bearer ", reason: source.ReasonSignatureMalformed},
		{title: "TwoSpaces", source: "bearer", secret: token, value: "Bearer  " + token, reason: source.ReasonSignatureMismatch},
		{title: "Longer", source: "bearer", secret: token, value: "Bearer " + token + "r", reason: source.ReasonSignatureMismatch},
		{title: "Part", source: "bearer", secret: token, value: "Bearer " + token[:5], reason: source.ReasonSignatureMismatch},
		{title: "Header", source: "bearer", settings: `{"header": "x-gitlab-token"}`, secret: token, header: "X-Gitlab-Token", value: token},
		{title: "HeaderWithScheme", source: "bearer", settings: `{"header": "X-Token"}`, secret: token, header: "X-Token", value: "Bearer " + token,
			reason: source.ReasonSignatureMismatch},
		{title: "NoFallbackToAuthorization", source: "bearer", settings: `{"header": "X-Token"}`, secret: token, value: "Bearer " + token,
			reason: source.ReasonSignatureMissing},
		{title: "AuthorizationNamed", source: "bearer", settings: `{"header": "authorization"}`, secret: token, value: token, reason: source.ReasonSignatureMalformed},

		{title: "Basic", source: "servicenow", secret: "user:password", value: pair("user:password")},
		{title: "BearerAtBasic", source: "servicenow", secret: "user:password", value: "Bearer user:password", reason: source.ReasonSignatureMalformed},
		{title: "Bearer", source: "servicenow", settings: `{"auth": "bearer"}`, secret: "user:password", value: "Bearer user:password"},
		{title: "BasicAtBearer", source: "servicenow", settings: `{"auth": "bearer"}`, secret: "user:password", value: pair("user:password"),
			reason: source.ReasonSignatureMalformed},
		{title: "BasicAtHMAC", source: "servicenow", settings: `{"auth": "hmac_header", "signature_header": "X-Sig"}`, secret: "user:password",
			value: pair("user:password"), reason: source.ReasonSignatureMissing},
		{title: "OddHMAC", source: "servicenow", settings: `{"auth": "hmac_header", "signature_header": "X-Sig"}`, secret: "user:password",
			header: "X-Sig", value: "sha256=00", reason: source.ReasonSignatureMalformed},
	} {
		t.Run(c.source+"/"+c.title, func(t *testing.T) {
			t.Parallel()
			s, set := configured(t, c.source, c.settings)
			if c.header == "" {
				c.header = "Authorization"
			}
			_, err := s.Verify(source.Request{Header: headers(c.header, c.value), Body: []byte(`{}`)}, []string{c.secret}, set)
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
}

// What net/http makes of a user and a password is what is read.
func TestBasicIsThatOfNetHTTP(t *testing.T) {
	t.Parallel()
	s, set := configured(t, "basic", ``)
	for _, pair := range [][2]string{{"user", "a password"}, {"usér", "pässwörd:x"}} {
		secret := pair[0] + ":" + pair[1]
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(pair[0], pair[1])
		_, err := s.Verify(source.Request{Header: r.Header}, []string{secret}, set)
		require.NoError(t, err)
		signed, err := s.Sign(source.SignInput{Secret: secret, Settings: set})
		require.NoError(t, err)
		user, password, ok := (&http.Request{Header: signed.Header}).BasicAuth()
		require.True(t, ok)
		require.Equal(t, pair, [2]string{user, password})
	}
}

// The header that tells of a client's certificate proves nothing where a sender could have written it.
func TestClientCertificateIsTheProxysToTell(t *testing.T) {
	t.Parallel()
	s, set := configured(t, "mtls_header", `{"header": "X-Client-Cert"}`)
	fingerprint := strings.Repeat("0aB1", 16)
	of := headers("X-Client-Cert", fingerprint)
	_, err := s.Verify(source.Request{Proxy: of}, []string{fingerprint}, set)
	require.NoError(t, err)
	_, err = s.Verify(source.Request{Proxy: of}, []string{strings.ToLower(fingerprint)}, set)
	require.NoError(t, err)
	for _, r := range []source.Request{{Header: of}, {Header: of, Proxy: http.Header{}}, {Header: of, Proxy: headers("X-Client-Cert", "")}} {
		_, err = s.Verify(r, []string{fingerprint}, set)
		requireReason(t, err, source.ReasonSignatureMissing)
	}
	_, err = s.Verify(source.Request{Header: of, Proxy: headers("X-Client-Cert", strings.Repeat("00", 32))}, []string{fingerprint}, set)
	requireReason(t, err, source.ReasonSignatureMismatch)
	_, err = s.Verify(source.Request{Proxy: http.Header{"X-Client-Cert": {fingerprint, fingerprint}}}, []string{fingerprint}, set)
	requireReason(t, err, source.ReasonSignatureMalformed)
	require.Error(t, s.CheckSecret("a plain secret", set))
	_, faults := s.ParseSettings(nil)
	require.Equal(t, "header", faults[0].Place)
}

func TestServiceNowEvents(t *testing.T) {
	t.Parallel()
	const id = "9d385017c611228701d22104cc95c371"
	for _, c := range []struct {
		title, settings, body string
		want                  source.Event
		at                    string
	}{
		{title: "Record", body: `{"table":"incident","operation":"update","sys_id":"` + id + `","sys_updated_on":"2026-03-04 12:00:00","sys_mod_count":"7"}`,
			want: source.Event{Type: "incident.update", Entity: "incident:" + id, Sequence: new(int64(7))}, at: "2026-03-04T12:00:00Z"},
		{title: "Numbers", body: `{"sys_class_name":"incident","sys_id":"` + id + `","sys_updated_on":"2026-03-04T13:00:00+01:00","sys_mod_count":0}`,
			want: source.Event{Type: "incident", Entity: "incident:" + id, Sequence: new(int64(0))}, at: "2026-03-04T12:00:00Z"},
		{title: "TableOfTheSettings", settings: `{"table": "sn_customerservice_case"}`, body: `{"table":"x","operation":"insert","sys_id":"` + id + `"}`,
			want: source.Event{Type: "sn_customerservice_case.insert", Entity: "sn_customerservice_case:" + id}},
		{title: "NoTable", body: `{"operation":"insert","sys_id":"` + id + `"}`},
		{title: "DisplayValues", body: `{"table":"incident","sys_id":"` + id + `","sys_updated_on":"04-03-2026 12:00:00","sys_mod_count":"1,024"}`,
			want: source.Event{Type: "incident", Entity: "incident:" + id}},
		{title: "AnotherShape", body: `{"record":{"sys_id":"` + id + `"}}`},
		{title: "ExpressionsGoFirst", settings: `{"entity": "'task:' + payload.task", "type": "'escalated'", "sequence": "payload.n", "time": "payload.at"}`,
			body: `{"table":"incident","operation":"update","sys_id":"` + id + `","sys_updated_on":"2026-03-04 12:00:00","sys_mod_count":"7","task":"T1","n":8,"at":1772625601}`,
			want: source.Event{Type: "escalated", Entity: "task:T1", Sequence: new(int64(8))}, at: "2026-03-04T12:00:01Z"},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			s, set := configured(t, "servicenow", c.settings)
			events, err := s.Events(source.Request{Body: []byte(c.body)}, set)
			require.NoError(t, err)
			require.Regexp(t, "^sha256:", events[0].ID)
			events[0].ID = ""
			c.want.OccurredAt = at(t, c.at)
			require.Equal(t, []source.Event{c.want}, named(events))
		})
	}
	s, set := configured(t, "servicenow", `{"items": "payload.records", "id": "payload.sys_id + '/' + payload.sys_mod_count"}`)
	events, err := s.Events(source.Request{Body: []byte(`{"records":[{"table":"incident","sys_id":"a","sys_mod_count":"1"},{"table":"problem","sys_id":"b","sys_mod_count":"2"}]}`)}, set)
	require.NoError(t, err)
	require.Equal(t, []source.Event{
		{ID: "a/1", Type: "incident", Entity: "incident:a", Sequence: new(int64(1))}, {ID: "b/2", Type: "problem", Entity: "problem:b", Sequence: new(int64(2))},
	}, named(events))
	_, err = s.Events(source.Request{Body: []byte(`hello`)}, set)
	requireReason(t, err, source.ReasonPayloadMalformed)
}

func TestServiceNowHasOneProof(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("servicenow")
	for settings, place := range map[string]string{
		`{"auth": "none"}`:        "auth",
		`{"auth": ""}`:            "auth",
		`{"auth": "hmac_header"}`: "signature_header",
		`{"auth": "basic", "signature_header": "X-Sig"}`: "signature_header",
		`{"signature_header": "X-Sig"}`:                  "signature_header",
	} {
		_, faults := s.ParseSettings(json.RawMessage(settings))
		require.Len(t, faults, 1, settings)
		require.Equal(t, place, faults[0].Place, settings)
	}
	for settings, signed := range map[string]bool{``: false, `{"auth": "bearer"}`: false, `{"auth": "hmac_header", "signature_header": "X"}`: true} {
		s, set := configured(t, "servicenow", settings)
		require.Equal(t, signed, s.BodySigned(set))
		require.Equal(t, signed, s.IDSigned(set))
	}
	s, set := configured(t, "servicenow", `{"auth": "hmac_header", "signature_header": "X", "id": "header['x-id']"}`)
	require.False(t, s.IDSigned(set))
	require.False(t, s.BodySigned(nil))
}

func TestGenericKindsNeedTheirSettings(t *testing.T) {
	t.Parallel()
	for name := range namings {
		s, _ := source.Get(name)
		r := source.Request{Header: headers("Authorization", "Bearer x"), Body: []byte(`{}`)}
		_, err := s.Verify(r, []string{"a plain secret"}, nil)
		requireReason(t, err, source.ReasonSettingsInvalid)
		_, err = s.Events(r, nil)
		requireReason(t, err, source.ReasonSettingsInvalid)
		_, err = s.Sign(source.SignInput{Secret: "a plain secret"})
		requireReason(t, err, source.ReasonSettingsInvalid)
	}
}

// A list is what Stripe's own library signs and reads.
func TestListIsThatOfStripesLibrary(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "Stripe-Signature", "signature_key": "v1", "timestamp_key": "t", "signed_string": "{timestamp}.{body}"}`)
	const secret = "whsec_of_the_library"
	now := time.Now()
	theirs := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(`{"id":"evt_1"}`), Secret: secret, Timestamp: now})
	_, err := s.Verify(source.Request{Header: headers("Stripe-Signature", theirs.Header), Body: theirs.Payload, ReceivedAt: now}, []string{secret}, set)
	require.NoError(t, err)
	ours, err := s.Sign(source.SignInput{Body: []byte(`{"id":"evt_2"}`), Secret: secret, At: now, Settings: set})
	require.NoError(t, err)
	require.NoError(t, webhook.ValidatePayload(ours.Body, ours.Header.Get("Stripe-Signature"), secret))
}

func TestSecretOfAGenericKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source, settings, secret string
		good                     bool
	}{
		{"basic", ``, "user:password", true},
		{"basic", ``, "password", false},
		{"basic", ``, ":password", false},
		{"basic", ``, "user:short", false},
		{"bearer", ``, "a-token", false},
		{"bearer", ``, "a-longer-token", true},
		{"mtls_header", `{"header": "X"}`, strings.Repeat("AB:", 31) + "AB", true},
		{"mtls_header", `{"header": "X"}`, strings.Repeat("ab", 20), false},
		{"servicenow", ``, "a-longer-token", false},
		{"servicenow", `{"auth": "bearer"}`, "a-longer-token", true},
		{"servicenow", `{"auth": "hmac_header", "signature_header": "X"}`, "short", false},
	} {
		s, set := configured(t, c.source, c.settings)
		require.Equal(t, c.good, s.CheckSecret(c.secret, set) == nil, "%s %s %s", c.source, c.settings, c.secret)
	}
}
