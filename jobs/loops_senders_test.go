package jobs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/jobs"
	"sluice/tenants"
)

func TestSenders(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ source, body, want string }{
		"bitbucket":             {"bitbucket", `{"actor":{"nickname":"ann","account_id":"5b10","uuid":"{a1}"}}`, "ann 5b10 {a1}"},
		"bitbucket data center": {"bitbucket", `{"actor":{"name":"ann","slug":"ann-b","id":7}}`, "ann ann-b 7"},
		"github":                {"github", `{"sender":{"login":"acme-bot[bot]","id":41},"issue":{"user":{"login":"somebody"}}}`, "acme-bot[bot] 41"},
		"gitlab":                {"gitlab", `{"object_kind":"merge_request","user":{"username":"ann","id":7},"object_attributes":{"author_id":8}}`, "ann 7"},
		"gitlab push":           {"gitlab", `{"object_kind":"push","user_username":"ann","user_id":7,"user_name":"Ann"}`, "ann 7"},
		"gitlab member":         {"gitlab", `{"event_name":"user_add_to_group","user_username":"added","user_id":9}`, ""},
		"gitlab note":           {"gitlab", `{"object_kind":"note","object_attributes":{"author_id":8}}`, "8"},
		"hubspot person":        {"hubspot", `{"appId":1,"changeSource":"CRM_UI","sourceId":"userId:25"}`, "userId:25 25"},
		"hubspot app":           {"hubspot", `{"appId":1,"changeSource":"INTEGRATION","sourceId":"931"}`, "931"},
		"hubspot unnamed":       {"hubspot", `{"appId":1,"changeSource":"CRM"}`, ""},
		"intercom part": {
			"intercom",
			`{"topic":"conversation.admin.replied","data":{"item":{"source":{"author":{"id":"1"}},"conversation_parts":{"conversation_parts":[
				{"author":{"id":"2"}},{"author":{"id":"3","email":"bot@example.com"}}]}}}}`, "3 bot@example.com",
		},
		"intercom beginning": {"intercom", `{"topic":"conversation.user.created","data":{"item":{"source":{"author":{"id":"1"}}}}}`, "1"},
		"intercom closed":    {"intercom", `{"topic":"conversation.admin.closed","data":{"item":{"source":{"author":{"id":"1"}}}}}`, ""},
		"jira issue":         {"jira", `{"user":{"accountId":"5c5f"},"issue":{"fields":{"creator":{"accountId":"other"}}}}`, "5c5f"},
		"jira server":        {"jira", `{"user":{"name":"ann","key":"JIRAUSER1"}}`, "ann JIRAUSER1"},
		"jira edited":        {"jira", `{"comment":{"author":{"accountId":"other"},"updateAuthor":{"accountId":"5c5f"}}}`, "5c5f"},
		"jira comment":       {"jira", `{"comment":{"author":{"accountId":"5c5f"}}}`, "5c5f"},
		"linear":             {"linear", `{"type":"Comment","action":"update","actor":{"id":"7c5e"},"data":{"userId":"other"}}`, "7c5e"},
		"linear older":       {"linear", `{"type":"Comment","action":"create","data":{"userId":"7c5e"}}`, "7c5e"},
		"linear removed":     {"linear", `{"type":"Comment","action":"remove","data":{"userId":"other"}}`, ""},
		"pagerduty":          {"pagerduty", `{"event":{"agent":{"id":"PUSER01"},"data":{"assignees":[{"id":"other"}]}}}`, "PUSER01"},
		"pagerduty nobody":   {"pagerduty", `{"event":{"agent":null}}`, ""},
		"pipedrive":          {"pipedrive", `{"meta":{"user_id":"12345"}}`, "12345"},
		"servicenow":         {"servicenow", `{"sys_updated_by":"ann","sys_created_by":"other"}`, "ann"},
		"slack bot":          {"slack", `{"event":{"type":"message","user":"U1","bot_id":"B1","bot_profile":{"app_id":"A1"}}}`, "U1 B1 A1"},
		"slack edited":       {"slack", `{"event":{"subtype":"message_changed","message":{"user":"UOTHER","edited":{"user":"U1"}}}}`, "U1"},
		"slack unfurled":     {"slack", `{"event":{"subtype":"message_changed","message":{"user":"U1","bot_id":"B1"}}}`, "U1 B1"},
		"slack command":      {"slack", `{"command":"/ask","user_id":"U1"}`, "U1"},
		"slack click":        {"slack", `{"type":"block_actions","user":{"id":"U1"}}`, "U1"},
		"twilio":             {"twilio", `{"From":"+15550001","To":"+15550002"}`, "+15550001"},
		"zendesk":            {"zendesk", `{"detail":{"actor_id":"8447"},"event":{"comment":{"author":{"id":"other"}}}}`, "8447"},
		"zendesk messaging":  {"zendesk", `{"detail":{"id":"1"},"event":{"actor":{"id":"zd:bot"}}}`, "zd:bot"},
		"zendesk comment":    {"zendesk", `{"detail":{"id":"1"},"event":{"comment":{"author":{"id":"8447"}}}}`, "8447"},
		"zoom":               {"zoom", `{"payload":{"operator":"ann@example.com","operator_id":"z8"}}`, "ann@example.com z8"},
		"a source without":   {"stripe", `{"sender":{"login":"x"}}`, ""},
		"another shape":      {"github", `["sender"]`, ""},
		"another type":       {"github", `{"sender":{"login":["x"],"id":1.5}}`, ""},
		"control characters": {"github", `{"sender":{"login":"a\u0000b","id":41}}`, "41"},
		"too long":           {"github", `{"sender":{"login":"` + strings.Repeat("a", 801) + `","id":41}}`, "41"},
		"no JSON":            {"github", `sender=x`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			payload, err := automations.DecodePayload([]byte(c.body))
			require.NoError(t, err)
			require.Equal(t, c.want, strings.Join(jobs.SendersOf(c.source, payload), " "))
		})
	}
	require.Equal(t, []string{"acme-bot[bot]", "github:acme-bot[bot]"}, jobs.ActorsOf("github", []string{"Acme-Bot[bot]"}))
}

func TestMarks(t *testing.T) {
	t.Parallel()
	mark := func(n int) string { return fmt.Sprintf("msg_%032x", n) }
	run := tenants.NewID()
	keys, runs := jobs.MarksIn(
		[]byte(`{"text":"as `+mark(1)+` says, `+mark(1)+mark(2)+` msg_short msg_`+strings.Repeat("0", 33)+` MSG_`+strings.Repeat("0", 32)+`"}`),
		[]byte(`{"webhook-id":"`+mark(3)+`"}`), []byte(tenants.FormatID(tenants.RunPrefix, run)), nil, []byte("msg_"),
	)
	require.Equal(t, []string{mark(1), mark(2), mark(3)}, keys)
	require.Equal(t, "["+run.String()+"]", fmt.Sprint(runs))

	var many strings.Builder
	for n := range 1000 {
		many.WriteString(mark(n) + " ")
	}
	keys, runs = jobs.MarksIn([]byte(many.String()))
	require.Len(t, keys, 64)
	require.Empty(t, runs)
}

// BenchmarkMarks reads a large payload without a mark, which is what nearly all are.
func BenchmarkMarks(b *testing.B) {
	payload := []byte(`{"list":[` + strings.Repeat(`{"node_id":"MDU6SXNzdWU","html_url":"https://example.com/run/1","last_run_at":"2026-01-02"},`, 1000) + `{}]}`)
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		if keys, _ := jobs.MarksIn(payload); keys != nil {
			b.Fatal(keys)
		}
	}
}
