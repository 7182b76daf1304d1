package source_test

var traitsOffice = map[string]trait{
	"calendly": {derived: true},
	"hubspot":  {derived: true, secret: plainSecret},
	"intercom": {secret: plainSecret},
	"slack":    {secret: plainSecret},
	"zendesk":  {secret: plainSecret, someSigned: true, unsigned: []string{"X-Zendesk-Webhook-Invocation-Id"}},
	"zoom":     {derived: true, secret: plainSecret},
}
