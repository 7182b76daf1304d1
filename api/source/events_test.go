package source_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	if text == "" {
		return time.Time{}
	}
	parsed, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return parsed.UTC()
}

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func githubHeaders(event string) http.Header {
	return headers("X-GitHub-Event", event, "X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
}

func TestEventsOfAPayload(t *testing.T) {
	t.Parallel()
	const guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
	std := headers("webhook-id", "msg_1", "webhook-timestamp", "1", "webhook-signature", "v1,x")
	for _, c := range []struct {
		title, source string
		header        http.Header
		body          string
		id, kind      string
		at, entity    string
	}{
		{title: "Snapshot", source: "stripe",
			body: `{"id":"evt_1","object":"event","type":"charge.failed","created":1735689600,"data":{"object":{"id":"ch_1","object":"charge"}}}`,
			id:   "evt_1", kind: "charge.failed", at: "2025-01-01T00:00:00Z", entity: "charge:ch_1"},
		{title: "SnapshotOfObjectWithoutID", source: "stripe",
			body: `{"id":"evt_1","object":"event","type":"balance.available","created":1735689600,"data":{"object":{"object":"balance"}}}`,
			id:   "evt_1", kind: "balance.available", at: "2025-01-01T00:00:00Z"},
		{title: "Thin", source: "stripe",
			body: `{"id":"evt_2","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","created":"2025-01-01T00:00:00.123Z",
				"related_object":{"id":"mtr_1","type":"billing.meter","url":"/v1/billing/meters/mtr_1"}}`,
			id: "evt_2", kind: "v1.billing.meter.error_report_triggered", at: "2025-01-01T00:00:00.123Z", entity: "billing.meter:mtr_1"},
		{title: "ThinWithoutObject", source: "stripe",
			body: `{"id":"evt_2","object":"v2.core.event","type":"v2.core.event_destination.ping","created":"2025-01-01T00:00:00Z"}`,
			id:   "evt_2", kind: "v2.core.event_destination.ping", at: "2025-01-01T00:00:00Z"},
		{title: "OtherCaseIsAnotherField", source: "stripe",
			body: `{"id":"evt_1","ID":"evt_9","type":"a.b","Type":"c.d","created":1735689600.5}`, id: "evt_1", kind: "a.b"},

		{title: "Issue", source: "github", header: githubHeaders("issues"),
			body: `{"action":"opened","issue":{"id":9007199254740993,"number":1,"created_at":"2019-05-15T15:20:18Z","updated_at":"2019-05-15T15:20:21Z"},"repository":{"id":7,"updated_at":"2020-01-01T00:00:00Z"}}`,
			id:   guid, kind: "issues.opened", at: "2019-05-15T15:20:21Z", entity: "issue:9007199254740993"},
		{title: "CommentIsAboutItsIssue", source: "github", header: githubHeaders("issue_comment"),
			body: `{"action":"edited","issue":{"id":5,"updated_at":"2019-05-15T15:20:21Z"},"comment":{"id":6,"updated_at":"2019-05-15T15:20:25Z"}}`,
			id:   guid, kind: "issue_comment.edited", at: "2019-05-15T15:20:25Z", entity: "issue:5"},
		{title: "ReviewIsAboutItsPullRequest", source: "github", header: githubHeaders("pull_request_review"),
			body: `{"action":"submitted","review":{"id":1,"submitted_at":"2019-05-15T15:20:38Z"},"pull_request":{"id":2,"updated_at":"2019-05-15T15:20:30Z"}}`,
			id:   guid, kind: "pull_request_review.submitted", at: "2019-05-15T15:20:38Z", entity: "pull_request:2"},
		{title: "Push", source: "github", header: githubHeaders("push"),
			body: `{"ref":"refs/heads/main","head_commit":{"timestamp":"2001-01-01T00:00:00Z"},"repository":{"id":7,"pushed_at":1557933657}}`,
			id:   guid, kind: "push", at: "2019-05-15T15:20:57Z", entity: "ref:7:refs/heads/main"},
		{title: "PushWithoutPushedAt", source: "github", header: githubHeaders("push"),
			body: `{"ref":"refs/heads/main","head_commit":{"timestamp":"2019-05-15T17:20:57+02:00"},"repository":{"id":7}}`,
			id:   guid, kind: "push", at: "2019-05-15T15:20:57Z", entity: "ref:7:refs/heads/main"},
		{title: "BranchIsTheRefOfItsPushes", source: "github", header: githubHeaders("create"),
			body: `{"ref":"main","ref_type":"branch","repository":{"id":7,"pushed_at":"2019-05-15T15:20:57Z"}}`,
			id:   guid, kind: "create", entity: "ref:7:refs/heads/main"},
		{title: "Ping", source: "github", header: githubHeaders("ping"),
			body: `{"zen":"Design for failure.","hook_id":30,"hook":{"id":30,"created_at":"2019-05-15T15:20:57Z"},"repository":{"id":7}}`,
			id:   guid, kind: "ping", at: "2019-05-15T15:20:57Z", entity: "hook:30"},
		{title: "PingWithoutHook", source: "github", header: githubHeaders("ping"), body: `{"zen":"Design for failure.","hook_id":30}`,
			id: guid, kind: "ping", entity: "hook:30"},
		{title: "WorkflowRun", source: "github", header: githubHeaders("workflow_run"),
			body: `{"action":"completed","workflow_run":{"id":289782451,"run_attempt":2,"updated_at":"2020-10-05T17:14:07Z"},"workflow":{"id":1}}`,
			id:   guid, kind: "workflow_run.completed", at: "2020-10-05T17:14:07Z", entity: "workflow_run:289782451"},
		{title: "CheckRun", source: "github", header: githubHeaders("check_run"),
			body: `{"action":"completed","check_run":{"id":128620228,"started_at":"2019-05-15T15:21:12Z","completed_at":"2019-05-15T15:22:12Z"}}`,
			id:   guid, kind: "check_run.completed", at: "2019-05-15T15:22:12Z", entity: "check_run:128620228"},
		{title: "AlertIsNumberedPerRepository", source: "github", header: githubHeaders("dependabot_alert"),
			body: `{"action":"created","alert":{"number":20,"created_at":"2023-06-24T13:57:12Z"},"repository":{"id":7}}`,
			id:   guid, kind: "dependabot_alert.created", at: "2023-06-24T13:57:12Z", entity: "dependabot_alert:7:20"},
		{title: "OldBirthIsNotTheTime", source: "github", header: githubHeaders("code_scanning_alert"),
			body: `{"action":"reopened","alert":{"number":10,"created_at":"2020-07-22T14:06:31Z","updated_at":null},"repository":{"id":7}}`,
			id:   guid, kind: "code_scanning_alert.reopened", entity: "code_scanning_alert:7:10"},
		{title: "BranchProtection", source: "github", header: githubHeaders("branch_protection_rule"),
			body: `{"action":"edited","rule":{"id":3,"updated_at":"2021-08-19T12:16:32.000-04:00"},"repository":{"id":7}}`,
			id:   guid, kind: "branch_protection_rule.edited", at: "2021-08-19T16:16:32Z", entity: "branch_protection_rule:3"},
		{title: "Status", source: "github", header: githubHeaders("status"),
			body: `{"id":1,"sha":"6113728f","state":"success","updated_at":"2019-05-15T15:20:55+00:00","repository":{"id":7}}`,
			id:   guid, kind: "status", at: "2019-05-15T15:20:55Z", entity: "commit:6113728f"},
		{title: "NothingNarrowerThanTheRepository", source: "github", header: githubHeaders("watch"),
			body: `{"action":"started","repository":{"id":7,"updated_at":"2019-05-15T15:20:55Z"},"sender":{"id":1}}`,
			id:   guid, kind: "watch.started", entity: "repository:7"},
		{title: "UnknownEvent", source: "github", header: githubHeaders("brand_new"), body: `{"action":{"odd":1},"brand_new":[]}`,
			id: guid, kind: "brand_new"},

		{title: "Order", source: "shopify",
			header: headers("X-Shopify-Topic", "orders/create", "X-Shopify-Event-Id", "ev-1", "X-Shopify-Webhook-Id", "wh-1", "X-Shopify-Triggered-At", "2021-12-31T18:00:00Z"),
			body:   `{"id":820982911946154508,"updated_at":"2021-12-31T19:00:00-05:00"}`,
			id:     "ev-1", kind: "orders/create", at: "2022-01-01T00:00:00Z", entity: "orders:820982911946154508"},
		{title: "OrderWithoutEventID", source: "shopify",
			header: headers("X-Shopify-Topic", "orders/delete", "X-Shopify-Webhook-Id", "wh-1", "X-Shopify-Triggered-At", "2021-12-31T18:00:00.123456789Z"),
			body:   `{"id":820982911946154508}`,
			id:     "wh-1", kind: "orders/delete", at: "2021-12-31T18:00:00.123456789Z", entity: "orders:820982911946154508"},
		{title: "ResourceWithoutID", source: "shopify",
			header: headers("X-Shopify-Topic", "customers/redact", "X-Shopify-Event-Id", "ev-1"), body: `{"shop_id":1}`,
			id: "ev-1", kind: "customers/redact"},

		{title: "Contact", source: "standard", header: std,
			body: `{"type":"contact.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{"id":"1f81eb52"}}`,
			id:   "msg_1", kind: "contact.created", at: "2022-11-03T20:26:10.344522Z", entity: "contact:1f81eb52"},
		{title: "WholeNumberID", source: "standard", header: std, body: `{"type":"invoice.payment.failed","data":{"id":9007199254740993}}`,
			id: "msg_1", kind: "invoice.payment.failed", entity: "invoice:9007199254740993"},
		{title: "FloatIsNoID", source: "standard", header: std, body: `{"type":"invoice.paid","data":{"id":1e3}}`, id: "msg_1", kind: "invoice.paid"},
		{title: "AnotherShape", source: "standard", header: std, body: `[1,2]`, id: "msg_1"},
		{title: "OddTime", source: "standard", header: std, body: `{"type":"a","timestamp":"yesterday"}`, id: "msg_1", kind: "a"},
		{title: "TimeOutOfReach", source: "standard", header: std, body: `{"type":"a","timestamp":9223372036854775807}`, id: "msg_1", kind: "a"},
	} {
		t.Run(c.source+"/"+c.title, func(t *testing.T) {
			t.Parallel()
			s, _ := source.Get(c.source)
			events, err := s.Events(source.Request{Header: c.header, Body: []byte(c.body), ReceivedAt: noon}, nil)
			require.NoError(t, err)
			require.Equal(t, []source.Event{{ID: c.id, Type: c.kind, OccurredAt: at(t, c.at), Entity: c.entity}}, named(events))
		})
	}
}

func TestEventsAreRefusedWithTheirReason(t *testing.T) {
	t.Parallel()
	std := headers("webhook-id", "msg_1")
	shop := headers("X-Shopify-Topic", "orders/create", "X-Shopify-Event-Id", "ev-1")
	for _, c := range []struct {
		title, source string
		header        http.Header
		body, reason  string
	}{
		{"NoJSON", "stripe", nil, `{`, source.ReasonPayloadMalformed},
		{"Null", "stripe", nil, `null`, source.ReasonPayloadMalformed},
		{"TwoDocuments", "stripe", nil, `{"id":"evt_1","type":"a"}{}`, source.ReasonPayloadMalformed},
		{"NoType", "stripe", nil, `{"id":"evt_1"}`, source.ReasonPayloadMalformed},
		{"NoID", "stripe", nil, `{"type":"a.b"}`, source.ReasonIDMissing},
		{"NullID", "stripe", nil, `{"id":null,"type":"a.b"}`, source.ReasonIDMissing},
		{"BlankID", "stripe", nil, `{"id":" ","type":"a.b"}`, source.ReasonIDMissing},
		{"NoJSON", "github", githubHeaders("push"), `Hello, World!`, source.ReasonPayloadMalformed},
		{"Array", "github", githubHeaders("push"), `[]`, source.ReasonPayloadMalformed},
		{"NoEvent", "github", headers("X-GitHub-Delivery", "1"), `{}`, source.ReasonTypeMissing},
		{"NoDelivery", "github", headers("X-GitHub-Event", "push"), `{}`, source.ReasonIDMissing},
		{"NoJSON", "shopify", shop, ``, source.ReasonPayloadMalformed},
		{"NoTopic", "shopify", headers("X-Shopify-Event-Id", "1"), `{}`, source.ReasonTypeMissing},
		{"NoIDs", "shopify", headers("X-Shopify-Topic", "orders/create"), `{}`, source.ReasonIDMissing},
		{"NoJSON", "standard", std, `type=a`, source.ReasonPayloadMalformed},
		{"NoID", "standard", nil, `{}`, source.ReasonIDMissing},
		{"NoSettings", "hmac", nil, `{}`, source.ReasonSettingsInvalid},
	} {
		t.Run(c.source+"/"+c.title, func(t *testing.T) {
			t.Parallel()
			s, _ := source.Get(c.source)
			_, err := s.Events(source.Request{Header: c.header, Body: []byte(c.body)}, nil)
			requireReason(t, err, c.reason)
		})
	}
}

// Names of any length and content become names that can be stored, and distinct ids and entities stay distinct.
func TestNamesAreFitToStore(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("standard")
	name := func(id, body string) source.Event {
		events, err := s.Events(source.Request{Header: http.Header{"Webhook-Id": {id}}, Body: []byte(body)}, nil)
		require.NoError(t, err)
		requireFit(t, events)
		return events[0]
	}
	long := strings.Repeat("é", 256)
	require.Equal(t, long, name(long, `{}`).ID)
	require.Equal(t, "sha256:", name(long+"a", `{}`).ID[:7])
	require.Equal(t, name(long+"a", `{}`).ID, name(long+"a", `{}`).ID)
	require.NotEqual(t, name(long+"a", `{}`).ID, name(long+"b", `{}`).ID)
	require.NotEqual(t, name("\xff", `{}`).ID, name("\xfe", `{}`).ID)
	require.Equal(t, "sha256:", name("a\x00b", `{}`).ID[:7])

	event := name("1", `{"type":"`+long+`","data":{"id":"`+long+`"}}`)
	require.Equal(t, long[:2*128], event.Type)
	require.True(t, strings.HasPrefix(event.Entity, "sha256:"))
	first, second := name("1", `{"type":"a.b","data":{"id":"`+long+`1"}}`), name("1", `{"type":"a.b","data":{"id":"`+long+`2"}}`)
	require.True(t, strings.HasPrefix(first.Entity, "a:sha256:"))
	require.NotEqual(t, first.Entity, second.Entity)
	event = name("1", `{"type":"a\u0000b\n.c","data":{"id":"x\u0000"}}`)
	require.Equal(t, "ab.c", event.Type)
	require.Contains(t, event.Entity, "sha256:")
}
