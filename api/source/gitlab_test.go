package source_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func gitlabWith(t *testing.T, settings string) (source.Source, source.Settings) {
	t.Helper()
	s, found := source.Get("gitlab")
	require.True(t, found)
	set, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	return s, set
}

func TestGitLabEvents(t *testing.T) {
	t.Parallel()
	h := headers("Idempotency-Key", "k-1", "X-Gitlab-Event", "Some Hook")
	const when = `"updated_at":"2026-01-02 03:04:05 UTC"`
	note := func(attributes, rest string) string {
		return `{"object_kind":"note","project_id":5,"object_attributes":{"id":9,"action":"create",` + when + `,` + attributes + `}` + rest + `}`
	}
	requireNamed(t, "gitlab", ``, []named1{
		{title: "MergeRequest", header: h,
			body: `{"object_kind":"merge_request","project":{"id":5},"object_attributes":{"id":99,"iid":1,"action":"approved","created_at":"2020-01-01T00:00:00Z","updated_at":"2026-01-02T03:04:05.678Z"}}`,
			id:   "k-1", kind: "merge_request.approved", at: "2026-01-02T03:04:05.678Z", entity: "merge_request:99"},
		{title: "Issue", header: h, body: `{"object_kind":"issue","object_attributes":{"id":92,"action":"close",` + when + `}}`,
			id: "k-1", kind: "issue.close", at: "2026-01-02T03:04:05Z", entity: "issue:92"},
		{title: "WorkItemIsAnIssue", header: h, body: `{"object_kind":"work_item","object_attributes":{"id":92,"type":"Task","action":"open",` + when + `}}`,
			id: "k-1", kind: "work_item.open", at: "2026-01-02T03:04:05Z", entity: "issue:92"},
		{title: "NoteOnAnIssue", header: h, body: note(`"noteable_type":"Issue","noteable_id":92`, ``),
			id: "k-1", kind: "note.create", at: "2026-01-02T03:04:05Z", entity: "issue:92"},
		{title: "NoteOnAMergeRequest", header: h, body: note(`"noteable_type":"MergeRequest"`, `,"merge_request":{"id":7}`),
			id: "k-1", kind: "note.create", at: "2026-01-02T03:04:05Z", entity: "merge_request:7"},
		{title: "NoteOnACommit", header: h, body: note(`"noteable_type":"Commit","noteable_id":null,"commit_id":"cfe32cf"`, ``),
			id: "k-1", kind: "note.create", at: "2026-01-02T03:04:05Z", entity: "commit:cfe32cf"},
		{title: "NoteOnASnippet", header: h, body: note(`"noteable_type":"Snippet","noteable_id":53`, ``),
			id: "k-1", kind: "note.create", at: "2026-01-02T03:04:05Z", entity: "snippet:53"},
		{title: "NoteOnAWorkItem", header: h, body: note(`"noteable_type":"WorkItem","noteable_id":92`, ``),
			id: "k-1", kind: "note.create", at: "2026-01-02T03:04:05Z", entity: "issue:92"},
		{title: "NoteOnSomethingNew", header: h, body: note(`"noteable_type":"Dream","noteable_id":53`, ``),
			id: "k-1", kind: "note.create", at: "2026-01-02T03:04:05Z", entity: "project:5"},
		{title: "EmojiOnANote", header: h,
			body: `{"object_kind":"emoji","object_attributes":{"id":1,"action":"award","awardable_type":"Note","awardable_id":9,` + when + `},"note":{"id":9,"noteable_type":"Issue","noteable_id":92}}`,
			id:   "k-1", kind: "emoji.award", at: "2026-01-02T03:04:05Z", entity: "issue:92"},
		{title: "Push", header: h,
			body: `{"object_kind":"push","event_name":"push","ref":"refs/heads/main","project_id":15,"user_id":4,"commits":[{"timestamp":"2026-01-02T05:04:05+02:00"},{"timestamp":"2026-01-01T00:00:00Z"},null]}`,
			id:   "k-1", kind: "push", at: "2026-01-02T03:04:05Z", entity: "ref:15:refs/heads/main"},
		{title: "DeletedBranch", header: h, body: `{"object_kind":"push","event_name":"push","ref":"refs/heads/old","project_id":15,"commits":[]}`,
			id: "k-1", kind: "push", entity: "ref:15:refs/heads/old"},
		{title: "Job", header: h,
			body: `{"object_kind":"build","build_id":1977,"pipeline_id":2,"project_id":5,"build_created_at":"2026-01-02 03:04:05 UTC","build_started_at":"2026-01-02T03:05:05.5Z","build_finished_at":null}`,
			id:   "k-1", kind: "build", at: "2026-01-02T03:05:05.5Z", entity: "build:1977"},
		{title: "Pipeline", header: h, body: `{"object_kind":"pipeline","object_attributes":{"id":31,"status":"running","created_at":"2026-01-02 03:04:05 UTC","finished_at":null}}`,
			id: "k-1", kind: "pipeline", at: "2026-01-02T03:04:05Z", entity: "pipeline:31"},
		{title: "Deployment", header: h, body: `{"object_kind":"deployment","status":"success","status_changed_at":"2026-01-02 05:04:05 +0200","deployment_id":15,"project":{"id":5}}`,
			id: "k-1", kind: "deployment", at: "2026-01-02T03:04:05Z", entity: "deployment:15"},
		{title: "Release", header: h, body: `{"object_kind":"release","id":8,"action":"create","created_at":"2026-01-02 03:04:05 UTC","released_at":"2030-01-01 00:00:00 UTC"}`,
			id: "k-1", kind: "release.create", at: "2026-01-02T03:04:05Z", entity: "release:8"},
		{title: "OldBirthIsNotTheTime", header: h, body: `{"object_kind":"release","id":8,"action":"update","created_at":"2020-01-02 03:04:05 UTC"}`,
			id: "k-1", kind: "release.update", entity: "release:8"},
		{title: "WikiPage", header: h, body: `{"object_kind":"wiki_page","project":{"id":5},"object_attributes":{"slug":"home","action":"update"}}`,
			id: "k-1", kind: "wiki_page.update", entity: "wiki_page:5:home"},
		{title: "Token", header: h, body: `{"object_kind":"access_token","event_name":"expiring_access_token","object_attributes":{"id":25,"created_at":"2020-01-02 03:04:05 UTC"}}`,
			id: "k-1", kind: "access_token.expiring", entity: "access_token:25"},
		{title: "Member", header: h, body: `{"event_name":"user_add_to_group","group_id":100,"user_id":64,"created_at":"2020-01-01T00:00:00Z","updated_at":"2026-01-02T03:04:05Z"}`,
			id: "k-1", kind: "user_add_to_group", at: "2026-01-02T03:04:05Z", entity: "group:100"},
		{title: "SystemHook", header: h, body: `{"event_name":"user_create","user_id":64,"created_at":"2026-01-02T03:04:05Z"}`,
			id: "k-1", kind: "user_create", at: "2026-01-02T03:04:05Z", entity: "user:64"},
		{title: "BodyOfItsOwnMaking", header: headers("Idempotency-Key", "k-1", "X-Gitlab-Event", "Merge Request Hook"), body: `{"text":"somebody did something"}`,
			id: "k-1", kind: "merge_request"},
		{title: "ListOfItsOwnMaking", header: headers("Idempotency-Key", "k-1", "X-Gitlab-Event", "Tag Push Hook"), body: `["x"]`, id: "k-1", kind: "tag_push"},
		{title: "NothingKnown", header: headers("Idempotency-Key", "k-1"), body: `{}`, id: "k-1"},
	})
	requireUnnamed(t, "gitlab", ``, []unnamed{
		{title: "NoJSON", header: h, body: `somebody did something`, reason: source.ReasonPayloadMalformed},
		{title: "EmptyKey", header: headers("Idempotency-Key", ""), body: `{}`, reason: source.ReasonIDMissing},
		{title: "TwoKeys", header: http.Header{"Idempotency-Key": {"1", "2"}}, body: `{}`, reason: source.ReasonIDMalformed},
	})
	requireUnnamed(t, "gitlab", `{"auth":"signed"}`, []unnamed{{title: "OnlyTheUnsignedID", header: h, body: `{}`, reason: source.ReasonIDMissing}})
}

// Before 17.4 there is no key: what differs in event, name or body is another event.
func TestGitLabOlderThanIdempotencyKeys(t *testing.T) {
	t.Parallel()
	s, set := gitlabWith(t, ``)
	id := func(uuid, event, body string) string {
		events, err := s.Events(source.Request{Header: headers("X-Gitlab-Event-UUID", uuid, "X-Gitlab-Event", event), Body: []byte(body)}, set)
		require.NoError(t, err)
		return events[0].ID
	}
	first := id("u-1", "Issue Hook", `{"a":1}`)
	require.Equal(t, first, id("u-1", "Issue Hook", `{"a":1}`))
	for _, other := range []string{id("u-2", "Issue Hook", `{"a":1}`), id("u-1", "Note Hook", `{"a":1}`), id("u-1", "Issue Hook", `{"a":2}`)} {
		require.NotEqual(t, first, other)
	}
}

// An endpoint takes its own scheme, and whoever has the proof of the other one has nothing.
func TestGitLabTakesOneSchemeOnly(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	s, token := gitlabWith(t, `{"auth":"token"}`)
	_, signed := gitlabWith(t, `{"auth":"signed"}`)
	deliver := func(settings source.Settings) source.Request {
		made, err := s.Sign(source.SignInput{Body: []byte(`{}`), Secret: secret, ID: "k-1", At: noon, Settings: settings})
		require.NoError(t, err)
		return source.Request{Header: made.Header, Body: made.Body, ReceivedAt: noon}
	}
	verify := func(r source.Request, settings source.Settings) error {
		_, err := s.Verify(r, []string{secret}, settings)
		return err
	}
	require.NoError(t, verify(deliver(token), token))
	require.NoError(t, verify(deliver(signed), signed))
	requireReason(t, verify(deliver(token), signed), source.ReasonSignatureMissing)
	requireReason(t, verify(deliver(signed), token), source.ReasonSignatureMissing)
	requireReason(t, verify(deliver(token), nil), source.ReasonSettingsInvalid)

	both := deliver(signed)
	both.Header.Set("X-Gitlab-Token", secret)
	both.Body = []byte(`{"forged":true}`)
	requireReason(t, verify(both, signed), source.ReasonSignatureMismatch)
	svix := deliver(signed)
	for _, part := range []string{"Id", "Timestamp", "Signature"} {
		svix.Header["Svix-"+part] = svix.Header["Webhook-"+part]
		delete(svix.Header, "Webhook-"+part)
	}
	requireReason(t, verify(svix, signed), source.ReasonSignatureMissing)

	require.False(t, s.BodySigned(token))
	require.False(t, s.IDSigned(token))
	require.False(t, s.Window(token).Signed())
	require.True(t, s.BodySigned(signed))
	require.True(t, s.IDSigned(signed))
	require.True(t, s.Window(signed).Signed())
}

func TestGitLabSignatureHeaders(t *testing.T) {
	t.Parallel()
	const mac = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	requireHeaderReasons(t, "GitLabSigned", [][3]string{
		{"Webhook-Signature", "", source.ReasonSignatureMissing},
		{"Webhook-Signature", mac, source.ReasonSignatureMissing},
		{"Webhook-Signature", "v2," + mac, source.ReasonSignatureMissing},
		{"Webhook-Signature", "v1," + mac[:40], source.ReasonSignatureMalformed},
		{"Webhook-Timestamp", "", source.ReasonTimestampMissing},
		{"Webhook-Timestamp", "soon", source.ReasonTimestampMalformed},
		{"Webhook-Timestamp", "1614265331", source.ReasonSignatureMismatch},
		{"Webhook-Id", "", source.ReasonIDMissing},
		{"Webhook-Id", "msg_other", source.ReasonSignatureMismatch},
	})
}

// A signing token is read in one way per endpoint, never in the other as a second try.
func TestGitLabSigningKey(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	body := []byte(`{"object_kind":"push"}`)
	s, decoded := gitlabWith(t, `{"auth":"signed"}`)
	_, raw := gitlabWith(t, `{"auth":"signed","signing_key":"raw"}`)
	library, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	rawLibrary, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString([]byte(secret)))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		library     *standardwebhooks.Webhook
		its, others source.Settings
	}{"Decoded": {library, decoded, raw}, "Raw": {rawLibrary, raw, decoded}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signature, err := c.library.Sign("k-1", noon, body)
			require.NoError(t, err)
			r := source.Request{
				Header: headers("webhook-id", "k-1", "webhook-timestamp", "1772625600", "webhook-signature", signature), Body: body, ReceivedAt: noon,
			}
			_, err = s.Verify(r, []string{secret}, c.its)
			require.NoError(t, err)
			_, err = s.Verify(r, []string{secret}, c.others)
			requireReason(t, err, source.ReasonSignatureMismatch)
			made, err := s.Sign(source.SignInput{Body: body, Secret: secret, ID: "k-1", At: noon, Settings: c.its})
			require.NoError(t, err)
			require.Equal(t, signature, made.Header.Get("Webhook-Signature"))
		})
	}
	require.NoError(t, s.CheckSecret(secret, decoded))
	require.Error(t, s.CheckSecret("whsec_c2hvcnQ=", decoded))
	require.Error(t, s.CheckSecret("a token that is no base64", decoded))
	require.NoError(t, s.CheckSecret("a token that is no base64", raw))
	require.NoError(t, s.CheckSecret("any token", mustSettings(t, s, ``)))
	require.Error(t, s.CheckSecret("a tok", mustSettings(t, s, ``)))
}

func mustSettings(t *testing.T, s source.Source, raw string) source.Settings {
	t.Helper()
	settings, faults := s.ParseSettings(json.RawMessage(raw))
	require.Empty(t, faults)
	return settings
}

func TestGitLabSettings(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("gitlab")
	for raw, place := range map[string]string{
		`{"auth":"both"}`: "auth", `{"auth":""}`: "auth", `{"auth":1}`: "auth", `{"signing_key":"hex"}`: "signing_key", `{"other":1}`: "other", `7`: "",
	} {
		settings, faults := s.ParseSettings(json.RawMessage(raw))
		require.Nil(t, settings, raw)
		require.Len(t, faults, 1, raw)
		require.Equal(t, place, faults[0].Place, raw)
	}
	secret, err := s.NewSecret()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(secret, "whsec_"))
	for _, raw := range []string{``, `{"auth":"signed"}`, `{"auth":"signed","signing_key":"raw"}`} {
		require.NoError(t, s.CheckSecret(secret, mustSettings(t, s, raw)), "a secret made here is good for both schemes")
	}
}
