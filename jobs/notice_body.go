package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sluice/db"
	"sluice/tenants"
)

// This file writes what is told. Details of alerts hold words of strangers, such as a sender's name: to people they are text and nothing else, never
// a link, a mention or a header.

// testAlert is what a test tells in place of an alert.
func testAlert(n db.Notice) db.Alert {
	return db.Alert{
		ID: n.ID, TenantID: n.TenantID, Kind: "test", Subject: tenants.FormatID(tenants.ChannelPrefix, n.ChannelID),
		Detail: "This channel was tried out. Nothing is wrong.", BeganAt: n.CreatedAt, LastAt: n.CreatedAt, EndedAt: &n.CreatedAt,
	}
}

// AlertTold is an alert as webhooks tell it: with the fields and in the words of GET /v1/alerts.
type AlertTold struct {
	ID      string     `json:"id"`
	Kind    string     `json:"kind"`
	Subject string     `json:"subject"`
	Detail  string     `json:"detail"`
	BeganAt time.Time  `json:"began_at"`
	LastAt  time.Time  `json:"last_at"`
	EndedAt *time.Time `json:"ended_at"`
}

// TellAlert writes an alert as webhooks tell it.
func TellAlert(a db.Alert) AlertTold {
	told := AlertTold{
		ID: tenants.FormatID(tenants.AlertPrefix, a.ID), Kind: a.Kind, Subject: a.Subject, Detail: a.Detail, BeganAt: a.BeganAt.UTC(), LastAt: a.LastAt.UTC(),
	}
	if a.EndedAt != nil {
		ended := a.EndedAt.UTC()
		told.EndedAt = &ended
	}
	return told
}

// at is when what is told happened.
func (n *telling) at() time.Time {
	if n.Phase == db.NoticeEnded && n.alert.EndedAt != nil {
		return n.alert.EndedAt.UTC()
	}
	return n.alert.BeganAt.UTC()
}

// webhookBody is the envelope that the Standard Webhooks specification recommends.
func webhookBody(n *telling) ([]byte, error) {
	return jsonOf(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      AlertTold `json:"data"`
	}{"alert." + n.Phase, n.at(), TellAlert(n.alert)})
}

// jsonOf writes without the escapes of HTML.
func jsonOf(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("write a notice: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// The bounds of what people are told, in runes.
const (
	detailMax  = 1000
	subjectMax = 200
)

// heading is the one line that says it.
func (n *telling) heading() string {
	if n.Phase == db.NoticeTest {
		return "Test of an alert channel"
	}
	return plain(fmt.Sprintf("Alert %s: %s (%s)", n.Phase, n.alert.Kind, n.alert.Subject), subjectMax)
}

// span says from when to when.
func (n *telling) span() string {
	began := "Began " + n.alert.BeganAt.UTC().Format(time.RFC3339)
	if n.alert.EndedAt == nil {
		return began + "."
	}
	return began + ", ended " + n.alert.EndedAt.UTC().Format(time.RFC3339) + "."
}

// slackBody is the message of an incoming webhook. verbatim keeps Slack from making links and mentions of what looks like one (docs.slack.dev/
// reference/block-kit/composition-objects/text-object); text is for notifications, and for those who understand no blocks.
func slackBody(n *telling) ([]byte, error) {
	type text struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		Verbatim bool   `json:"verbatim"`
	}
	type block struct {
		Type string `json:"type"`
		Text text   `json:"text"`
	}
	message := "*" + slackText(n.heading(), subjectMax) + "*\n" + slackText(n.alert.Detail, detailMax) + "\n" + n.span()
	return jsonOf(struct {
		Text        string  `json:"text"`
		Blocks      []block `json:"blocks"`
		LinkNames   bool    `json:"link_names"`
		UnfurlLinks bool    `json:"unfurl_links"`
		UnfurlMedia bool    `json:"unfurl_media"`
	}{Text: message, Blocks: []block{{"section", text{"mrkdwn", message, true}}}})
}

// invisible stands in what must not be read as one word: a zero-width space.
const invisible = "\u200b"

// slackEscaper writes the three characters that Slack reads as commands as it wants them written, and takes apart what looks like an address or a
// mention, for whatever reads text without regard to verbatim.
var slackEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "://", ":"+invisible+"//", "www.", "www"+invisible+".", "@", "@"+invisible)

func slackText(s string, most int) string { return slackEscaper.Replace(plain(s, most)) }

// mail is the notice as a message.
func (n *telling) mail() letter {
	lines := []string{
		n.heading(), "", plain(n.alert.Detail, detailMax), "", n.span(),
		"Tenant " + tenants.FormatID(tenants.TenantPrefix, n.TenantID) + ", alert " + tenants.FormatID(tenants.AlertPrefix, n.alert.ID) + ", channel " +
			plain(n.channel.Name, subjectMax) + ".",
	}
	return letter{to: n.to.Email, id: n.key(), subject: "[Sluice] " + n.heading(), text: strings.Join(lines, "\n") + "\n"}
}

// plain makes one line of a text: no control characters, none that turn the direction of the text around, and not longer than most runes.
func plain(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):
			return -1
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most-1]) + "…"
	}
	return strings.TrimSpace(s)
}
