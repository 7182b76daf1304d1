package mail_test

import (
	"bytes"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
	"sluice/jobs/outbound/mail"
	"sluice/scripted"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"a@example.com": true, "on.call+x@mail.example.co": true, "o'neil_1@example.com": true,
		"": false, "a": false, "a@b": false, "@example.com": false, "a@@example.com": false, "a@example.com@evil.example": false, "a@-example.com": false,
		"a@.example.com": false, "a@example..com": false, "a@example.com.": false, "a@127.0.0.1": false, "a@[127.0.0.1]": false, `"a b"@example.com`: false,
		"a@example.com>": false, "<a@example.com>": false, "A <a@example.com>": false, "a@example.com\r\nRCPT TO:<b@example.com>": false, "a@exämple.com": false,
		"a(b)@example.com": false, "a@example.com,b@example.com": false, "a b@example.com": false, strings.Repeat("a", 65) + "@example.com": false,
	} {
		require.Equal(t, ok, mail.CheckAddress(address) == nil, address)
	}
	require.Equal(t, "example.com", mail.DomainOf("a@example.com"))
	_, err := mail.ParseSender("Nobody <nobody>")
	require.Error(t, err)
}

func TestServers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]*mail.Server{
		"smtp://mail.example.com":            {Host: "mail.example.com", Address: "mail.example.com:587"},
		"smtps://mail.example.com":           {Host: "mail.example.com", Address: "mail.example.com:465", Implicit: true},
		"smtp://u:p%2F%40@mail.example:2525": {Host: "mail.example", Address: "mail.example:2525", User: "u", Password: "p/@"},
		"smtp://[::1]:25":                    {Host: "::1", Address: "[::1]:25"},
		"":                                   nil, "mail.example.com:25": nil, "https://mail.example.com": nil, "smtp://": nil, "smtp://h/path": nil, "smtp://h?x=1": nil,
		"smtp://h:0": nil, "smtp://h:99999": nil, "smtp://h#x": nil,
	} {
		got, err := mail.ParseServer(text)
		if want == nil {
			require.ErrorIs(t, err, mail.ErrServer, text)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, *want, got)
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"<a.b+c@mail.example.com>": "<a.b+c@mail.example.com>", " a@b ": "<a@b>", "<a@[10.0.0.1]>": "<a@[10.0.0.1]>",
		"": "", "<>": "", "a": "", "<a b@c>": "", "<a@b>\r\nBcc: x@y": "", "<a@b> <c@d>": "", "<\"a b\"@c>": "", "<a@b\x00>": "", "<ä@b>": "",
		"<" + strings.Repeat("a", 300) + "@b>": "",
	} {
		require.Equal(t, want, mail.KnownID(text), text)
	}
}

// checkMessage reads a message as another program would: it has the headers that are meant and no others, and lines that everybody takes.
func checkMessage(t *testing.T, m mail.Message) *netmail.Message {
	t.Helper()
	raw := m.Bytes()
	for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
		require.LessOrEqual(t, len(line), 998)
		require.NotContains(t, string(line), "\r")
		require.NotContains(t, string(line), "\n")
	}
	read, err := netmail.ReadMessage(bytes.NewReader(raw))
	require.NoError(t, err)
	for name, values := range read.Header {
		require.Contains(t, []string{
			"From", "To", "Subject", "Date", "Message-Id", "In-Reply-To", "References", "Auto-Submitted", "Mime-Version", "Content-Type", "Content-Transfer-Encoding",
		}, name)
		require.Len(t, values, 1)
	}
	require.Equal(t, m.To, read.Header.Get("To"))
	return read
}

func example(subject, text, id string) mail.Message {
	return mail.Message{
		From: &netmail.Address{Name: "Süpport", Address: "support@acme.example"}, To: "ann@example.com", ID: "0123", Auto: "auto-replied",
		InReplyTo: id, References: []string{"<zero@example.com>", id}, Subject: subject, Text: text, At: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("日本語", 100)
	m := checkMessage(t, example(long, "One\n.\nTwo =\n"+strings.Repeat("x", 3000), "<a@b>"))
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, long, subject)
	require.Equal(t, "<zero@example.com> <a@b>", m.Header.Get("References"))
	require.Equal(t, "<0123@acme.example>", m.Header.Get("Message-Id"))
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	require.NoError(t, err)
	require.Equal(t, "One\r\n.\r\nTwo =\r\n"+strings.Repeat("x", 3000), string(body))

	many := example("x", "y", "<a@b>")
	for range 100 {
		many.References = append(many.References, "<"+strings.Repeat("r", 200)+"@example.com>")
	}
	refs := strings.Fields(checkMessage(t, many).Header.Get("References"))
	require.Len(t, refs, 20)
	require.Equal(t, "<zero@example.com>", refs[0], "the one that began it stays")
}

// What a stranger or a model wrote becomes no header, whatever it is.
func FuzzMessage(f *testing.F) {
	f.Add("subject", "text", "<a@b>")
	f.Add("a\r\nBcc: eve@evil.example", "\r\n.\r\nMAIL FROM:<x@y>", "<a@b>\r\nBcc: eve@evil.example")
	f.Add("=?utf-8?q?x?= =?utf-8?q?y?=", "\r \n \r\r\n=\t", "a@b>\nBcc:x")
	f.Add("\x00\u2028\u0085\xff", "\x00\xff", "<\r\n@b>")
	f.Fuzz(func(t *testing.T, subject, text, id string) {
		if len(subject) > 800 {
			return // longer than any that is sent
		}
		m := checkMessage(t, example(subject, text, id))
		if utf8.ValidString(text) {
			_, err := io.ReadAll(quotedprintable.NewReader(m.Body))
			require.NoError(t, err)
		}
	})
}

// A server elsewhere that offers no encryption gets neither the login nor the mail; one on this machine may go without.
func TestMailIsNotSentInTheClear(t *testing.T) {
	t.Parallel()
	for host, step := range map[string]mail.Step{"mail.example.com": mail.StepInsecure, "10.0.0.1": mail.StepInsecure, "mail.localhost": mail.StepInsecure, "127.0.0.1": ""} {
		box := scripted.NewMailbox(scripted.MailConfig{User: "relay", Password: "x", Now: time.Now})
		address, err := box.Listen("127.0.0.1:0")
		require.NoError(t, err)
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		client, err := mail.Greet(conn, mail.Server{Host: host, Address: address, User: "relay", Password: "x"}, outbound.New(outbound.Config{}).TLS(host), "acme.example")
		if step == "" {
			require.NoError(t, err)
			require.NoError(t, mail.Deliver(client, example("x", "y", "")))
			require.Len(t, box.Journal(), 1)
		} else {
			var failed *mail.Error
			require.ErrorAs(t, err, &failed)
			require.Equal(t, step, failed.Step, host)
			require.False(t, failed.Doubt)
			require.Empty(t, box.Journal())
		}
		_ = conn.Close()
		_ = box.Close()
	}
}
