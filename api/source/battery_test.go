package source_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

const publicURL = "https://sluice.example.test/in/token"

// subject is a source with settings under which the battery tries it.
type subject struct {
	source.Source
	title    string
	settings source.Settings
	secrets  []string // three, fit for the settings
}

// settingsTried has the settings for the sources that need some; every other source is tried without.
var settingsTried = map[string]map[string]string{
	"hmac": {
		"BodyOnly":  `{"signature_header": "X-Sig"}`,
		"Timestamp": `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "signed_string": "{timestamp}.{body}", "algorithm": "sha512", "encoding": "base64"}`,
		"Millis":    `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "timestamp_unit": "ms", "signed_string": "v0:{timestamp}:{body}", "prefix": "v0="}`,
		"ID":        `{"signature_header": "X-Sig", "id_header": "X-Id", "signed_string": "{id}.{body}", "encoding": "base64url", "secret_encoding": "base64"}`,
		"URL":       `{"signature_header": "X-Sig", "signed_string": "{method}\n{url}\n{body}", "algorithm": "sha1", "secret_encoding": "hex", "id": "payload.id", "type": "payload.type"}`,
		"Prefixed":  `{"signature_header": "X-Sig", "secret_encoding": "whsec", "id": "payload.id", "type": "payload.type", "time": "payload.created_at", "entity": "'thing:' + string(payload.data.id)"}`,
	},
}

func subjects(t *testing.T) []subject {
	t.Helper()
	var all []subject
	for _, s := range source.All() {
		tried, found := settingsTried[s.Name]
		if !found {
			tried = map[string]string{"": ""}
		}
		for title, raw := range tried {
			settings, faults := s.ParseSettings(json.RawMessage(raw))
			require.Empty(t, faults)
			one := subject{Source: s, title: s.Name + title, settings: settings}
			for i := range 3 {
				one.secrets = append(one.secrets, secretFor(t, s, i))
				require.NoError(t, s.CheckSecret(one.secrets[i], settings))
			}
			all = append(all, one)
		}
	}
	return all
}

// secretFor makes a secret where the source lets us, else one in the shape of the source's own.
func secretFor(t *testing.T, s source.Source, i int) string {
	t.Helper()
	if s.NewSecret == nil {
		return "whsec_" + strings.Repeat(string(rune('a'+i)), 32)
	}
	secret, err := s.NewSecret()
	require.NoError(t, err)
	return secret
}

// deliver signs a sample as the source would, and has it arrive at the moment of signing.
func (s subject) deliver(t *testing.T, sample source.Sample, id, secret string) source.Request {
	t.Helper()
	body := sample.Body(id, noon)
	h, err := s.Sign(source.SignInput{
		Method: http.MethodPost, URL: publicURL, Header: sample.Header, Body: body,
		Secret: secret, ID: id, At: noon, Settings: s.settings,
	})
	require.NoError(t, err)
	return source.Request{Method: http.MethodPost, URL: publicURL, Header: h, Body: body, ReceivedAt: noon}
}

// each runs a test for every sample of every source.
func each(t *testing.T, test func(t *testing.T, s subject, sample source.Sample)) {
	t.Helper()
	for _, s := range subjects(t) {
		for _, sample := range s.Samples {
			t.Run(s.title+"/"+sample.Type, func(t *testing.T) {
				t.Parallel()
				test(t, s, sample)
			})
		}
	}
}

func requireReason(t *testing.T, err error, reasons ...string) {
	t.Helper()
	var refusal *source.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Contains(t, reasons, refusal.Reason, refusal.Detail)
	require.Contains(t, err.Error(), refusal.Reason)
}

func TestSampleVerifies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		matched, err := s.Verify(r, s.secrets[:1], s.settings)
		require.NoError(t, err)
		require.Zero(t, matched)
		events, err := s.Events(r, s.settings)
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.NotEmpty(t, events[0].ID)
		payload, err := s.Payload(r)
		require.NoError(t, err)
		require.True(t, json.Valid(payload))
		require.LessOrEqual(t, int64(len(r.Body)), s.BodyMax)
		if s.Name != "hmac" {
			require.Equal(t, "evt_0001", events[0].ID)
			require.Equal(t, sample.Type, events[0].Type)
			require.NotEmpty(t, events[0].Entity)
			require.True(t, noon.Equal(events[0].OccurredAt))
		}
	})
}

func TestSampleIsAsManyEventsAsItHasIDs(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		require.Equal(t, sample.Body("one", noon), sample.Body("one", noon))
		require.NotEqual(t, sample.Body("one", noon), sample.Body("two", noon))
		require.True(t, json.Valid(sample.Body("quote\" and \n line", noon)))
		name := func(id string) string {
			events, err := s.Events(s.deliver(t, sample, id, s.secrets[0]), s.settings)
			require.NoError(t, err)
			return events[0].ID
		}
		require.Equal(t, name("one"), name("one"))
		require.NotEqual(t, name("one"), name("two"))
	})
}

func TestTamperedBodyIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		for _, i := range []int{0, len(r.Body) / 2, len(r.Body) - 1} {
			forged := r
			forged.Body = slices.Clone(r.Body)
			forged.Body[i] ^= 1
			_, err := s.Verify(forged, s.secrets, s.settings)
			requireReason(t, err, source.ReasonSignatureMismatch)
		}
		for _, body := range [][]byte{nil, r.Body[1:], slices.Concat(r.Body, []byte("\n"))} {
			forged := r
			forged.Body = body
			_, err := s.Verify(forged, s.secrets, s.settings)
			requireReason(t, err, source.ReasonSignatureMismatch)
		}
	})
}

// unsigned are headers of a signed delivery that Verify may do without, since they are not under the signature.
var unsigned = map[string][]string{
	"*":       {"Content-Type", "User-Agent"},
	"github":  {"X-Github-Event", "X-Github-Delivery"},
	"shopify": {"X-Shopify-Topic", "X-Shopify-Event-Id", "X-Shopify-Webhook-Id", "X-Shopify-Triggered-At", "X-Shopify-Shop-Domain", "X-Shopify-Api-Version"},
}

func TestMissingEmptyOrRepeatedHeaderIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		free := slices.Concat(unsigned[s.Name], unsigned["*"])
		checked := 0
		for name, values := range r.Header {
			absent, empty, twice := r.Header.Clone(), r.Header.Clone(), r.Header.Clone()
			absent.Del(name)
			empty.Set(name, "")
			twice.Add(name, values[0])
			for _, h := range []http.Header{absent, empty, twice} {
				forged := r
				forged.Header = h
				_, err := s.Verify(forged, s.secrets, s.settings)
				if slices.Contains(free, name) {
					require.NoError(t, err, name)
					continue
				}
				checked++
				requireReason(t, err, source.ReasonSignatureMissing, source.ReasonSignatureMalformed,
					source.ReasonTimestampMissing, source.ReasonTimestampMalformed, source.ReasonIDMissing, source.ReasonIDMalformed)
			}
		}
		require.Positive(t, checked)
		_, err := s.Verify(source.Request{Body: r.Body, ReceivedAt: noon}, s.secrets, s.settings)
		requireReason(t, err, source.ReasonSignatureMissing)
	})
}

func TestTamperedHeaderIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		free := slices.Concat(unsigned[s.Name], unsigned["*"])
		for name, values := range r.Header {
			if slices.Contains(free, name) || (name == "X-Id" && !s.IDSigned(s.settings)) {
				continue
			}
			value := values[0]
			for _, forgery := range []string{value[:len(value)-1], value + "0", "0" + value, "garbage", flip(value, len(value)-3), flip(value, 0)} {
				forged := r
				forged.Header = r.Header.Clone()
				forged.Header.Set(name, forgery)
				_, err := s.Verify(forged, s.secrets, s.settings)
				require.Error(t, err, "%s: %s", name, forgery)
			}
		}
	})
}

func flip(s string, i int) string {
	b := []byte(s)
	b[i] ^= 1
	return string(b)
}

func TestWithoutSecretNothingVerifies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		for _, none := range [][]string{nil, {}, {""}, {"", ""}} {
			matched, err := s.Verify(r, none, s.settings)
			requireReason(t, err, source.ReasonSecretMissing)
			require.Equal(t, -1, matched)
		}
		_, err := s.Sign(source.SignInput{Body: r.Body, ID: "evt_0001", At: noon, Settings: s.settings})
		requireReason(t, err, source.ReasonSecretMissing)
	})
}

func TestMatchedSecretIsNamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[1])
		for want, secrets := range [][]string{
			{s.secrets[1], s.secrets[0]},
			{s.secrets[0], s.secrets[1]},
			{s.secrets[0], "", s.secrets[1]},
		} {
			matched, err := s.Verify(r, secrets, s.settings)
			require.NoError(t, err)
			require.Equal(t, want, matched)
		}
		matched, err := s.Verify(r, []string{s.secrets[0], s.secrets[2]}, s.settings)
		requireReason(t, err, source.ReasonSignatureMismatch)
		require.Equal(t, -1, matched)
	})
}

func TestSignedTimeIsHeldToAWindow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		for _, c := range []struct {
			late   time.Duration
			reason string
		}{
			{late: 5 * time.Minute},
			{late: -5 * time.Minute},
			{late: 5*time.Minute + time.Second, reason: source.ReasonTimestampStale},
			{late: -5*time.Minute - time.Second, reason: source.ReasonTimestampFuture},
			{late: 24 * time.Hour, reason: source.ReasonTimestampStale},
		} {
			r.ReceivedAt = noon.Add(c.late)
			matched, err := s.Verify(r, s.secrets, s.settings)
			if c.reason == "" || !s.SignedTime(s.settings) {
				require.NoError(t, err)
				continue
			}
			requireReason(t, err, c.reason)
			require.Equal(t, -1, matched)
		}
		r.ReceivedAt = time.Time{}
		_, err := s.Verify(r, s.secrets, s.settings)
		require.Equal(t, s.SignedTime(s.settings), err != nil)
	})
}

func TestSecretIsInNoError(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		var errs []error
		keep := func(err error) { errs = append(errs, err) }
		_, err := s.Verify(r, s.secrets[1:], s.settings)
		keep(err)
		_, err = s.Verify(source.Request{}, s.secrets, s.settings)
		keep(err)
		canary := "\x00canary-in-the-secret !"
		_, err = s.Verify(r, []string{canary}, s.settings)
		keep(err)
		keep(s.CheckSecret(canary, s.settings))
		for _, err := range errs {
			require.Error(t, err)
			require.NotContains(t, err.Error(), "canary")
			for _, secret := range s.secrets {
				require.NotContains(t, err.Error(), secret)
				require.NotContains(t, err.Error(), strings.TrimPrefix(secret, "whsec_"))
			}
		}
		require.Error(t, s.CheckSecret("", s.settings))
	})
}

// A replayed body under another id must be one that either fails, or that the caller is told to catch by another key.
func TestIDSignedTellsTheTruth(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.secrets[0])
		first, err := s.Events(r, s.settings)
		require.NoError(t, err)
		renamed := false
		for name := range r.Header {
			forged := r
			forged.Header = r.Header.Clone()
			forged.Header.Set(name, "evt_0002")
			if _, err := s.Verify(forged, s.secrets, s.settings); err != nil {
				continue
			}
			if again, err := s.Events(forged, s.settings); err == nil && again[0].ID != first[0].ID {
				renamed = true
			}
		}
		require.Equal(t, !s.IDSigned(s.settings), renamed)
	})
}
