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
