package source_test

import (
	"encoding/json"
	"hash/crc32"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestPayPalEvents(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("paypal")
	for _, c := range []struct{ title, body, id, kind, at, entity string }{
		{
			"Capture", `{"id":"WH-1","create_time":"2026-03-04T11:00:00.940Z","resource_type":"capture","event_type":"PAYMENT.CAPTURE.COMPLETED","resource":{"id":"3C67"}}`,
			"WH-1", "PAYMENT.CAPTURE.COMPLETED", "2026-03-04T11:00:00.94Z", "capture:3C67",
		},
		{
			"Dispute", `{"id":"WH-2","create_time":"2026-03-04T11:00:00Z","resource_type":"dispute","event_type":"CUSTOMER.DISPUTE.UPDATED","resource":{"dispute_id":"PP-D-1"}}`,
			"WH-2", "CUSTOMER.DISPUTE.UPDATED", "2026-03-04T11:00:00Z", "dispute:PP-D-1",
		},
		{
			"Invoice", `{"id":"WH-3","resource_type":"invoices","event_type":"INVOICING.INVOICE.PAID","resource":{"invoice":{"id":"INV2-1"}}}`,
			"WH-3", "INVOICING.INVOICE.PAID", "", "invoices:INV2-1",
		},
		{
			"Payout", `{"id":"WH-4","resource_type":"payouts","event_type":"PAYMENT.PAYOUTSBATCH.SUCCESS","resource":{"batch_header":{"payout_batch_id":"B-1"}}}`,
			"WH-4", "PAYMENT.PAYOUTSBATCH.SUCCESS", "", "payouts:B-1",
		},
		{"NothingKnown", `{"id":"WH-5","event_type":"NEW.THING","resource":[]}`, "WH-5", "NEW.THING", "", ""},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			events, err := s.Events(source.Request{Header: headers("Paypal-Transmission-Id", "tr-1"), Body: []byte(c.body)}, nil)
			require.NoError(t, err)
			require.Equal(t, "paypal:tr-1", events[0].Once)
			require.Equal(t, []source.Event{{ID: c.id, Type: c.kind, OccurredAt: at(t, c.at), Entity: c.entity}}, named(events))
		})
	}
	for _, bad := range []string{"", "[]", "{}", `{"id":"WH-1"}`} {
		_, err := s.Events(source.Request{Header: headers("Paypal-Transmission-Id", "tr-1"), Body: []byte(bad)}, nil)
		requireReason(t, err, source.ReasonPayloadMalformed)
	}
	_, err := s.Events(source.Request{Header: headers("Paypal-Transmission-Id", "tr-1"), Body: []byte(`{"event_type":"X"}`)}, nil)
	requireReason(t, err, source.ReasonIDMissing)
	_, err = s.Events(source.Request{Body: []byte(`{"id":"WH-1","event_type":"X"}`)}, nil)
	requireReason(t, err, source.ReasonIDMissing)
}

// What PayPal signs of the body is a CRC-32, which another body can have. Such a forgery verifies, and is caught by the key
// that is taken once.
func TestPayPalForgedBodyHasTheOnceOfTheGenuine(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("paypal")
	one := subject{Source: s}
	key := one.key(t, 0)
	r := one.deliver(t, s.Samples[0], "tr-1", key)
	genuine, err := s.Events(r, nil)
	require.NoError(t, err)

	forged := r
	forged.Body = withCRC([]byte(`{"id":"WH-forged","event_type":"PAYMENT.CAPTURE.COMPLETED","resource":{},"pad":"`), []byte(`"}`), crc32.ChecksumIEEE(r.Body))
	require.True(t, json.Valid(forged.Body))
	_, err = s.Verify(forged, []string{key.Verify}, nil)
	require.NoError(t, err, "which is why BodySigned is false")
	require.False(t, s.BodySigned(nil))
	events, err := s.Events(forged, nil)
	require.NoError(t, err)
	require.NotEqual(t, genuine[0].ID, events[0].ID)
	require.Equal(t, genuine[0].Once, events[0].Once)

	forged.Body = append(forged.Body, ' ')
	_, err = s.Verify(forged, []string{key.Verify}, nil)
	requireReason(t, err, source.ReasonSignatureMismatch)
}

// withCRC fills letters between two texts so that the whole has a CRC-32. The checksum is linear, so each bit of the wanted
// difference is a sum of the differences that single letters make.
func withCRC(before, after []byte, want uint32) []byte {
	const letters = 64
	text := append(append([]byte{}, before...), make([]byte, letters)...)
	for i := range letters {
		text[len(before)+i] = 'a' // 0x61; setting bit 1 makes it c
	}
	text = append(text, after...)
	base := crc32.ChecksumIEEE(text)
	type row struct {
		effect uint32
		flips  uint64
	}
	var basis [32]row
	for i := range letters {
		text[len(before)+i] ^= 2
		r := row{crc32.ChecksumIEEE(text) ^ base, 1 << i}
		text[len(before)+i] ^= 2
		for bit := 31; bit >= 0 && r.effect != 0; bit-- {
			if r.effect>>bit&1 == 0 {
				continue
			}
			if basis[bit].effect == 0 {
				basis[bit] = r
				break
			}
			r.effect, r.flips = r.effect^basis[bit].effect, r.flips^basis[bit].flips
		}
	}
	left, flips := want^base, uint64(0)
	for bit := 31; bit >= 0; bit-- {
		if left>>bit&1 == 1 {
			left, flips = left^basis[bit].effect, flips^basis[bit].flips
		}
	}
	for i := range letters {
		if flips>>i&1 == 1 {
			text[len(before)+i] ^= 2
		}
	}
	return text
}

func TestPayPalRefusesOtherSchemes(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("paypal")
	one := subject{Source: s}
	key := one.key(t, 0)
	for _, c := range []struct{ name, value, reason string }{
		{"Paypal-Auth-Algo", "SHA1withRSA", source.ReasonSignatureMalformed},
		{"Paypal-Auth-Algo", "sha256withrsa", source.ReasonSignatureMalformed},
		{"Paypal-Auth-Algo", "", source.ReasonSignatureMissing},
		{"Paypal-Transmission-Time", "1772625600", source.ReasonTimestampMalformed},
		{"Paypal-Transmission-Time", "2026-03-04T12:00:00Z|x", source.ReasonSignatureMalformed},
		{"Paypal-Transmission-Time", "2026-03-04T12:00:01Z", source.ReasonSignatureMismatch},
		{"Paypal-Transmission-Id", "tr-2", source.ReasonSignatureMismatch},
		{"Paypal-Transmission-Sig", "AAAA", source.ReasonSignatureMalformed},
		{"Paypal-Transmission-Sig", "not base64", source.ReasonSignatureMalformed},
	} {
		r := one.deliver(t, s.Samples[0], "tr-1", key)
		r.Header.Set(c.name, c.value)
		_, err := s.Verify(r, []string{key.Verify}, nil)
		requireReason(t, err, c.reason)
	}
	r := one.deliver(t, s.Samples[0], "tr-1", key)
	_, err := s.Verify(r, []string{"WEBHOOK_ID", "1JE4291016473214C"}, nil)
	requireReason(t, err, source.ReasonSignatureMismatch)
	for secret, good := range map[string]bool{
		"1JE4291016473214C": true, "WEBHOOK_ID": false, "WH-2WR32451HC0233532-67976317FL4543714": false, "": false, "short": false,
	} {
		require.Equal(t, good, s.CheckSecret(secret, nil) == nil, secret)
	}
}

// A retry has the time of the first transmission, so it is taken for as long as PayPal retries.
func TestPayPalWindowCoversTheRetries(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("paypal")
	require.Greater(t, s.Window(nil).Past, 3*24*time.Hour)
	narrow, faults := s.ParseSettings(json.RawMessage(`{"window_seconds": 300}`))
	require.Empty(t, faults)
	require.Equal(t, source.Window{Past: 5 * time.Minute, Future: 5 * time.Minute}, s.Window(narrow))
	for _, raw := range []string{`{"window_seconds": 0}`, `{"window_seconds": 99999999}`, `{"window_seconds": "300"}`, `{"window": 1}`} {
		_, faults = s.ParseSettings(json.RawMessage(raw))
		require.Len(t, faults, 1, raw)
	}
}
