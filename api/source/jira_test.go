package source_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestJiraEvents(t *testing.T) {
	t.Parallel()
	h := headers("X-Atlassian-Webhook-Identifier", "wh-1")
	requireNamed(t, "jira", ``, []named1{
		{title: "Issue", header: h,
			body: `{"timestamp":1767323045678,"webhookEvent":"jira:issue_updated","issue_event_type_name":"issue_generic","user":{"accountId":"u"},
				"issue":{"id":"10040","key":"HELP-1"},"changelog":{"id":"10225","items":[]}}`,
			id: "wh-1", kind: "jira:issue_updated", at: "2026-01-02T03:04:05.678Z", entity: "issue:10040", sequence: 10225},
		{title: "ChangelogIDThatIsNoNumber", header: h, body: `{"webhookEvent":"jira:issue_updated","issue":{"id":"1"},"changelog":{"id":"9e8f-uuid"}}`,
			id: "wh-1", kind: "jira:issue_updated", entity: "issue:1"},
		{title: "CommentIsAboutItsIssue", header: h, body: `{"timestamp":1767323045678,"webhookEvent":"comment_created","comment":{"id":"7"},"issue":{"id":"10040"}}`,
			id: "wh-1", kind: "comment_created", at: "2026-01-02T03:04:05.678Z", entity: "issue:10040"},
		{title: "CommentThatOnlyItsAddressPlaces", header: h,
			body: `{"webhookEvent":"comment_created","comment":{"self":"https://jira.example.com/rest/api/2/issue/10013/comment/10082","id":"10082",
				"updated":"2026-01-02T04:04:05.678+0100"}}`,
			id: "wh-1", kind: "comment_created", at: "2026-01-02T03:04:05.678Z", entity: "issue:10013"},
		{title: "IssueWithoutTimeOfTheEvent", header: h, body: `{"webhookEvent":"jira:issue_created","issue":{"id":1,"fields":{"updated":"2026-01-01T19:04:05.000-0800"}}}`,
			id: "wh-1", kind: "jira:issue_created", at: "2026-01-02T03:04:05Z", entity: "issue:1"},
		{title: "Worklog", header: h, body: `{"webhookEvent":"worklog_created","worklog":{"id":"3","issueId":"10040"}}`,
			id: "wh-1", kind: "worklog_created", entity: "issue:10040"},
		{title: "Link", header: h, body: `{"webhookEvent":"issuelink_created","issueLink":{"id":5,"sourceIssueId":1,"destinationIssueId":2}}`,
			id: "wh-1", kind: "issuelink_created", entity: "issue_link:5"},
		{title: "Sprint", header: h, body: `{"webhookEvent":"sprint_started","sprint":{"id":4}}`, id: "wh-1", kind: "sprint_started", entity: "sprint:4"},
		{title: "Version", header: h, body: `{"webhookEvent":"jira:version_deleted","version":{"id":"4"},"mergedTo":{"id":"5"}}`,
			id: "wh-1", kind: "jira:version_deleted", entity: "version:4"},
		{title: "Project", header: h, body: `{"webhookEvent":"project_created","project":{"id":4,"key":"HELP"}}`, id: "wh-1", kind: "project_created", entity: "project:4"},
		{title: "User", header: h, body: `{"webhookEvent":"user_created","user":{"accountId":"a:1"}}`, id: "wh-1", kind: "user_created", entity: "user:a:1"},
		{title: "UserOfDataCenter", header: h, body: `{"webhookEvent":"user_deleted","user":{"key":"JIRAUSER1"}}`, id: "wh-1", kind: "user_deleted", entity: "user:JIRAUSER1"},
		{title: "WhoDidItIsNotWhatItIsAbout", header: h, body: `{"webhookEvent":"option_voting_changed","user":{"accountId":"a:1"}}`,
			id: "wh-1", kind: "option_voting_changed"},
		{title: "WithoutIdentifier", body: `{"webhookEvent":"sprint_closed","sprint":{"id":4}}`,
			id: "sha256:c1eb048e0389ad36e80cfc35d29fee46ef54b1c42c62d302f4e35e384f88afa2", kind: "sprint_closed", entity: "sprint:4"},
	})
	requireUnnamed(t, "jira", ``, []unnamed{
		{title: "NoJSON", header: h, body: ``, reason: source.ReasonPayloadMalformed},
		{title: "EmptyIdentifier", header: headers("X-Atlassian-Webhook-Identifier", ""), body: `{}`, reason: source.ReasonIDMissing},
		{title: "BlankIdentifier", header: headers("X-Atlassian-Webhook-Identifier", " "), body: `{}`, reason: source.ReasonIDMissing},
		{title: "TwoIdentifiers", header: map[string][]string{"X-Atlassian-Webhook-Identifier": {"1", "2"}}, body: `{}`, reason: source.ReasonIDMalformed},
	})
}

// The sender names the method, and gets no say in it.
func TestAtlassianSignatureHeader(t *testing.T) {
	t.Parallel()
	const mac = "a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"
	for _, vector := range []string{"Jira", "Bitbucket"} {
		requireHeaderReasons(t, vector, [][3]string{
			{"X-Hub-Signature", "", source.ReasonSignatureMissing},
			{"X-Hub-Signature", mac, source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "sha256=", source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "sha256=" + mac[:62], source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "sha256=" + mac + "00", source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "SHA256=" + mac, source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "sha1=3b4fcd39d8d3d4f3bb6d61d1d3a8e0f3f7f4b3a2", source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "none=" + mac, source.ReasonSignatureMalformed},
			{"X-Hub-Signature", "sha256=" + mac[:63] + "8", source.ReasonSignatureMismatch},
		})
	}
}

// A replay under another identifier, or under none, is caught by the second key.
func TestJiraReplayIsKnownByItsBody(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("jira")
	once := func(id string) (string, string) {
		r := source.Request{Body: []byte(`{"webhookEvent":"sprint_closed","sprint":{"id":4}}`)}
		if id != "" {
			r.Header = headers("X-Atlassian-Webhook-Identifier", id)
		}
		events, err := s.Events(r, nil)
		require.NoError(t, err)
		return events[0].ID, events[0].Once
	}
	firstID, first := once("1")
	otherID, other := once("2")
	noID, none := once("")
	require.NotEmpty(t, first)
	require.Equal(t, []string{first, first}, []string{other, none})
	require.NotEqual(t, firstID, otherID)
	require.NotEqual(t, firstID, noID)
}
