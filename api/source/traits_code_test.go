package source_test

import "strings"

var traitsCode = map[string]trait{
	"bitbucket": {unsigned: []string{"X-Event-Key", "X-Request-Uuid", "X-Attempt-Number"}},
	"discord":   {derived: true},
	"gitlab": {
		tried: map[string]string{
			"Token":     ``,
			"Signed":    `{"auth": "signed"}`,
			"SignedRaw": `{"auth": "signed", "signing_key": "raw"}`,
		},
		unsigned: []string{"Idempotency-Key", "X-Gitlab-Event", "X-Gitlab-Instance"},
	},
	"jira": {unsigned: []string{"X-Atlassian-Webhook-Identifier"}},
	"linear": {
		tried:    map[string]string{"Plain": ``, "Wide": `{"window_seconds": 86400}`},
		secret:   plainSecret,
		unsigned: []string{"Linear-Delivery", "Linear-Event"},
	},
	"paddle":    {secret: func(n int) string { return "pdl_ntfset_01sample_" + strings.Repeat(string(rune('a'+n)), 32) }},
	"pagerduty": {secret: plainSecret},
	"square":    {secret: plainSecret},
}
