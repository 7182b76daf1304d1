package source_test

import (
	"testing"

	"sluice/api/source"
)

func TestBitbucketEvents(t *testing.T) {
	t.Parallel()
	cloud := func(event string) map[string][]string {
		return headers("X-Event-Key", event, "X-Request-UUID", "r-1", "X-Hook-UUID", "h-1")
	}
	server := func(event string) map[string][]string { return headers("X-Event-Key", event, "X-Request-Id", "r-2") }
	push := func(changes string) string {
		return `{"push":{"changes":[` + changes + `]},"repository":{"uuid":"{R}"}}`
	}
	requireNamed(t, "bitbucket", ``, []named1{
		{title: "PullRequest", header: cloud("pullrequest:fulfilled"),
			body: `{"pullrequest":{"id":3,"created_on":"2025-01-01T00:00:00+00:00","updated_on":"2026-01-02T03:04:05.678901+00:00"},"repository":{"uuid":"{R}"}}`,
			id:   "r-1", kind: "pullrequest:fulfilled", at: "2026-01-02T03:04:05.678901Z", entity: "pull_request:{R}:3"},
		{title: "CommentIsAboutItsPullRequest", header: cloud("pullrequest:comment_updated"),
			body: `{"pullrequest":{"id":3,"updated_on":"2026-01-01T00:00:00+00:00"},"comment":{"id":9,"updated_on":"2026-01-02T03:04:05+00:00"},"repository":{"uuid":"{R}"}}`,
			id:   "r-1", kind: "pullrequest:comment_updated", at: "2026-01-02T03:04:05Z", entity: "pull_request:{R}:3"},
		{title: "Approval", header: cloud("pullrequest:approved"),
			body: `{"pullrequest":{"id":3,"updated_on":"2026-01-01T00:00:00+00:00"},"approval":{"date":"2026-01-02T03:04:05+00:00"},"repository":{"uuid":"{R}"}}`,
			id:   "r-1", kind: "pullrequest:approved", at: "2026-01-02T03:04:05Z", entity: "pull_request:{R}:3"},
		{title: "Issue", header: cloud("issue:created"), body: `{"issue":{"id":1,"updated_on":"2026-01-02T03:04:05+00:00"},"repository":{"uuid":"{R}"}}`,
			id: "r-1", kind: "issue:created", at: "2026-01-02T03:04:05Z", entity: "issue:{R}:1"},
		{title: "Push", header: cloud("repo:push"), body: push(`{"old":null,"new":{"type":"branch","name":"main","target":{"date":"2026-01-02T04:04:05+01:00"}},"forced":false}`),
			id: "r-1", kind: "repo:push", at: "2026-01-02T03:04:05Z", entity: "ref:{R}:refs/heads/main"},
		{title: "ForcedPushHasNoTime", header: cloud("repo:push"), body: push(`{"new":{"type":"branch","name":"main","target":{"date":"2026-01-02T03:04:05Z"}},"forced":true}`),
			id: "r-1", kind: "repo:push", entity: "ref:{R}:refs/heads/main"},
		{title: "DeletedTag", header: cloud("repo:push"), body: push(`{"old":{"type":"tag","name":"v1","target":{"date":"2020-01-02T03:04:05Z"}},"new":null}`),
			id: "r-1", kind: "repo:push", entity: "ref:{R}:refs/tags/v1"},
		{title: "PushOfTwo", header: cloud("repo:push"),
			body: push(`{"new":{"type":"branch","name":"a"}},{"new":{"type":"branch","name":"b"}}`), id: "r-1", kind: "repo:push", entity: "repository:{R}"},
		{title: "PushOfAnotherKind", header: cloud("repo:push"), body: push(`{"new":{"type":"bookmark","name":"a"}}`), id: "r-1", kind: "repo:push", entity: "repository:{R}"},
		{title: "PushOfNothing", header: cloud("repo:push"), body: push(`null`), id: "r-1", kind: "repo:push", entity: "repository:{R}"},
		{title: "Status", header: cloud("repo:commit_status_updated"),
			body: `{"commit_status":{"key":"ci","updated_on":"2026-01-02T03:04:05+00:00","links":{"commit":{"href":"https://api.bitbucket.org/2.0/repositories/a/b/commit/9fec847"}}},"repository":{"uuid":"{R}"}}`,
			id:   "r-1", kind: "repo:commit_status_updated", at: "2026-01-02T03:04:05Z", entity: "commit:9fec847"},
		{title: "CommitComment", header: cloud("repo:commit_comment_created"),
			body: `{"comment":{"id":9,"updated_on":"2026-01-02T03:04:05+00:00"},"commit":{"hash":"9fec847"},"repository":{"uuid":"{R}"}}`,
			id:   "r-1", kind: "repo:commit_comment_created", at: "2026-01-02T03:04:05Z", entity: "commit:9fec847"},
		{title: "Fork", header: cloud("repo:fork"), body: `{"fork":{"uuid":"{F}"},"repository":{"uuid":"{R}"}}`, id: "r-1", kind: "repo:fork", entity: "repository:{R}"},

		{title: "DataCenterPullRequest", header: server("pr:merged"),
			body: `{"eventKey":"pr:merged","date":"2026-01-02T13:04:05+1000","pullRequest":{"id":3,"updatedDate":1,"toRef":{"id":"refs/heads/main","repository":{"id":84}}}}`,
			id:   "r-2", kind: "pr:merged", at: "2026-01-02T03:04:05Z", entity: "pull_request:84:3"},
		{title: "DataCenterPush", header: server("repo:refs_changed"),
			body: `{"eventKey":"repo:refs_changed","date":"2026-01-02T03:04:05+0000","repository":{"id":84},"changes":[{"ref":{"id":"refs/heads/main"},"refId":"refs/heads/main","type":"UPDATE"}]}`,
			id:   "r-2", kind: "repo:refs_changed", at: "2026-01-02T03:04:05Z", entity: "ref:84:refs/heads/main"},
		{title: "DataCenterCommitComment", header: server("repo:comment:added"),
			body: `{"eventKey":"repo:comment:added","date":"2026-01-02T03:04:05+0000","comment":{"id":1},"repository":{"id":84},"commit":"178864a7"}`,
			id:   "r-2", kind: "repo:comment:added", at: "2026-01-02T03:04:05Z", entity: "commit:178864a7"},
		{title: "DataCenterPing", header: server("diagnostics:ping"), body: `{"test": true}`, id: "r-2", kind: "diagnostics:ping"},
		{title: "SignedNameGoesFirst", header: server("pr:opened"), body: `{"eventKey":"pr:deleted"}`, id: "r-2", kind: "pr:deleted"},
	})
	requireUnnamed(t, "bitbucket", ``, []unnamed{
		{title: "NoJSON", header: cloud("repo:push"), body: `x`, reason: source.ReasonPayloadMalformed},
		{title: "NoName", header: headers("X-Request-UUID", "r-1"), body: `{}`, reason: source.ReasonTypeMissing},
		{title: "NoID", header: headers("X-Event-Key", "repo:push"), body: `{}`, reason: source.ReasonIDMissing},
		{title: "TwoIDs", header: map[string][]string{"X-Event-Key": {"a"}, "X-Request-Uuid": {"1", "2"}}, body: `{}`, reason: source.ReasonIDMalformed},
	})
}
