package source_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/PaddleHQ/paddle-go-sdk/v4"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestPaddleEvents(t *testing.T) {
	t.Parallel()
	requireNamed(t, "paddle", ``, []named1{
		{title: "Transaction",
			body: `{"event_id":"evt_1","event_type":"transaction.completed","occurred_at":"2026-01-02T03:04:05.678901Z","notification_id":"ntf_1",
				"data":{"id":"txn_1","subscription_id":"sub_1","updated_at":"2026-01-02T03:04:04Z"}}`,
			id: "evt_1", kind: "transaction.completed", at: "2026-01-02T03:04:05.678901Z", entity: "transaction:txn_1"},
		{title: "NounOfTwoWords", body: `{"event_id":"evt_1","event_type":"payment_method.saved","data":{"id":"paymtd_1"}}`,
			id: "evt_1", kind: "payment_method.saved", entity: "payment_method:paymtd_1"},
		{title: "WithoutObject", body: `{"event_id":"evt_1","event_type":"report.created","data":null}`, id: "evt_1", kind: "report.created"},
	})
	requireUnnamed(t, "paddle", ``, []unnamed{
		{title: "NoJSON", body: `alert_name=x`, reason: source.ReasonPayloadMalformed},
		{title: "NoType", body: `{"event_id":"evt_1"}`, reason: source.ReasonPayloadMalformed},
		{title: "NoID", body: `{"event_type":"transaction.paid","notification_id":"ntf_1"}`, reason: source.ReasonIDMissing},
	})
}

func TestPaddleSignatureHeader(t *testing.T) {
	t.Parallel()
	const mac = "6c05ef8fa83c44d751be6d259ec955ce5638e2c54095bf128e408e2fce1589c8"
	requireHeaderReasons(t, "Paddle", [][3]string{
		{"Paddle-Signature", "", source.ReasonSignatureMissing},
		{"Paddle-Signature", "ts=1710929255", source.ReasonSignatureMissing},
		{"Paddle-Signature", "ts=1710929255;h2=" + mac, source.ReasonSignatureMissing},
		{"Paddle-Signature", "h1=" + mac, source.ReasonTimestampMissing},
		{"Paddle-Signature", "ts=;h1=" + mac, source.ReasonTimestampMalformed},
		{"Paddle-Signature", "ts=1710929255;ts=1710929255;h1=" + mac, source.ReasonTimestampMalformed},
		{"Paddle-Signature", "ts=1710929255;h1=" + mac[:62], source.ReasonSignatureMalformed},
		{"Paddle-Signature", "ts=1710929255,h1=" + mac, source.ReasonSignatureMalformed},
		{"Paddle-Signature", "ts=1710929255;" + strings.Repeat("h1="+mac+";", 16) + "h1=" + mac, source.ReasonSignatureMalformed},
		{"Paddle-Signature", "ts=1710929256;h1=" + mac, source.ReasonSignatureMismatch},
	})
}

// Its library cannot read two h1, which Paddle sends while a secret is rotated; we can, whichever of them is ours.
func TestPaddleTakesAnyOfSeveralSignatures(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("paddle")
	signed(t, "paddle", func(r source.Request, secret string) {
		whole := r.Header.Get("Paddle-Signature")
		timestamp, ours, _ := strings.Cut(whole, ";")
		other := "h1=" + strings.Repeat("0", 64)
		for _, value := range []string{timestamp + ";" + other + ";" + ours, timestamp + ";" + ours + ";" + other, ours + ";" + timestamp, whole + ";v9=x"} {
			r.Header.Set("Paddle-Signature", value)
			_, err := s.Verify(r, []string{secret}, nil)
			require.NoError(t, err, value)
		}
	})
}

func TestPaddlesLibraryAcceptsOurSignature(t *testing.T) {
	t.Parallel()
	signed(t, "paddle", func(r source.Request, secret string) {
		verify := func(secret string, body []byte) bool {
			request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			request.Header = r.Header
			held, err := paddle.NewWebhookVerifier(secret).Verify(request)
			return err == nil && held
		}
		require.True(t, verify(secret, r.Body))
		require.False(t, verify(secret+"x", r.Body))
		require.False(t, verify(secret, r.Body[1:]))
	})
}

func TestPaddleSecretIsOfADestination(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("paddle")
	require.NoError(t, s.CheckSecret("pdl_ntfset_01hsdn8d43dt7mezr1ef2jtbaw_x", nil))
	require.Error(t, s.CheckSecret("pdl_live_apikey_01gtgztp8f4kek3yd4g1wrksa3", nil))
}
