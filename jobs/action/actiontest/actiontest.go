// Package actiontest is what tests need to know of each connector that writes to a service: a good action object, a secret, and a scripted service that
// checks requests as the vendor does. What must not enter: anything that is not for tests.
package actiontest

import (
	"time"

	"sluice/scripted"
)

// Canary must never be seen outside of a secret.
const Canary = "s3cr3t-canary"

// Token is the secret of every account that is a plain token.
const Token = "tok_" + Canary

// A Case is what the battery needs to know of a connector that writes to a service. A connector without a line here fails the battery.
type Case struct {
	// Sample is a good action object, all of whose templates are rendered. BODY stands for what the model wrote.
	Sample string
	// Other is a sample for another target.
	Other string
	// Secret is of its account.
	Secret string
	// Vendor makes its scripted service.
	Vendor func(now func() time.Time) *scripted.Vendor
	// Root is where its API begins, behind its address.
	Root string
	// Updates says that the connector can change its last effect in place of adding one.
	Updates bool
	// Mentions says that the service makes no mention of an "@name" in such a text.
	Mentions bool
	// NoMarkdown says that the service takes no Markdown, so that "![" is nothing but text there.
	NoMarkdown bool
}

// Cases is a line for each connector of a service.
var Cases = map[string]Case{ // add yours here, alphabetical
	"github_comment": {
		Sample:  `{"kind": "github_comment", "credential_id": "crd_1", "repo": "acme/shop", "issue": "12", "body": "BODY"}`,
		Other:   `{"kind": "github_comment", "credential_id": "crd_1", "repo": "acme/shop", "issue": "13", "body": "BODY"}`,
		Secret:  Token,
		Vendor:  func(now func() time.Time) *scripted.Vendor { return scripted.NewGitHubIssues(Token, now) },
		Updates: true,
	},
	"github_labels": {
		Sample: `{"kind": "github_labels", "credential_id": "crd_1", "repo": "acme/shop", "issue": "12", "labels": "BODY, Thank you",
			"choices": ["Thank you", "we look into it."]}`,
		Secret: Token,
		Vendor: func(now func() time.Time) *scripted.Vendor { return scripted.NewGitHubIssues(Token, now) },
	},
	"gitlab_note": {
		Sample:  `{"kind": "gitlab_note", "credential_id": "crd_1", "project": "acme/tools/shop", "type": "Issue", "iid": "12", "body": "BODY"}`,
		Other:   `{"kind": "gitlab_note", "credential_id": "crd_1", "project": "acme/tools/shop", "type": "merge_request", "iid": "12", "body": "BODY"}`,
		Secret:  Token,
		Vendor:  func(now func() time.Time) *scripted.Vendor { return scripted.NewGitLab(Token, now) },
		Root:    "/api/v4",
		Updates: true,
	},
	"hubspot_note": {
		Sample: `{"kind": "hubspot_note", "credential_id": "crd_1", "object": "123", "object_type": "contact", "body": "BODY"}`,
		Other:  `{"kind": "hubspot_note", "credential_id": "crd_1", "object": "124", "object_type": "0-3", "body": "BODY"}`,
		Secret: Token,
		Vendor: func(now func() time.Time) *scripted.Vendor {
			return scripted.NewHubSpot(Token, now, "0-1/123", "0-3/124")
		},
		Updates: true,
	},
	"intercom_reply": {
		Sample: `{"kind": "intercom_reply", "credential_id": "crd_1", "conversation": "524", "public": true, "body": "BODY"}`,
		Other:  `{"kind": "intercom_reply", "credential_id": "crd_1", "conversation": "525", "admin": "991267459", "body": "BODY"}`,
		Secret: Token,
		Vendor: func(now func() time.Time) *scripted.Vendor { return scripted.NewIntercom(Token, now, "524", "525") },
	},
	"jira_comment": {
		Sample:  `{"kind": "jira_comment", "credential_id": "crd_1", "issue": "SHOP-12", "body": "BODY"}`,
		Other:   `{"kind": "jira_comment", "credential_id": "crd_1", "issue": "SHOP-13", "body": "BODY"}`,
		Secret:  "bot@acme.example:" + Token,
		Vendor:  func(now func() time.Time) *scripted.Vendor { return scripted.NewJira("bot@acme.example:"+Token, now) },
		Updates: true,
	},
	"linear_comment": {
		Sample:  `{"kind": "linear_comment", "credential_id": "crd_1", "issue": "SHOP-12", "body": "BODY"}`,
		Secret:  "lin_api_" + Canary,
		Vendor:  func(now func() time.Time) *scripted.Vendor { return scripted.NewLinear("lin_api_"+Canary, now) },
		Updates: true,
	},
	"pagerduty_note": {
		Sample: `{"kind": "pagerduty_note", "credential_id": "crd_1", "incident": "PGR0VU2", "body": "BODY"}`,
		Other:  `{"kind": "pagerduty_note", "credential_id": "crd_1", "incident": "Q0SDD3HB6SGFTI", "body": "BODY"}`,
		Secret: "bot@acme.example:tok_" + Canary,
		Vendor: func(now func() time.Time) *scripted.Vendor {
			return scripted.NewPagerDuty("bot@acme.example:tok_"+Canary, now, "PGR0VU2", "Q0SDD3HB6SGFTI")
		},
		Updates: true,
	},
	"slack_message": {
		Sample: `{"kind": "slack_message", "credential_id": "crd_1", "channel": "C0SHOP", "body": "BODY"}`,
		Other:  `{"kind": "slack_message", "credential_id": "crd_1", "channel": "C0DESK", "body": "BODY"}`,
		Secret: "xoxb-" + Canary,
		Vendor: func(now func() time.Time) *scripted.Vendor {
			return scripted.NewSlack("xoxb-"+Canary, now, "C0DESK", "C0SHOP")
		},
		NoMarkdown: true,
		Updates:    true,
	},
	"zendesk_comment": {
		Sample: `{"kind": "zendesk_comment", "credential_id": "crd_1", "ticket": "35436", "public": true, "body": "BODY"}`,
		Other:  `{"kind": "zendesk_comment", "credential_id": "crd_1", "ticket": "35437", "body": "BODY"}`,
		Secret: "bot@acme.example/token:tok_" + Canary,
		Vendor: func(now func() time.Time) *scripted.Vendor {
			return scripted.NewZendesk("bot@acme.example/token:tok_"+Canary, now, "35436", "35437")
		},
	},
}
