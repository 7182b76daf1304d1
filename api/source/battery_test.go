package source_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	trait
	title    string
	settings source.Settings
	keys     []source.Trial // three, fit for the settings
}

// trait is what the battery has to know of a source that it cannot ask it.
type trait struct {
	tried map[string]string // settings to try it under, by a title; none: without any
	// secret makes the nth secret in the shape of the source's own, where neither NewSecret nor Trial makes one.
	secret func(n int) string
	// unsigned are headers of a signed delivery that Verify may do without, besides Content-Type and User-Agent.
	unsigned []string
	// inBody says that (part of) the proof stands in the body, so that a body that was changed can be refused for other reasons than a
	// mismatch, and a delivery without headers too.
	inBody bool
	// derived says that an id is made of what the event says: the sample's own is not in it.
	derived bool
	// timeless and entityless say that the source's samples have no time of the event, and nothing that they are about.
	timeless, entityless bool
	// once says that it sets Event.Once itself, although its ids are signed.
	once bool
	// someSigned says that the ids of some of its deliveries are signed, the samples' among them, and of others not.
	someSigned bool
	// configured says that the settings name its events, so that the sample's own names are not asked for.
	configured bool
	// published says that the signed time is the event's own, so that it cannot come later than the window.
	published bool
	// opaque says that its bodies are no JSON, but forms or XML.
	opaque bool
	// proxied are the headers that the operator's own proxy would set.
	proxied func(verify string) http.Header
}

// traits has the sources that are not like all others.
var traits = merged(traitsGeneric, traitsOffice, traitsCode, traitsCertified)

func plainSecret(n int) string { return "whsec_" + strings.Repeat(string(rune('a'+n)), 32) }

func merged(all ...map[string]trait) map[string]trait {
	out := map[string]trait{}
	for _, some := range all {
		maps.Copy(out, some)
	}
	return out
}

func subjects(tb testing.TB) []subject {
	tb.Helper()
	var all []subject
	for _, s := range source.All() {
		known := traits[s.Name]
		tried := known.tried
		if tried == nil {
			tried = map[string]string{"": ""}
		}
		for title, raw := range tried {
			settings, faults := s.ParseSettings(json.RawMessage(raw))
			require.Empty(tb, faults, s.Name+title)
			one := subject{Source: s, trait: known, title: s.Name + title, settings: settings}
			for n := range 3 {
				one.keys = append(one.keys, one.key(tb, n))
				if s.SecretFrom != source.SecretNone {
					require.NoError(tb, s.CheckSecret(one.keys[n].Verify, settings), s.Name)
				}
			}
			all = append(all, one)
		}
	}
	return all
}

// key makes a key where the source lets us, else one in the shape of the source's own.
func (s subject) key(tb testing.TB, n int) source.Trial {
	tb.Helper()
	if s.Trial != nil {
		return trial(tb, s.Source, n)
	}
	if s.secret != nil {
		return source.Trial{Sign: s.secret(n), Verify: s.secret(n)}
	}
	secret, err := s.NewSecret()
	require.NoError(tb, err)
	return source.Trial{Sign: secret, Verify: secret}
}

// trials are the trial keys made so far, by source and number: to make one of RSA takes longer than all that is tried with it.
var trials sync.Map

func trial(tb testing.TB, s source.Source, n int) source.Trial {
	tb.Helper()
	name := s.Name + strconv.Itoa(n)
	if known, found := trials.Load(name); found {
		return known.(source.Trial)
	}
	made, err := s.Trial()
	require.NoError(tb, err)
	known, _ := trials.LoadOrStore(name, made)
	return known.(source.Trial)
}

// secrets are those that Verify takes.
func (s subject) secrets() []string {
	var all []string
	for _, key := range s.keys {
		all = append(all, key.Verify)
	}
	return all
}

// deliver signs a sample as the source would, and has it arrive at the moment of signing.
func (s subject) deliver(tb testing.TB, sample source.Sample, id string, key source.Trial) source.Request {
	tb.Helper()
	signed, err := s.Sign(source.SignInput{
		Method: http.MethodPost, URL: publicURL, Header: sample.Header, Body: sample.Body(id, noon),
		Secret: key.Sign, ID: id, At: noon, Settings: s.settings,
	})
	require.NoError(tb, err)
	r := source.Request{
		Method: http.MethodPost, URL: publicURL, Header: signed.Header, Body: signed.Body, ReceivedAt: noon,
		Certificate: key.Certificate, Roots: key.Roots,
	}
	if s.proxied != nil {
		r.Proxy = s.proxied(key.Verify)
	}
	return r
}

// free are the headers of a signed delivery that Verify may do without.
func (s subject) free() []string {
	free := slices.Concat(s.unsigned, []string{"Content-Type", "User-Agent"})
	if s.Name == "hmac" && !s.IDSigned(s.settings) {
		free = append(free, "X-Id")
	}
	return free
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

// named leaves of events what names them.
func named(events []source.Event) []source.Event {
	out := slices.Clone(events)
	for i := range out {
		out[i].Once, out[i].Payload = "", nil
	}
	return out
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
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		matched, err := s.Verify(r, s.secrets()[:1], s.settings)
		require.NoError(t, err)
		if s.SecretFrom == source.SecretNone {
			require.Equal(t, -1, matched)
		} else {
			require.Zero(t, matched)
		}
		if s.Handshake != nil {
			require.Nil(t, s.Handshake(r, s.keys[0].Verify, s.settings))
		}
		if s.Challenge != nil {
			require.Nil(t, s.Challenge(r))
		}
		events, err := s.Events(r, s.settings)
		require.NoError(t, err)
		require.NotEmpty(t, events)
		require.LessOrEqual(t, int64(len(r.Body)), s.BodyMax)
		for _, e := range events {
			require.NotEmpty(t, e.ID)
			require.Equal(t, s.IDSigned(s.settings), e.Once == "" || s.once, "a second key is for ids that are not signed")
			payload := e.Payload
			if payload == nil {
				payload = r.Body
			}
			require.True(t, json.Valid(payload), "%s", payload)
		}
		if s.configured {
			return
		}
		require.Equal(t, sample.Type, events[0].Type)
		if !s.derived {
			require.Equal(t, "evt_0001", events[0].ID)
		}
		require.Equal(t, s.entityless, events[0].Entity == "", events[0].Entity)
		require.Equal(t, s.timeless, events[0].OccurredAt.IsZero())
		require.True(t, s.timeless || noon.Equal(events[0].OccurredAt), events[0].OccurredAt)
	})
}

func TestSampleIsAsManyEventsAsItHasIDs(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		require.Equal(t, sample.Body("one", noon), sample.Body("one", noon))
		require.NotEqual(t, sample.Body("one", noon), sample.Body("two", noon))
		require.True(t, s.opaque || json.Valid(sample.Body("quote\" and \n line", noon)))
		name := func(id string) string {
			events, err := s.Events(s.deliver(t, sample, id, s.keys[0]), s.settings)
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
		if !s.BodySigned(s.settings) {
			return // said in its entry, and no test can change it
		}
		reasons := []string{source.ReasonSignatureMismatch}
		if s.inBody {
			reasons = append(reasons, source.ReasonPayloadMalformed, source.ReasonSignatureMissing, source.ReasonSignatureMalformed,
				source.ReasonTimestampMissing, source.ReasonTimestampMalformed)
		}
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		for _, i := range []int{0, len(r.Body) / 2, len(r.Body) - 1} {
			forged := r
			forged.Body = slices.Clone(r.Body)
			forged.Body[i] ^= 1
			_, err := s.Verify(forged, s.secrets(), s.settings)
			requireReason(t, err, reasons...)
		}
		for _, body := range [][]byte{nil, r.Body[1:], slices.Concat(r.Body, []byte("x"))} {
			forged := r
			forged.Body = body
			_, err := s.Verify(forged, s.secrets(), s.settings)
			requireReason(t, err, reasons...)
		}
	})
}

func TestMissingEmptyOrRepeatedHeaderIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		free := s.free()
		checked := 0
		for name, values := range r.Header {
			absent, empty, twice := r.Header.Clone(), r.Header.Clone(), r.Header.Clone()
			absent.Del(name)
			empty.Set(name, "")
			twice.Add(name, values[0])
			for _, h := range []http.Header{absent, empty, twice} {
				forged := r
				forged.Header = h
				_, err := s.Verify(forged, s.secrets(), s.settings)
				if slices.Contains(free, name) {
					require.NoError(t, err, name)
					continue
				}
				checked++
				requireReason(t, err, source.ReasonSignatureMissing, source.ReasonSignatureMalformed,
					source.ReasonTimestampMissing, source.ReasonTimestampMalformed, source.ReasonIDMissing, source.ReasonIDMalformed)
			}
		}
		if s.inBody || s.proxied != nil {
			return
		}
		require.Positive(t, checked)
		_, err := s.Verify(source.Request{Body: r.Body, ReceivedAt: noon}, s.secrets(), s.settings)
		requireReason(t, err, source.ReasonSignatureMissing)
	})
}

func TestTamperedHeaderIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		free := s.free()
		for name, values := range r.Header {
			if slices.Contains(free, name) {
				continue
			}
			value := values[0]
			for _, forgery := range []string{value[:len(value)-1], value + "0", "0" + value, "garbage", flip(value, len(value)-3), flip(value, 0)} {
				forged := r
				forged.Header = r.Header.Clone()
				forged.Header.Set(name, forgery)
				_, err := s.Verify(forged, s.secrets(), s.settings)
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
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		for _, none := range [][]string{nil, {}, {""}, {"", ""}} {
			if s.SecretFrom == source.SecretNone {
				break
			}
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
		if s.SecretFrom == source.SecretNone {
			return
		}
		r := s.deliver(t, sample, "evt_0001", s.keys[1])
		all := s.secrets()
		for want, secrets := range [][]string{{all[1], all[0]}, {all[0], all[1]}, {all[0], "", all[1]}} {
			matched, err := s.Verify(r, secrets, s.settings)
			require.NoError(t, err)
			require.Equal(t, want, matched)
		}
		matched, err := s.Verify(r, []string{all[0], all[2]}, s.settings)
		requireReason(t, err, source.ReasonSignatureMismatch)
		require.Equal(t, -1, matched)
	})
}

func TestSignedTimeIsHeldToAWindow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		window := s.Window(s.settings)
		for _, c := range []struct {
			late   time.Duration
			reason string
		}{
			{late: window.Past},
			{late: -window.Future},
			{late: window.Past + time.Second, reason: source.ReasonTimestampStale},
			{late: -window.Future - time.Second, reason: source.ReasonTimestampFuture},
			{late: window.Past + 24*time.Hour, reason: source.ReasonTimestampStale},
		} {
			r.ReceivedAt = noon.Add(c.late)
			matched, err := s.Verify(r, s.secrets(), s.settings)
			if c.reason == "" || !window.Signed() {
				require.NoError(t, err)
				continue
			}
			requireReason(t, err, c.reason)
			require.Equal(t, -1, matched)
		}
		r.ReceivedAt = time.Time{}
		_, err := s.Verify(r, s.secrets(), s.settings)
		require.Equal(t, window.Signed(), err != nil)
	})
}

func TestSecretIsInNoError(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		var errs []error
		keep := func(err error) { errs = append(errs, err) }
		_, err := s.Verify(r, s.secrets()[1:], s.settings)
		keep(err)
		_, err = s.Verify(source.Request{}, s.secrets(), s.settings)
		keep(err)
		canary := "\x00canary-in-the-secret !"
		_, err = s.Verify(r, []string{canary}, s.settings)
		keep(err)
		if s.SecretFrom == source.SecretNone {
			errs = errs[1:2]
		} else {
			keep(s.CheckSecret(canary, s.settings))
		}
		for _, err := range errs {
			require.Error(t, err)
			require.NotContains(t, err.Error(), "canary")
			for _, secret := range s.secrets() {
				if secret == "" {
					continue
				}
				require.NotContains(t, err.Error(), secret)
				require.NotContains(t, err.Error(), strings.TrimPrefix(secret, "whsec_"))
			}
		}
		if s.SecretFrom != source.SecretNone {
			require.Error(t, s.CheckSecret("", s.settings))
		}
	})
}

// A replayed body under another id must be one that either fails, or that the caller is told to catch by another key.
func TestIDSignedTellsTheTruth(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		if !s.BodySigned(s.settings) {
			require.False(t, s.IDSigned(s.settings), "no id is signed where not even the body is")
			return
		}
		r := s.deliver(t, sample, "evt_0001", s.keys[0])
		first, err := s.Events(r, s.settings)
		require.NoError(t, err)
		renamed := false
		for name := range r.Header {
			forged := r
			forged.Header = r.Header.Clone()
			forged.Header.Set(name, "evt_0002")
			if _, err := s.Verify(forged, s.secrets(), s.settings); err != nil {
				continue
			}
			if again, err := s.Events(forged, s.settings); err == nil && again[0].ID != first[0].ID {
				renamed = true
			}
		}
		require.Equal(t, !s.IDSigned(s.settings), renamed || s.someSigned)
	})
}
