package source_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func hmacSource(t *testing.T, settings string) (source.Source, source.Settings) {
	t.Helper()
	s, _ := source.Get("hmac")
	parsed, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	return s, parsed
}

func TestHMACEvents(t *testing.T) {
	t.Parallel()
	const (
		body = `{"id":"order-1","kind":"order.paid","n":9007199254740993,"u":18446744073709551615,"big":184467440737095516150,"f":1.5,
			"none":null,"flag":true,"at":"2026-03-04T11:00:00+01:00","unix":1772625600,"millis":1772625600123,"list":[{"id":7}]}`
		// of `{}` and of a text that is not JSON
		emptyHash = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
		textHash  = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	)
	for _, c := range []struct {
		title, settings, body string
		want                  source.Event
		at, reason            string
	}{
		{title: "NoExpressions", body: `{}`, want: source.Event{ID: emptyHash}},
		{title: "NoExpressionsNoJSON", body: `hello`, want: source.Event{ID: textHash}},
		{title: "HeaderExpressionNoJSON", settings: `"type": "header['x-kind']"`, body: `hello`, want: source.Event{ID: textHash, Type: "kind-of-header"}},
		{title: "IDHeader", settings: `"id_header": "X-Id"`, body: `{}`, want: source.Event{ID: "id-of-header"}},
		{title: "IDHeaderAbsent", settings: `"id_header": "X-Other"`, body: `{}`, reason: source.ReasonIDMissing},
		{title: "ExpressionBeforeHeader", settings: `"id_header": "X-Id", "id": "payload.id"`, body: body, want: source.Event{ID: "order-1"}},
		{title: "All", settings: `"id": "payload.id", "type": "payload.kind", "time": "payload.at", "entity": "'order:' + string(payload.n)"`, body: body,
			want: source.Event{ID: "order-1", Type: "order.paid", Entity: "order:9007199254740993"}, at: "2026-03-04T10:00:00Z"},
		{title: "WholeNumber", settings: `"id": "payload.n"`, body: body, want: source.Event{ID: "9007199254740993"}},
		{title: "Unsigned64", settings: `"id": "payload.u"`, body: body, want: source.Event{ID: "18446744073709551615"}},
		{title: "BeyondUnsigned64", settings: `"id": "payload.big"`, body: body, want: source.Event{ID: "184467440737095516150"}},
		{title: "TextOfBeyondUnsigned64", settings: `"id": "'x' + string(payload.big)"`, body: body, want: source.Event{ID: "x184467440737095516150"}},
		{title: "FloatID", settings: `"id": "payload.f"`, body: body, reason: source.ReasonIDMissing},
		{title: "BoolID", settings: `"id": "payload.flag"`, body: body, reason: source.ReasonIDMissing},
		{title: "NullID", settings: `"id": "payload.none"`, body: body, reason: source.ReasonIDMissing},
		{title: "AbsentID", settings: `"id": "payload.nowhere.id"`, body: body, reason: source.ReasonIDMissing},
		{title: "AbsentElse", settings: `"type": "payload.nowhere", "time": "payload.nowhere", "entity": "payload.nowhere.id", "id": "payload.id"`, body: body,
			want: source.Event{ID: "order-1"}},
		{title: "Optional", settings: `"id": "payload.?nowhere.?id.orValue(payload.id)"`, body: body, want: source.Event{ID: "order-1"}},
		{title: "Strings", settings: `"id": "payload.kind.split('.')[0].upperAscii()"`, body: body, want: source.Event{ID: "ORDER"}},
		{title: "Array", settings: `"id": "payload[0].id"`, body: `[{"id":7}]`, want: source.Event{ID: "7"}},
		{title: "UnixTime", settings: `"id": "payload.id", "time": "payload.unix"`, body: body, want: source.Event{ID: "order-1"}, at: "2026-03-04T12:00:00Z"},
		{title: "UnixMillis", settings: `"id": "payload.id", "time": "payload.millis"`, body: body, want: source.Event{ID: "order-1"}, at: "2026-03-04T12:00:00.123Z"},
		{title: "Timestamp", settings: `"id": "payload.id", "time": "timestamp(payload.at)"`, body: body, want: source.Event{ID: "order-1"}, at: "2026-03-04T10:00:00Z"},
		{title: "UnixTimeInText", settings: `"id": "payload.id", "time": "string(payload.unix)"`, body: body, want: source.Event{ID: "order-1"}, at: "2026-03-04T12:00:00Z"},
		{title: "MillisInText", settings: `"id": "payload.id", "time": "string(payload.millis)"`, body: body, want: source.Event{ID: "order-1"}, at: "2026-03-04T12:00:00.123Z"},
		{title: "DateIsNoUnixTime", settings: `"id": "payload.id", "time": "'20260304'"`, body: body, want: source.Event{ID: "order-1"}},
		{title: "Sequence", settings: `"id": "payload.id", "sequence": "payload.n"`, body: body, want: source.Event{ID: "order-1", Sequence: new(int64(9007199254740993))}},
		{title: "SequenceInText", settings: `"id": "payload.id", "sequence": "'-7'"`, body: body, want: source.Event{ID: "order-1", Sequence: new(int64(-7))}},
		{title: "SequenceZero", settings: `"id": "payload.id", "sequence": "0"`, body: body, want: source.Event{ID: "order-1", Sequence: new(int64(0))}},
		{title: "SequenceOfAFloat", settings: `"id": "payload.id", "sequence": "payload.f"`, body: body, want: source.Event{ID: "order-1"}},
		{title: "SequenceBeyondSigned64", settings: `"id": "payload.id", "sequence": "payload.u"`, body: body, want: source.Event{ID: "order-1"}},
		{title: "SequenceAbsent", settings: `"id": "payload.id", "sequence": "payload.nowhere"`, body: body, want: source.Event{ID: "order-1"}},
		{title: "NoJSON", settings: `"type": "payload.kind"`, body: `hello`, reason: source.ReasonPayloadMalformed},
		{title: "TwoDocuments", settings: `"type": "payload.kind"`, body: `{} {}`, reason: source.ReasonPayloadMalformed},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			settings := `{"signature_header": "X-Sig"`
			if c.settings != "" {
				settings += ", " + c.settings
			}
			s, set := hmacSource(t, settings+"}")
			events, err := s.Events(source.Request{
				Header: http.Header{"X-Id": {"id-of-header"}, "X-Kind": {"kind-of-header"}}, Body: []byte(c.body),
			}, set)
			if c.reason != "" {
				requireReason(t, err, c.reason)
				return
			}
			require.NoError(t, err)
			c.want.OccurredAt = at(t, c.at)
			require.Equal(t, []source.Event{c.want}, named(events))
		})
	}
}

// An expression that would run for long is stopped, and gives nothing.
func TestHMACExpressionIsBounded(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "X-Sig",
		"type": "string(payload.exists(a, payload.exists(b, a + b < 0)))", "entity": "'small:' + string(size(payload))"}`)
	events, err := s.Events(source.Request{Body: []byte("[1" + strings.Repeat(",1", 999) + "]")}, set)
	require.NoError(t, err)
	require.Empty(t, events[0].Type)
	require.Equal(t, "small:1000", events[0].Entity)
}

func TestHMACSettingsFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		title, settings string
		places          []string
	}{
		{"Empty", ``, []string{"signature_header"}},
		{"EmptyObject", `{}`, []string{"signature_header"}},
		{"NoObject", `[]`, []string{""}},
		{"NoJSON", `{`, []string{""}},
		{"Unknown", `{"signature_header": "X", "order": "latest", "secret": "s"}`, []string{"order", "secret"}},
		{"OtherCase", `{"Signature_Header": "X"}`, []string{"Signature_Header", "signature_header"}},
		{"WrongTypes", `{"signature_header": 1, "prefix": [], "algorithm": true, "signed_string": {}, "id": 5}`,
			[]string{"algorithm", "id", "prefix", "signature_header", "signed_string"}},
		{"NoHeaderName", `{"signature_header": "X Sig", "id_header": "X:Id", "timestamp_header": "é"}`,
			[]string{"id_header", "signature_header", "timestamp_header"}},
		{"NoChoice", `{"signature_header": "X", "algorithm": "md5", "encoding": "hexx", "secret_encoding": "", "timestamp_unit": "us"}`,
			[]string{"algorithm", "encoding", "secret_encoding", "timestamp_unit"}},
		{"SignedStringWithoutBody", `{"signature_header": "X", "signed_string": "hello"}`, []string{"signed_string"}},
		{"EmptySignedString", `{"signature_header": "X", "signed_string": ""}`, []string{"signed_string"}},
		{"UnknownSlot", `{"signature_header": "X", "signed_string": "{body}{nonce}"}`, []string{"signed_string"}},
		{"LooseBrace", `{"signature_header": "X", "signed_string": "{body}}"}`, []string{"signed_string"}},
		{"SlotTwice", `{"signature_header": "X", "signed_string": "{body}{body}"}`, []string{"signed_string"}},
		{"TimestampWithoutHeader", `{"signature_header": "X", "signed_string": "{timestamp}.{body}"}`, []string{"timestamp_header"}},
		{"TimestampUnsigned", `{"signature_header": "X", "timestamp_header": "X-Time"}`, []string{"timestamp_header"}},
		{"SameHeaderTwice", `{"signature_header": "X-Sig", "id_header": "x-sig", "timestamp_header": "X-SIG", "signed_string": "{timestamp}{body}"}`,
			[]string{"id_header", "timestamp_header"}},
		{"IDWithoutHeader", `{"signature_header": "X", "signed_string": "{id}.{body}"}`, []string{"id_header"}},
		{"BadExpressions", `{"signature_header": "X", "id": "payload.", "type": "nothing.here", "time": "true", "entity": "1.5", "sequence": "2.5", "items": "'x'"}`,
			[]string{"entity", "id", "items", "sequence", "time", "type"}},
		{"ItemsWithoutID", `{"signature_header": "X", "items": "payload", "id_header": "Y"}`, []string{"id"}},
		{"ItemsWithOneIDForAll", `{"signature_header": "X", "items": "payload", "id": "header['y']"}`, []string{"id"}},
		{"NoBody", `{"signature_header": "X", "body": "xml"}`, []string{"body"}},
		{"TwoTimestamps", `{"signature_header": "X", "signature_key": "v1", "timestamp_key": "t", "timestamp_header": "Y", "signed_string": "{timestamp}{body}"}`,
			[]string{"timestamp_header"}},
		{"TimestampOfListUnsigned", `{"signature_header": "X", "signature_key": "v1", "timestamp_key": "t"}`, []string{"timestamp_key"}},
		{"ListWithoutKey", `{"signature_header": "X", "timestamp_key": "t", "list_separator": ";", "signed_string": "{timestamp}{body}"}`,
			[]string{"list_separator", "timestamp_key"}},
		{"OneKeyForTwo", `{"signature_header": "X", "signature_key": "t", "timestamp_key": "t", "signed_string": "{timestamp}{body}"}`, []string{"timestamp_key"}},
		{"OddKeysAndSeparator", `{"signature_header": "X", "signature_key": "v=1", "timestamp_key": "t,", "list_separator": "="}`,
			[]string{"list_separator", "signature_key", "timestamp_key"}},
		{"LongSeparator", `{"signature_header": "X", "signature_key": "v1", "list_separator": ", "}`, []string{"list_separator"}},
		{"PrefixInList", `{"signature_header": "X", "signature_key": "v1", "prefix": "sha256="}`, []string{"prefix"}},
		{"ToleranceOfNoTimestamp", `{"signature_header": "X", "tolerance_past_seconds": 5, "tolerance_future_seconds": 5}`,
			[]string{"tolerance_future_seconds", "tolerance_past_seconds"}},
		{"ToleranceOutOfReach", `{"signature_header": "X", "timestamp_header": "T", "signed_string": "{timestamp}{body}", "tolerance_past_seconds": 604801, "tolerance_future_seconds": 0}`,
			[]string{"tolerance_future_seconds", "tolerance_past_seconds"}},
		{"ToleranceNoWholeNumber", `{"signature_header": "X", "timestamp_header": "T", "signed_string": "{timestamp}{body}", "tolerance_past_seconds": 1.5, "tolerance_future_seconds": "9"}`,
			[]string{"tolerance_future_seconds", "tolerance_past_seconds"}},
		{"LongTexts", `{"signature_header": "` + strings.Repeat("x", 65) + `", "prefix": "` + strings.Repeat("x", 33) + `", "id": "` + strings.Repeat("x", 1001) + `"}`,
			[]string{"id", "prefix", "signature_header"}},
		{"ControlCharacters", `{"signature_header": "X", "prefix": "\u0000"}`, []string{"prefix"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			s, _ := source.Get("hmac")
			settings, faults := s.ParseSettings(json.RawMessage(c.settings))
			require.Nil(t, settings)
			var places []string
			for _, fault := range faults {
				require.NotEmpty(t, fault.Message)
				places = append(places, fault.Place)
			}
			require.Equal(t, c.places, places, "%v", faults)
		})
	}
}

func TestHMACSettingsDecideWhatIsSigned(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]struct{ idSigned, timed bool }{
		`{"signature_header": "X"}`:                                                                {true, false},
		`{"signature_header": "X", "id_header": "Y"}`:                                              {false, false},
		`{"signature_header": "X", "id_header": "Y", "signed_string": "{id}{body}"}`:               {true, false},
		`{"signature_header": "X", "id": "payload.id"}`:                                            {true, false},
		`{"signature_header": "X", "id": "header['y']"}`:                                           {false, false},
		`{"signature_header": "X", "id": "payload.id", "type": "header['y']"}`:                     {true, false},
		`{"signature_header": "X", "id": "payload.id + header.y"}`:                                 {false, false},
		`{"signature_header": "X", "items": "payload", "id": "payload.id"}`:                        {true, false},
		`{"signature_header": "X", "items": "payload[header.y]", "id": "payload.id"}`:              {false, false},
		`{"signature_header": "X", "timestamp_header": "T", "signed_string": "{timestamp}{body}"}`: {true, true},
	} {
		s, set := hmacSource(t, settings)
		require.Equal(t, want.idSigned, s.IDSigned(set), settings)
		require.Equal(t, want.timed, s.Window(set).Signed(), settings)
	}
	s, _ := source.Get("hmac")
	require.False(t, s.IDSigned(nil))
}

func TestHMACSecretFitsItsEncoding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		encoding, secret string
		good             bool
	}{
		{"raw", "a plain secret", true},
		{"raw", "short", false},
		{"raw", " spaces around it ", false},
		{"hex", "00112233445566778899aabbccddeeff", true},
		{"hex", "not hex at all!!", false},
		{"hex", "0011223344", false},
		{"base64", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true},
		{"base64", "*************", false},
		{"whsec", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true},
		{"whsec", "whsec_", false},
		{"base64url", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_", true},
		{"base64url", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAA==", true},
		{"base64url", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa+/", false},
	} {
		s, set := hmacSource(t, `{"signature_header": "X", "secret_encoding": "`+c.encoding+`"}`)
		err := s.CheckSecret(c.secret, set)
		require.Equal(t, c.good, err == nil, "%s %s", c.encoding, c.secret)
	}
}

// listRequest signs nothing: its header is given.
func listRequest(value string, seconds int64) source.Request {
	return source.Request{Header: http.Header{"X-Sig": {value}}, Body: []byte(`{"id":"evt_test","object":"event","type":"x.y"}`), ReceivedAt: time.Unix(seconds, 0)}
}

// The list is Stripe's, whose vector is known from elsewhere.
func TestHMACListOfSignatures(t *testing.T) {
	t.Parallel()
	const (
		secret = "whsec_test_secret"
		mac    = "5be01512f437c787c6dc39b4d461cdcb63c1bae8e83860606a63040eac1f0e31"
		other  = "6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
		signed = 1735689600
		list   = `{"signature_header": "X-Sig", "signature_key": "v1", "timestamp_key": "t", "signed_string": "{timestamp}.{body}"}`
	)
	seventeen := "t=1735689600" + strings.Repeat(",v1="+mac, 17)
	for _, c := range []struct{ title, value, reason string }{
		{title: "One", value: "t=1735689600,v1=" + mac},
		{title: "OtherOrder", value: "v1=" + mac + ",t=1735689600"},
		{title: "Spaces", value: "t=1735689600, v1=" + mac + " "},
		{title: "UnknownNames", value: "t=1735689600,v0=" + other + ",v1=" + mac + ",x=,y=a=b"},
		{title: "SeveralWithTheRightOneLast", value: "t=1735689600,v1=00,v1=zz,v1=" + other + ",v1=" + mac},
		{title: "SixteenSignatures", value: seventeen[:len(seventeen)-len(",v1="+mac)]},
		{title: "SeventeenSignatures", value: seventeen, reason: source.ReasonSignatureMalformed},
		{title: "Wrong", value: "t=1735689600,v1=" + other, reason: source.ReasonSignatureMismatch},
		{title: "UnderAnotherName", value: "t=1735689600,v0=" + mac, reason: source.ReasonSignatureMissing},
		{title: "NamesHaveCase", value: "t=1735689600,V1=" + mac, reason: source.ReasonSignatureMissing},
		{title: "NoneReadable", value: "t=1735689600,v1=00,v1=" + mac[:62], reason: source.ReasonSignatureMalformed},
		{title: "NoName", value: "t=1735689600," + mac, reason: source.ReasonSignatureMalformed},
		{title: "EmptyName", value: "t=1735689600,=" + mac, reason: source.ReasonSignatureMalformed},
		{title: "EndsOpen", value: "t=1735689600,v1=" + mac + ",", reason: source.ReasonSignatureMalformed},
		{title: "OtherSeparator", value: "t=1735689600;v1=" + mac, reason: source.ReasonSignatureMissing},
		{title: "NoTime", value: "v1=" + mac, reason: source.ReasonTimestampMissing},
		{title: "EmptyTime", value: "t=,v1=" + mac, reason: source.ReasonTimestampMissing},
		{title: "TwoTimes", value: "t=1735689600,t=1735689600,v1=" + mac, reason: source.ReasonTimestampMalformed},
		{title: "OddTime", value: "t=1735689600.0,v1=" + mac, reason: source.ReasonTimestampMalformed},
		{title: "AnotherTime", value: "t=1735689601,v1=" + mac, reason: source.ReasonSignatureMismatch},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			s, set := hmacSource(t, list)
			matched, err := s.Verify(listRequest(c.value, signed), []string{secret}, set)
			if c.reason == "" {
				require.NoError(t, err)
				require.Zero(t, matched)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
}

func TestHMACTolerancesAreApart(t *testing.T) {
	t.Parallel()
	const value, signed = "t=1735689600,v1=5be01512f437c787c6dc39b4d461cdcb63c1bae8e83860606a63040eac1f0e31", 1735689600
	s, set := hmacSource(t, `{"signature_header": "X-Sig", "signature_key": "v1", "timestamp_key": "t", "signed_string": "{timestamp}.{body}",
		"tolerance_past_seconds": 86400, "tolerance_future_seconds": 10}`)
	require.Equal(t, source.Window{Past: 24 * time.Hour, Future: 10 * time.Second}, s.Window(set))
	for received, reason := range map[int64]string{
		signed + 86400: "", signed + 86401: source.ReasonTimestampStale, signed - 10: "", signed - 11: source.ReasonTimestampFuture,
	} {
		_, err := s.Verify(listRequest(value, received), []string{"whsec_test_secret"}, set)
		if reason == "" {
			require.NoError(t, err)
			continue
		}
		requireReason(t, err, reason)
	}
}

func TestHMACSignedTimeInRFC3339(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "timestamp_unit": "rfc3339", "signed_string": "{timestamp}{body}"}`)
	one := subject{Source: s, settings: set}
	r := one.deliver(t, s.Samples[0], "id-1", source.Trial{Sign: "a plain secret"})
	require.Equal(t, "2026-03-04T12:00:00Z", r.Header.Get("X-Time"))
	for _, odd := range []string{"1772625600", "2026-03-04", "2026-03-04 12:00:00Z", "now"} {
		r.Header.Set("X-Time", odd)
		_, err := s.Verify(r, []string{"a plain secret"}, set)
		requireReason(t, err, source.ReasonTimestampMalformed)
	}
	r.Header.Set("X-Time", "2026-03-04T13:00:00+01:00") // the same time in other bytes
	_, err := s.Verify(r, []string{"a plain secret"}, set)
	requireReason(t, err, source.ReasonSignatureMismatch)
}

func TestHMACSecretPrefixIsNoPartOfTheKey(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "X-Sig", "secret_prefix": "key_", "secret_encoding": "hex"}`)
	_, plain := hmacSource(t, `{"signature_header": "X-Sig", "secret_encoding": "hex"}`)
	one := subject{Source: s, settings: plain}
	r := one.deliver(t, s.Samples[0], "id-1", source.Trial{Sign: "00112233445566778899aabbccddeeff"})
	for _, secret := range []string{"key_00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff"} {
		require.NoError(t, s.CheckSecret(secret, set))
		_, err := s.Verify(r, []string{secret}, set)
		require.NoError(t, err)
	}
	require.Error(t, s.CheckSecret("key_", set))
	require.Error(t, s.CheckSecret("key_key_00112233445566778899aabbccddeeff", set))
}
