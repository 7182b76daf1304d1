package source_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twilio/twilio-go/client"

	"sluice/api/source"
)

const twilioSecret = "0123456789abcdef0123456789abcdef"

// twilioRequest signs a text and sends a body with it.
func twilioRequest(requestURL, signed, body string) source.Request {
	mac := hmac.New(sha1.New, []byte(twilioSecret))
	mac.Write([]byte(signed))
	return source.Request{
		Method: http.MethodPost, URL: requestURL, Body: []byte(body), ReceivedAt: noon,
		Header: headers("X-Twilio-Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil))),
	}
}

func TestTwilioSignedText(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("twilio")
	hash := sha256.Sum256([]byte(`{"a":1}`))
	hashed := publicURL + "?bodySHA256=" + hex.EncodeToString(hash[:])
	const host = "https://sluice.example.test"
	for _, c := range []struct {
		title, url, signed, body string
		good                     bool
	}{
		{"Form", publicURL, publicURL + "A1B2", "B=2&A=1", true},
		{"Query", publicURL + "?x=%2F&y", publicURL + "?x=%2F&yA1", "A=1", true},
		{"Escaped", publicURL, publicURL + "Bodya+b & c=d é", "Body=a%2Bb+%26+c%3Dd+%C3%A9", true},
		{"ValueEmpty", publicURL, publicURL + "AB2", "A=&B=2", true},
		{"NamesInByteOrder", publicURL, publicURL + "B2a1", "a=1&B=2", true},
		{"NoFields", publicURL, publicURL, "", true},
		{"RepeatedIsSignedSortedOnce", publicURL, publicURL + "A1A2", "A=2&A=1&A=2", true},
		{"RepeatedFirstAlone", publicURL, publicURL + "A2", "A=2&A=1", false},
		{"PortAdded", publicURL, host + ":443/in/tokenA1", "A=1", true},
		{"PortTaken", host + ":443/in/token", publicURL + "A1", "A=1", true},
		{"PlainPort", "http://sluice.example.test/in/token", "http://sluice.example.test:80/in/tokenA1", "A=1", true},
		{"OtherPort", publicURL, host + ":8443/in/tokenA1", "A=1", false},
		{"OtherHost", publicURL, "https://other.example.test/in/tokenA1", "A=1", false},
		{"OtherScheme", publicURL, "http://sluice.example.test/in/tokenA1", "A=1", false},
		{"QueryNotSigned", publicURL + "?x=1", publicURL + "A1", "A=1", false},
		{"FieldNotSigned", publicURL, publicURL + "A1", "A=1&B=2", false},
		{"NoForm", publicURL, publicURL, "%zz", false},
		{"JSON", hashed, hashed, `{"a":1}`, true},
		{"JSONWithPort", hashed, host + ":443" + hashed[len(host):], `{"a":1}`, true},
		{"JSONOfAnotherHash", hashed, hashed, `{"a":2}`, false},
		{"HashTwice", hashed + "&bodySHA256=00", hashed + "&bodySHA256=00", `{"a":1}`, false},
		{"HashEmpty", publicURL + "?bodySHA256=", publicURL + "?bodySHA256=", `{"a":1}`, false},
		{"HashInABrokenQuery", hashed + "&%zz", hashed + "&%zz", `{"a":1}`, false},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			_, err := s.Verify(twilioRequest(c.url, c.signed, c.body), []string{twilioSecret}, nil)
			require.Equal(t, c.good, err == nil, "%v", err)
			if !c.good {
				requireReason(t, err, source.ReasonSignatureMismatch)
			}
		})
	}
	for value, reason := range map[string]string{
		"": source.ReasonSignatureMissing, "AAAA": source.ReasonSignatureMalformed, "not base64": source.ReasonSignatureMalformed,
	} {
		r := twilioRequest(publicURL, publicURL, "")
		r.Header.Set("X-Twilio-Signature", value)
		_, err := s.Verify(r, []string{twilioSecret}, nil)
		requireReason(t, err, reason)
	}
}

func TestTwilioAndItsLibraryAgree(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("twilio")
	library := client.NewRequestValidator(twilioSecret)
	for _, sample := range s.Samples {
		r := subject{Source: s}.deliver(t, sample, "evt_0001", source.Trial{Sign: twilioSecret})
		require.True(t, library.ValidateBody(r.URL, r.Body, r.Header.Get("X-Twilio-Signature")))
		require.False(t, library.ValidateBody(r.URL+"x", r.Body, r.Header.Get("X-Twilio-Signature")))
	}
	for _, c := range []struct{ url, signed, body string }{
		{publicURL, publicURL + "A1B2", "B=2&A=1"}, {publicURL, "https://sluice.example.test:443/in/tokenA1", "A=1"}, {publicURL, publicURL + "A1", "A=2"},
	} {
		r := twilioRequest(c.url, c.signed, c.body)
		_, err := s.Verify(r, []string{twilioSecret}, nil)
		require.Equal(t, library.ValidateBody(r.URL, r.Body, r.Header.Get("X-Twilio-Signature")), err == nil, c.signed)
	}
}

func TestTwilioFormEvents(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("twilio")
	for _, c := range []struct{ title, form, kind, at, entity, payload string }{
		{"Inbound", "MessageSid=SM1&SmsStatus=received&Body=hi", "message.received", "", "message:SM1", `{"MessageSid":"SM1","SmsStatus":"received","Body":"hi"}`},
		{"Status", "MessageSid=SM1&SmsStatus=sent&MessageStatus=delivered", "message.delivered", "", "message:SM1", ``},
		{"Call", "CallSid=CA1&CallStatus=completed&Timestamp=Wed%2C+04+Mar+2026+11%3A00%3A00+%2B0000", "call.completed", "2026-03-04T11:00:00Z", "call:CA1", ``},
		{"Recording", "CallSid=CA1&RecordingSid=RE1&RecordingStatus=completed", "recording.completed", "", "call:CA1", ``},
		{"Conference", "ConferenceSid=CF1&CallSid=CA1&StatusCallbackEvent=participant-join", "conference.participant-join", "", "conference:CF1", ``},
		{"Conversation", "ConversationSid=CH1&EventType=onMessageAdded", "onMessageAdded", "", "conversation:CH1", ``},
		{"Task", "TaskSid=WT1&WorkerSid=WK1&EventType=reservation.accepted&Timestamp=1772622000", "reservation.accepted", "2026-03-04T11:00:00Z", "task:WT1", ``},
		{"Unknown", "Odd=1&Odd=2&Odd=1", "", "", "", `{"Odd":["1","2"]}`},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			r := twilioRequest(publicURL, "", c.form)
			derived, err := s.Events(r, nil)
			require.NoError(t, err)
			require.Contains(t, derived[0].ID, "sha256:")
			r.Header.Set("I-Twilio-Idempotency-Token", "token-1")
			events, err := s.Events(r, nil)
			require.NoError(t, err)
			require.Equal(t, []source.Event{{ID: "token-1", Type: c.kind, OccurredAt: at(t, c.at), Entity: c.entity}}, named(events))
			require.Equal(t, derived[0].Once, events[0].Once)
			if c.payload != "" {
				require.JSONEq(t, c.payload, string(events[0].Payload))
			}
		})
	}
	events, err := s.Events(twilioRequest(publicURL, "", "CallSid=CA1&CallStatus=ringing&SequenceNumber=2"), nil)
	require.NoError(t, err)
	require.Equal(t, int64(2), *events[0].Sequence)
	_, err = s.Events(twilioRequest(publicURL, "", ""), nil)
	requireReason(t, err, source.ReasonPayloadMalformed)
}

// Names and values are signed without anything between them, so a form can be cut elsewhere. The signature is taken once.
func TestTwilioFormCutElsewhereHasTheOnceOfTheGenuine(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("twilio")
	once := map[string]bool{}
	for _, form := range []url.Values{{"Body": {"hello"}, "From": {"+1"}}, {"Bodyhello": {""}, "From": {"+1"}}, {"Body": {"helloFrom+1"}}} {
		r := twilioRequest(publicURL, publicURL+"BodyhelloFrom+1", form.Encode())
		_, err := s.Verify(r, []string{twilioSecret}, nil)
		require.NoError(t, err)
		events, err := s.Events(r, nil)
		require.NoError(t, err)
		once[events[0].Once] = true
	}
	require.Len(t, once, 1)
}

func TestTwilioEventStream(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("twilio")
	body := `[{"specversion":"1.0","type":"com.twilio.messaging.message.delivered","source":"/2010-04-01/Accounts/AC1/Messages/SM1.json","id":"EZ1",
		"time":"2026-03-04T11:00:00.5Z","data":{"messageSid":"SM1"}},
		{"specversion":"1.0","type":"com.twilio.voice.status-callback.call.completed","source":"/x","id":"EZ2","time":"2026-03-04T11:00:01Z","data":{}}]`
	hash := sha256.Sum256([]byte(body))
	signed := publicURL + "?bodySHA256=" + hex.EncodeToString(hash[:])
	r := twilioRequest(signed, signed, body)
	_, err := s.Verify(r, []string{twilioSecret}, nil)
	require.NoError(t, err)
	events, err := s.Events(r, nil)
	require.NoError(t, err)
	require.Equal(t, []source.Event{
		{ID: "EZ1", Type: "com.twilio.messaging.message.delivered", OccurredAt: time.Date(2026, 3, 4, 11, 0, 0, 5e8, time.UTC), Entity: "message:SM1"},
		{ID: "EZ2", Type: "com.twilio.voice.status-callback.call.completed", OccurredAt: time.Date(2026, 3, 4, 11, 0, 1, 0, time.UTC), Entity: "source:/x"},
	}, named(events))
	require.NotEqual(t, events[0].Once, events[1].Once)
	require.Contains(t, string(events[1].Payload), "EZ2")

	for _, bad := range []string{"[]", "[1]", "x", "1"} {
		_, err := s.Events(twilioRequest(signed, signed, bad), nil)
		requireReason(t, err, source.ReasonPayloadMalformed)
	}
	one, err := s.Events(twilioRequest(signed, signed, `{"EventType":"x"}`), nil)
	require.NoError(t, err)
	require.Equal(t, "x", one[0].Type)
	require.Contains(t, one[0].ID, "sha256:")
	require.Equal(t, `<?xml version="1.0" encoding="UTF-8"?><Response/>`, string(s.Accepted.Body))
}
