package source_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestIntercomEvents(t *testing.T) {
	t.Parallel()
	notification := func(topic, item string) string {
		return `{"type":"notification_event","app_id":"w","id":"notif_1","topic":"` + topic + `","created_at":1735689600,"first_sent_at":1735689601,"data":{"item":` + item + `}}`
	}
	one := func(kind, about string) source.Event {
		return source.Event{ID: "notif_1", Type: kind, OccurredAt: at(t, "2025-01-01T00:00:00Z"), Entity: about}
	}
	requireRead(t, "intercom", []read{
		{title: "Company", body: notification("company.created", `{"type":"company","id":"531e"}`), want: one("company.created", "company:531e")},
		{title: "ConversationWithATicketInIt", body: notification("conversation.user.replied", `{"type":"conversation","id":"2","ticket":{"type":"ticket","id":3}}`),
			want: one("conversation.user.replied", "conversation:2")},
		{title: "TagOfAContactIsAboutTheContact", body: notification("contact.user.tag.created", `{"type":"contact_tag","created_at":1,"tag":{"type":"tag","id":"9"},"contact":{"type":"contact","id":"67a9"}}`),
			want: one("contact.user.tag.created", "contact:67a9")},
		{title: "PartOfATicketIsAboutTheTicket", body: notification("ticket.note.created", `{"type":"ticket_part","id":"8","ticket":{"type":"ticket","id":9007199254740993}}`),
			want: one("ticket.note.created", "ticket:9007199254740993")},
		{title: "Other", body: notification("content_stat.news_item", `{"type":"content_stat","id":"5"}`), want: one("content_stat.news_item", "content_stat:5")},
		{title: "NoItem", body: notification("x", `null`), want: one("x", "")},
		{title: "NoTopic", body: `{"id":"notif_1"}`, reason: source.ReasonPayloadMalformed},
		{title: "NoID", body: strings.Replace(notification("company.created", `{}`), `"notif_1"`, `null`, 1), reason: source.ReasonIDMissing},
	})
}

func TestIntercomPingIsAnEventOfItsTime(t *testing.T) {
	t.Parallel()
	ping := `{"type":"notification_event","app_id":"w","id":null,"topic":"ping","delivery_attempts":1,"created_at":1513466985,"data":{"item":{"type":"ping","message":"m"}}}`
	first := idOf(t, "intercom", ping)
	require.Equal(t, first, idOf(t, "intercom", strings.Replace(ping, `"delivery_attempts":1`, `"delivery_attempts":2`, 1)))
	require.NotEqual(t, first, idOf(t, "intercom", strings.Replace(ping, "6985", "6986", 1)))
	require.NotEqual(t, first, idOf(t, "intercom", strings.Replace(ping, `"w"`, `"v"`, 1)))
	require.Nil(t, get(t, "intercom").Handshake)
}

func TestIntercomHeaders(t *testing.T) {
	t.Parallel()
	const mac = "6516c3e2b686a60a618cd7c0a55233d02b8600e2"
	requireRefused(t, "intercom", "ic-secret", []forgery{
		{"X-Hub-Signature", "", source.ReasonSignatureMissing},
		{"X-Hub-Signature", mac, source.ReasonSignatureMalformed},
		{"X-Hub-Signature", "sha256=" + mac, source.ReasonSignatureMalformed},
		{"X-Hub-Signature", "sha1=" + mac[:38], source.ReasonSignatureMalformed},
		{"X-Hub-Signature", "sha1=" + mac, source.ReasonSignatureMismatch},
	})
}
