package source_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// vector is a signature made elsewhere.
type vector struct {
	title, source, settings, secret, url, body string
	at                                         time.Time
	header                                     map[string]string
}

var vectors = []vector{
	{ // published in GitHub's page on validating deliveries
		title: "GitHub", source: "github", secret: "It's a Secret to Everybody", body: "Hello, World!",
		header: map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
	},
	{ // published in Svix's documentation
		title: "Svix", source: "standard", secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body: `{"test": 2432232314}`,
		at: time.Unix(1614265330, 0),
		header: map[string]string{
			"svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "svix-timestamp": "1614265330",
			"svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	},
	{
		title: "StandardWebhooks", source: "standard", secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body: `{"test": 2432232314}`,
		at: time.Unix(1614265330, 0),
		header: map[string]string{
			"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
			"webhook-signature": "v1a,AAAA v1,broken v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	},
	{ // computed with openssl by the documented rule
		title: "Stripe", source: "stripe", secret: "whsec_test_secret", body: `{"id":"evt_test","object":"event","type":"x.y"}`,
		at:     time.Unix(1735689600, 0),
		header: map[string]string{"Stripe-Signature": "t=1735689600,v1=5be01512f437c787c6dc39b4d461cdcb63c1bae8e83860606a63040eac1f0e31"},
	},
	{
		title: "StripeRolledSecret", source: "stripe", secret: "whsec_test_secret", body: `{"id":"evt_test","object":"event","type":"x.y"}`,
		at: time.Unix(1735689600, 0),
		header: map[string]string{"Stripe-Signature": "t=1735689600,v1=00,v1=1111111111111111111111111111111111111111111111111111111111111111," +
			"v1=5be01512f437c787c6dc39b4d461cdcb63c1bae8e83860606a63040eac1f0e31,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"},
	},
	{ // computed with openssl by the documented rule
		title: "Shopify", source: "shopify", secret: "shpss-client-secret", body: `{"id":1}`,
		header: map[string]string{"X-Shopify-Hmac-Sha256": "CPEFUlDoEztRQBMZ/otozWxioY3ZDgVvP/PH3U57Qmo="},
	},
	{ // published in Atlassian's page on webhooks
		title: "Jira", source: "jira", secret: "It's a Secret to Everybody", body: "Hello World!",
		header: map[string]string{"X-Hub-Signature": "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"},
	},
	{ // the same scheme
		title: "Bitbucket", source: "bitbucket", secret: "It's a Secret to Everybody", body: "Hello World!",
		header: map[string]string{"X-Hub-Signature": "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"},
	},
	{ // GitLab says that it follows the specification, so this is Svix's published vector
		title: "GitLabSigned", source: "gitlab", settings: `{"auth": "signed"}`, secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body: `{"test": 2432232314}`,
		at: time.Unix(1614265330, 0),
		header: map[string]string{
			"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
			"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	},
	{ // computed by the documented rule
		title: "Linear", source: "linear", secret: "lin-secret", body: `{"webhookTimestamp":1735689600000}`, at: time.UnixMilli(1735689600000),
		header: map[string]string{"Linear-Signature": "f24abef30d8816738de7ddd1b160c6aa647b37290bd18cf5bfc596cf0a1aaf2f"},
	},
	{ // published in the tests of Paddle's library
		title: "Paddle", source: "paddle", secret: "pdl_ntfset_01hsdn8d43dt7mezr1ef2jtbaw_hKkRiCGyyRhbFwIUuqiTBgI7gnWoV0Gr",
		body: `{"data":{"id":"pri_01hsdn96k2hxjzsq5yerecdj9j","name":null,"status":"active","quantity":{"maximum":999999,"minimum":1},"tax_mode":"account_setting",` +
			`"product_id":"pro_01hsdn8qp7yydry3x1yeg6a9rv","unit_price":{"amount":"1000","currency_code":"USD"},"custom_data":null,"description":"testing",` +
			`"import_meta":null,"trial_period":null,"billing_cycle":{"interval":"month","frequency":1},"unit_price_overrides":[]},` +
			`"event_id":"evt_01hsdn97563968dy0szkmgjwh3","event_type":"price.created","occurred_at":"2024-03-20T10:07:35.590857Z",` +
			`"notification_id":"ntf_01hsdn977e920kbgzt6r6c9rqc"}`,
		at:     time.Unix(1710929255, 0),
		header: map[string]string{"Paddle-Signature": "ts=1710929255;h1=6c05ef8fa83c44d751be6d259ec955ce5638e2c54095bf128e408e2fce1589c8"},
	},
	{ // while the secret is rotated
		title: "PagerDuty", source: "pagerduty", secret: "pd-secret", body: `{"event":{"id":"E1"}}`,
		header: map[string]string{"X-PagerDuty-Signature": "v1=1111111111111111111111111111111111111111111111111111111111111111, v1=9cf3cbdb8e4274b43f184c8cf2a31eaf40ef3a5c8fadddfe250c247c682deea4,v2=00"},
	},
	{ // computed by the documented rule, and accepted by Square's library for JavaScript
		title: "Square", source: "square", secret: "sq-key", body: `{"a":1}`, url: "https://example.test/sq",
		header: map[string]string{"x-square-hmacsha256-signature": "c4c48ckRHMTN7kjZzYTqx0Ia1xrEiyWCHjoZZPNaMZc="},
	},
	{ // published in Slack's page on verifying requests
		title: "Slack", source: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5", at: time.Unix(1531420618, 0),
		body: "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA" +
			"&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554" +
			"%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
		header: map[string]string{
			"X-Slack-Request-Timestamp": "1531420618",
			"X-Slack-Signature":         "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
		},
	},
	// Computed with openssl by the documented rules.
	{
		title: "Zendesk", source: "zendesk", secret: "zd-secret", body: `{"a":1}`, at: time.Unix(1735689600, 0),
		header: map[string]string{
			"X-Zendesk-Webhook-Signature-Timestamp": "2025-01-01T00:00:00Z",
			"X-Zendesk-Webhook-Signature":           "kmHwr6JYZAGLwpD1MNskjG6mqc4gCY9/JP/edeAZJJs=",
		},
	},
	{
		title: "HubSpot", source: "hubspot", secret: "client-secret", body: `[{"eventId":1}]`, at: time.UnixMilli(1735689600000),
		url: "https://example.test/hooks/hubspot?x=1",
		header: map[string]string{
			"X-HubSpot-Request-Timestamp": "1735689600000",
			"X-HubSpot-Signature-v3":      "mj5Y5avLyrv7VZtRGeADPFfaX3JNQqOTpjLjHAPEBX0=",
		},
	},
	{
		title: "Intercom", source: "intercom", secret: "ic-secret", body: `{"a":1}`,
		header: map[string]string{"X-Hub-Signature": "sha1=6516c3e2b686a60a618cd7c0a55233d02b8600e2"},
	},
	{
		title: "Zoom", source: "zoom", secret: "zm-secret", body: `{"a":1}`, at: time.Unix(1735689600, 0),
		header: map[string]string{
			"x-zm-request-timestamp": "1735689600",
			"x-zm-signature":         "v0=19981b84ac70e87bd597b80d84b8799d61df3b9073386d5a24b9efc740427bad",
		},
	},
	{
		title: "Typeform", source: "typeform", secret: "tf-secret", body: `{"a":1}`,
		header: map[string]string{"Typeform-Signature": "sha256=xL5RMIt8NIUE9wUHxKBoyyve1D6FNZKEAGW6FiPbcmk="},
	},
	{
		title: "Calendly", source: "calendly", secret: "cal-key", body: `{"a":1}`, at: time.Unix(1735689600, 0),
		header: map[string]string{"Calendly-Webhook-Signature": "t=1735689600,v1=443b81fb7fe0bfd963df248fee836a29b05e35d878d0e9f84afb4d77420b6e12"},
	},
	{ // from the tests of Twilio's Go library
		title: "TwilioForm", source: "twilio", secret: "12345", url: "https://mycompany.com/myapp.php?foo=1&bar=2",
		body:   "Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309&ReasonConferenceEnded=test&Reason=Participant",
		header: map[string]string{"X-Twilio-Signature": "vOEb5UThFn24KEfnOFLQY2AE5FY="},
	},
	{ // from the same
		title: "TwilioJSON", source: "twilio", secret: "12345", body: `{"property": "value", "boolean": true}`,
		url:    "https://mycompany.com/myapp.php?bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620",
		header: map[string]string{"X-Twilio-Signature": "y77kIzt2vzLz71DgmJGsen2scGs="},
	},
	// The schemes of other vendors, said in the settings of the generic source.
	{
		title: "HMACAsGitHub", source: "hmac", secret: "It's a Secret to Everybody", body: "Hello, World!",
		settings: `{"signature_header": "X-Hub-Signature-256", "prefix": "sha256="}`,
		header:   map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
	},
	{ // published in Atlassian's page on webhooks
		title: "HMACAsJira", source: "hmac", secret: "It's a Secret to Everybody", body: "Hello World!",
		settings: `{"signature_header": "X-Hub-Signature", "prefix": "sha256="}`,
		header:   map[string]string{"X-Hub-Signature": "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"},
	},
	{
		title: "HMACAsSvix", source: "hmac", secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body: `{"test": 2432232314}`,
		at: time.Unix(1614265330, 0),
		settings: `{"signature_header": "svix-signature", "prefix": "v1,", "encoding": "base64", "secret_encoding": "whsec",
			"timestamp_header": "svix-timestamp", "id_header": "svix-id", "signed_string": "{id}.{timestamp}.{body}"}`,
		header: map[string]string{
			"svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "svix-timestamp": "1614265330",
			"svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	},
	{
		title: "HMACAsZoom", source: "hmac", secret: "zm-secret", body: `{"a":1}`, at: time.Unix(1735689600, 0),
		settings: `{"signature_header": "x-zm-signature", "prefix": "v0=", "timestamp_header": "x-zm-request-timestamp",
			"signed_string": "v0:{timestamp}:{body}"}`,
		header: map[string]string{
			"x-zm-request-timestamp": "1735689600",
			"x-zm-signature":         "v0=19981b84ac70e87bd597b80d84b8799d61df3b9073386d5a24b9efc740427bad",
		},
	},
	{
		title: "HMACAsHubSpot", source: "hmac", secret: "client-secret", body: `[{"eventId":1}]`, at: time.UnixMilli(1735689600000),
		url: "https://example.test/hooks/hubspot?x=1",
		settings: `{"signature_header": "X-HubSpot-Signature-v3", "encoding": "base64", "timestamp_unit": "ms",
			"timestamp_header": "X-HubSpot-Request-Timestamp", "signed_string": "{method}{url}{body}{timestamp}"}`,
		header: map[string]string{
			"X-HubSpot-Request-Timestamp": "1735689600000",
			"X-HubSpot-Signature-v3":      "mj5Y5avLyrv7VZtRGeADPFfaX3JNQqOTpjLjHAPEBX0=",
		},
	},
	{
		title: "HMACAsZendesk", source: "hmac", secret: "zd-secret", body: `{"a":1}`, at: time.Unix(1735689600, 0),
		settings: `{"signature_header": "X-Zendesk-Webhook-Signature", "encoding": "base64", "timestamp_unit": "rfc3339",
			"timestamp_header": "X-Zendesk-Webhook-Signature-Timestamp", "signed_string": "{timestamp}{body}"}`,
		header: map[string]string{
			"X-Zendesk-Webhook-Signature-Timestamp": "2025-01-01T00:00:00Z",
			"X-Zendesk-Webhook-Signature":           "kmHwr6JYZAGLwpD1MNskjG6mqc4gCY9/JP/edeAZJJs=",
		},
	},
	{
		title: "HMACAsTypeform", source: "hmac", secret: "tf-secret", body: `{"a":1}`,
		settings: `{"signature_header": "Typeform-Signature", "prefix": "sha256=", "encoding": "base64"}`,
		header:   map[string]string{"Typeform-Signature": "sha256=xL5RMIt8NIUE9wUHxKBoyyve1D6FNZKEAGW6FiPbcmk="},
	},
	{
		title: "HMACAsCalendly", source: "hmac", secret: "cal-key", body: `{"a":1}`, at: time.Unix(1735689600+180, 0),
		settings: `{"signature_header": "Calendly-Webhook-Signature", "signature_key": "v1", "timestamp_key": "t",
			"tolerance_past_seconds": 180, "signed_string": "{timestamp}.{body}"}`,
		header: map[string]string{"Calendly-Webhook-Signature": "t=1735689600,v1=443b81fb7fe0bfd963df248fee836a29b05e35d878d0e9f84afb4d77420b6e12"},
	},
	{
		title: "HMACAsIntercom", source: "hmac", secret: "ic-secret", body: `{"a":1}`,
		settings: `{"signature_header": "X-Hub-Signature", "prefix": "sha1=", "algorithm": "sha1"}`,
		header:   map[string]string{"X-Hub-Signature": "sha1=6516c3e2b686a60a618cd7c0a55233d02b8600e2"},
	},
	{
		title: "HMACAsSquare", source: "hmac", secret: "sq-key", body: `{"a":1}`, url: "https://example.test/sq",
		settings: `{"signature_header": "x-square-hmacsha256-signature", "encoding": "base64", "signed_string": "{url}{body}"}`,
		header:   map[string]string{"x-square-hmacsha256-signature": "c4c48ckRHMTN7kjZzYTqx0Ia1xrEiyWCHjoZZPNaMZc="},
	},
}

func (v vector) request() source.Request {
	h := http.Header{}
	for name, value := range v.header {
		h.Set(name, value)
	}
	return source.Request{Method: http.MethodPost, URL: v.url, Header: h, Body: []byte(v.body), ReceivedAt: v.at}
}

func TestVectorVerifies(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		t.Run(v.title, func(t *testing.T) {
			t.Parallel()
			s, found := source.Get(v.source)
			require.True(t, found)
			settings, faults := s.ParseSettings(json.RawMessage(v.settings))
			require.Empty(t, faults)
			matched, err := s.Verify(v.request(), []string{"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", v.secret}, settings)
			require.NoError(t, err)
			require.Equal(t, 1, matched)
			r := v.request()
			r.Body = append(r.Body, ' ')
			_, err = s.Verify(r, []string{v.secret}, settings)
			requireReason(t, err, source.ReasonSignatureMismatch)
		})
	}
}

// What a signature header can be, short of right.
func TestHeaderIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	many := func(one, separator string) string {
		all := one
		for range 16 {
			all += separator + one
		}
		return all
	}
	const (
		stripeMAC   = "5be01512f437c787c6dc39b4d461cdcb63c1bae8e83860606a63040eac1f0e31"
		standardMAC = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
		githubMAC   = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	)
	for _, c := range []struct {
		vector, header, value, reason string
	}{
		{"Stripe", "Stripe-Signature", "", source.ReasonSignatureMissing},
		{"Stripe", "Stripe-Signature", "t=1735689600", source.ReasonSignatureMissing},
		{"Stripe", "Stripe-Signature", "t=1735689600,v0=" + stripeMAC, source.ReasonSignatureMissing},
		{"Stripe", "Stripe-Signature", "v1=" + stripeMAC, source.ReasonTimestampMissing},
		{"Stripe", "Stripe-Signature", "t=,v1=" + stripeMAC, source.ReasonTimestampMalformed},
		{"Stripe", "Stripe-Signature", "t=+1735689600,v1=" + stripeMAC, source.ReasonTimestampMalformed},
		{"Stripe", "Stripe-Signature", "t=-1,v1=" + stripeMAC, source.ReasonTimestampMalformed},
		{"Stripe", "Stripe-Signature", "t=99999999999999999999,v1=" + stripeMAC, source.ReasonTimestampMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689600,t=1735689600,v1=" + stripeMAC, source.ReasonTimestampMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689600,v1=" + stripeMAC + "=", source.ReasonSignatureMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689600,v1=" + stripeMAC + ",", source.ReasonSignatureMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689600,v1=" + stripeMAC[:62], source.ReasonSignatureMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689600,v1=", source.ReasonSignatureMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689600," + many("v1="+stripeMAC, ","), source.ReasonSignatureMalformed},
		{"Stripe", "Stripe-Signature", "t=1735689601,v1=" + stripeMAC, source.ReasonSignatureMismatch},
		{"StandardWebhooks", "Webhook-Signature", "v1a," + standardMAC, source.ReasonSignatureMissing},
		{"StandardWebhooks", "Webhook-Signature", standardMAC, source.ReasonSignatureMissing},
		{"StandardWebhooks", "Webhook-Signature", "v1," + standardMAC[:40], source.ReasonSignatureMalformed},
		{"StandardWebhooks", "Webhook-Signature", "v1,", source.ReasonSignatureMalformed},
		{"StandardWebhooks", "Webhook-Signature", many("v1,"+standardMAC, " "), source.ReasonSignatureMalformed},
		{"StandardWebhooks", "Webhook-Timestamp", "1614265331", source.ReasonSignatureMismatch},
		{"StandardWebhooks", "Webhook-Timestamp", "1614265330.0", source.ReasonTimestampMalformed},
		{"StandardWebhooks", "Webhook-Timestamp", "", source.ReasonTimestampMissing},
		{"StandardWebhooks", "Webhook-Id", "msg_other", source.ReasonSignatureMismatch},
		{"StandardWebhooks", "Webhook-Id", "", source.ReasonIDMissing},
		{"Svix", "Svix-Id", "", source.ReasonIDMissing},
		{"GitHub", "X-Hub-Signature-256", githubMAC, source.ReasonSignatureMalformed},
		{"GitHub", "X-Hub-Signature-256", "sha256=", source.ReasonSignatureMalformed},
		{"GitHub", "X-Hub-Signature-256", "sha256=" + githubMAC[:40], source.ReasonSignatureMalformed},
		{"GitHub", "X-Hub-Signature-256", "sha1=" + githubMAC, source.ReasonSignatureMalformed},
		{"GitHub", "X-Hub-Signature-256", "sha256=" + githubMAC + "00", source.ReasonSignatureMalformed},
		{"Shopify", "X-Shopify-Hmac-Sha256", "CPEFUlDoEztRQBMZ/otozWxioY3ZDgVvP/PH3U57Qm", source.ReasonSignatureMalformed},
		{"Shopify", "X-Shopify-Hmac-Sha256", "sha256=CPEFUlDoEztRQBMZ/otozWxioY3ZDgVvP/PH3U57Qmo=", source.ReasonSignatureMalformed},
		{"HMACAsGitHub", "X-Hub-Signature-256", githubMAC, source.ReasonSignatureMalformed},
	} {
		t.Run(c.vector+"/"+c.header+"/"+c.value[:min(len(c.value), 24)], func(t *testing.T) {
			t.Parallel()
			for _, v := range vectors {
				if v.title != c.vector {
					continue
				}
				s, _ := source.Get(v.source)
				settings, faults := s.ParseSettings(json.RawMessage(v.settings))
				require.Empty(t, faults)
				r := v.request()
				r.Header.Set(c.header, c.value)
				_, err := s.Verify(r, []string{v.secret}, settings)
				requireReason(t, err, c.reason)
				return
			}
			t.Fatal("no such vector")
		})
	}
}

// The weaker header alone must not do, nor one header of each of two sets.
func TestThereIsNoFallback(t *testing.T) {
	t.Parallel()
	github, _ := source.Get("github")
	_, err := github.Verify(source.Request{
		Header: http.Header{"X-Hub-Signature": {"sha1=0d3f5e8d2ee87b6d9a9cf2d9a0f2c0f2b7cfcf0d"}}, Body: []byte("Hello, World!"),
	}, []string{"It's a Secret to Everybody"}, nil)
	requireReason(t, err, source.ReasonSignatureMissing)

	standard, _ := source.Get("standard")
	_, err = standard.Verify(source.Request{
		Header: http.Header{
			"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Svix-Timestamp": {"1614265330"},
			"Svix-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
		},
		Body: []byte(`{"test": 2432232314}`), ReceivedAt: time.Unix(1614265330, 0),
	}, []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, nil)
	requireReason(t, err, source.ReasonIDMissing)
}
