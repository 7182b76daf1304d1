package action_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

func TestLinearComment_Targets(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	c, _ := set.Get("linear_comment")
	object := func(issue, more string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"kind": "linear_comment", "credential_id": "crd_1", "issue": %s, "body": "hello"%s}`, written(t, issue), more))
	}
	for _, one := range []struct {
		issue, more string
		ok          bool
	}{
		{"SHOP-12", "", true}, {"539068e2-ae88-4d09-bd75-22eb4a59612f", "", true}, {"SHOP-12", `, "allow": ["SHOP-*"]`, true},
		{"ADMIN-1", `, "allow": ["SHOP-*"]`, false}, {"539068e2-ae88-4d09-bd75-22eb4a59612f", `, "allow": ["SHOP-*"]`, false},
		{"", "", false}, {"SHOP", "", false}, {"shop-1", "", false}, {"SHOP-1\" }", "", false}, {"539068e2-ae88-4d09-bd75", "", false},
	} {
		effect, err := c.Prepare(params(t, c, object(one.issue, one.more)), input())
		if !one.ok {
			require.Equal(t, action.CodeTarget, failure(t, err).Code, one)
			continue
		}
		require.NoError(t, err, one)
		require.Equal(t, one.issue, effect.Target)
	}
	require.Equal(t, []string{"action.allow"}, places(set.Check(c, object("{{ payload.x }}", ""))))
	require.Equal(t, []string{"action.issue"}, places(set.Check(c, object("x", ""))))
	require.Equal(t, []string{"action.links"}, places(set.Check(c, object("A-1", `, "links": ["docs.acme.example", "linear.app"]`))), "a link to it is a mention")
	require.Empty(t, set.Check(c, action.Filled(c.Spec(), json.RawMessage(`{"kind": "linear_comment", "credential_id": "crd_1", "body": "x"}`))))
}

func TestLinearComment_TheSecondAttemptHasTheReceiptOfTheFirst(t *testing.T) {
	t.Parallel()
	s := serve(t, "linear_comment")
	send := s.send(t, s.Case.Sample, keyOne, plain)
	first, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, first.ID)
	require.Equal(t, "https://linear.app/acme/issue/SHOP-12/title", first.URL)
	again, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, first, again)

	refusal := `{"data": null, "errors": [{"message": "no", "extensions": {"type": "user error", "code": "OTHER"}}]}`
	s.Script(scripted.VendorStep{Status: 200, Body: refusal})
	again, err = s.c.Do(t.Context(), send)
	require.NoError(t, err, "whatever Linear calls it: the comment with this id is ours")
	require.Equal(t, first, again)

	other := s.send(t, s.Case.Sample, keyTwo, plain)
	s.Script(scripted.VendorStep{Status: 200, Body: refusal})
	_, err = s.c.Do(t.Context(), other)
	require.Equal(t, action.CodeRefused, failure(t, err).Code, "there is none, so it was refused")
	require.False(t, failure(t, err).Doubt)

	s.Script(scripted.VendorStep{Status: 200, Body: refusal}, scripted.VendorStep{Reads: true, Status: 500})
	_, err = s.c.Do(t.Context(), send)
	got := failure(t, err)
	require.Equal(t, []any{action.Retry, action.CodeLookup, true}, []any{got.Kind, got.Code, got.Doubt}, "nobody can tell")

	s.Hide(first.ID)
	again, err = s.c.Do(t.Context(), send)
	require.NoError(t, err, "an id that is in use was used by us")
	require.Equal(t, first.ID, again.ID)
	require.Len(t, s.Effects(), 1)
}

func TestLinearComment_ErrorsOfGraphQL(t *testing.T) {
	t.Parallel()
	s := serve(t, "linear_comment")
	now := time.Now().UTC()
	limit := map[string]string{
		"X-RateLimit-Requests-Remaining": "12", "X-RateLimit-Requests-Reset": fmt.Sprint(now.Add(time.Hour).UnixMilli()),
		"X-RateLimit-Complexity-Remaining": "0", "X-RateLimit-Complexity-Reset": fmt.Sprint(now.Add(20 * time.Second).UnixMilli()), "Date": now.Format(http.TimeFormat),
	}
	for _, c := range []struct {
		status     int
		kind, code string
		header     map[string]string
		want       action.Kind
		wantCode   string
		after      time.Duration
		doubt      bool
	}{
		{400, "ratelimited", "RATELIMITED", limit, action.Retry, action.CodeRateLimited, 20 * time.Second, false},
		{200, "", "RATELIMITED", nil, action.Retry, action.CodeRateLimited, 0, false},
		{200, "authentication error", "AUTHENTICATION_ERROR", nil, action.Refused, action.CodeUnauthorized, 0, false},
		{400, "authentication error", "AUTHENTICATION_ERROR", nil, action.Refused, action.CodeUnauthorized, 0, false},
		{200, "forbidden", "FORBIDDEN", nil, action.Refused, action.CodeUnauthorized, 0, false},
		{200, "invalid input", "INPUT_ERROR", nil, action.Refused, action.CodeRefused, 0, false},
		{200, "usage limit exceeded", "USAGE_LIMIT_EXCEEDED", nil, action.Refused, action.CodeRefused, 0, false},
		{200, "internal error", "INTERNAL_SERVER_ERROR", nil, action.Retry, action.CodeStatus5xx, 0, true},
		{200, "lock timeout", "LOCK_TIMEOUT", nil, action.Retry, action.CodeStatus5xx, 0, true},
		{200, "something new", "NEW", nil, action.Retry, action.CodeStatus5xx, 0, true},
		{400, "something new", "NEW", nil, action.Refused, action.CodeRefused, 0, false},
	} {
		body := fmt.Sprintf(`{"data": null, "errors": [{"message": %q, "extensions": {"type": %q, "code": %q}}]}`, canary, c.kind, c.code)
		s.Script(scripted.VendorStep{Status: c.status, Header: c.header, Body: body})
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
		got := failure(t, err)
		require.Equal(t, []any{c.want, c.wantCode, c.after, c.doubt}, []any{got.Kind, got.Code, got.RetryAfter, got.Doubt}, c)
		hides(t, s.Case.Secret, err)
	}
	for _, body := range []string{`{"data": null}`, `{"data": {"commentCreate": {"success": false, "comment": {"id": "x"}}}}`, `{}`, `[]`} {
		s.Script(scripted.VendorStep{Status: 200, Body: body})
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
		got := failure(t, err)
		require.Equal(t, action.CodeBroken, got.Code, body)
		require.True(t, got.Doubt, body)
	}
	require.Empty(t, s.Effects())
	_, err := s.c.Do(t.Context(), s.send(t, strings.Replace(s.Case.Sample, "SHOP-12", "GONE-1", 1), keyOne, plain))
	require.Equal(t, action.CodeRefused, failure(t, err).Code)
}

func TestLinearComment_UpdatesOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	s := serve(t, "linear_comment")
	sample := strings.Replace(s.Case.Sample, `{`, `{"update": true, `, 1)
	receipt, err := s.c.Do(t.Context(), s.send(t, sample, keyOne, "first"))
	require.NoError(t, err)
	send := s.send(t, sample, keyTwo, "second")
	send.Previous = &receipt
	for name, steps := range map[string][]scripted.VendorStep{
		"refused":        {{Status: 400}},
		"nobody can say": {{Status: 400}, {Reads: true, Status: 500}},
		"unauthorized":   {{Status: 401}},
		"away":           {{Status: 503}},
	} {
		s.Script(steps...)
		_, err = s.c.Do(t.Context(), send)
		require.Error(t, err, name)
		require.Len(t, s.Effects(), 1, "another one would stand beside it: %s", name)
	}
}

func TestLinearAccount_KeysAndTokens(t *testing.T) {
	t.Parallel()
	account, _ := action.New(devDoor()).Account("linear")
	for _, secret := range []string{"lin_api_" + canary, "lin_oauth_" + canary} {
		vendor := scripted.NewLinear(secret, time.Now)
		base, err := vendor.Listen("127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, vendor.Close()) })
		id, err := account.Test(t.Context(), action.Access{Secret: secret, Base: base}, time.Now())
		require.NoError(t, err, secret)
		require.Equal(t, "aacdca22-6266-4c0a-ab3c-8fa70a26765c", id.Actor, "as events name their actor")
		hides(t, secret, id)
	}
}
