package jobs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/http/httptest"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

// smtpPassword holds characters that a URL must escape.
const smtpPassword = "p/ss:w@rd c4n4ry"

// certified is a certificate for 127.0.0.1, and those who trust it.
func certified(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12}, roots
}

// newMailbox plays a mail server, and returns a Mailer to it.
func newMailbox(t *testing.T, c scripted.MailConfig, scheme, login string, roots *x509.CertPool) (*scripted.Mailbox, *jobs.Mailer) {
	t.Helper()
	c.Now = time.Now
	box := scripted.NewMailbox(c)
	address, err := box.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = box.Close() })
	mailer, err := jobs.NewMailer(jobs.MailConfig{
		URL: tenants.NewSecret(scheme + "://" + login + address), From: "Slüice <alerts@sluice.example>", Door: outbound.New(outbound.Config{RootCAs: roots}), Now: time.Now,
	})
	require.NoError(t, err)
	return box, mailer
}

// mailTo keeps a channel that is told by mail.
func (n *noticeHouse) mailTo(address string) {
	n.t.Helper()
	n.channelTo(db.ChannelEmail, db.AlertAddress{Email: tenants.NewSecret(address)})
}

func TestMailIsHandedOverEncryptedAndOnce(t *testing.T) {
	t.Parallel()
	config, roots := certified(t)
	login := "relay:" + strings.NewReplacer("/", "%2F", "@", "%40", ":", "%3A", " ", "%20").Replace(smtpPassword) + "@"
	for name, c := range map[string]struct {
		scheme   string
		implicit bool
	}{"STARTTLS": {"smtp", false}, "TLS from the start": {"smtps", true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box, mailer := newMailbox(t, scripted.MailConfig{TLS: config, Implicit: c.implicit, User: "relay", Password: smtpPassword}, c.scheme, login, roots)
			n := newNoticeHouse(t, mailer)
			n.mailTo("oncall@example.com")
			n.tell()
			n.begin(db.AlertRejections, "end_x\r\nBcc: other@example.com", "Überzählig\r\n.\r\nBcc: x@example.com <b>"+strings.Repeat(" long", 400))
			n.post()
			require.True(t, n.settled()[0].delivered, "%+v", n.notices())
			n.end(db.AlertRejections, "end_x\r\nBcc: other@example.com")
			n.post()
			n.settled()
			n.post()
			messages := box.Journal()
			require.Len(t, messages, 2)
			for i, m := range messages {
				require.True(t, m.Encrypted)
				require.Equal(t, "relay", m.User)
				require.Equal(t, "alerts@sluice.example", m.From)
				require.Equal(t, []string{"oncall@example.com"}, m.To)
				parsed, err := netmail.ReadMessage(bytes.NewReader(m.Data))
				require.NoError(t, err)
				require.Empty(t, parsed.Header["Bcc"])
				require.Len(t, parsed.Header, 9)
				require.Regexp(t, `^<ntc_[0-9a-f]{32}@sluice\.example>$`, parsed.Header.Get("Message-Id"))
				require.Equal(t, "auto-generated", parsed.Header.Get("Auto-Submitted"))
				subject, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject"))
				require.NoError(t, err)
				require.Equal(t, "[Sluice] Alert "+[]string{"began", "ended"}[i]+": rejections (end_x  Bcc: other@example.com)", subject)
				body, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
				require.NoError(t, err)
				require.Contains(t, string(body), "Überzählig  .  Bcc: x@example.com <b>")
				require.Less(t, len(body), 2000)
				for line := range strings.SplitSeq(string(m.Data), "\r\n") {
					require.LessOrEqual(t, len(line), 998, "RFC 5322, section 2.1.1")
				}
			}
			require.NotContains(t, n.log.String(), "c4n4ry")
			require.NotContains(t, n.log.String(), "oncall@example.com")
		})
	}
}

func TestMailThatIsNotTaken(t *testing.T) {
	t.Parallel()
	config, roots := certified(t)
	for name, c := range map[string]struct {
		user, login string
		tls         *tls.Config
		roots       *x509.CertPool
		verb, reply string
		fault       string
		final       bool
	}{
		"later":            {tls: config, roots: roots, verb: "RCPT", reply: "451 4.7.1 greylisted c4n4ry", fault: "the mail server refused the address: it answered 451"},
		"nobody":           {tls: config, roots: roots, verb: "RCPT", reply: "550 5.1.1 no c4n4ry", fault: "the mail server refused the address: it answered 550", final: true},
		"full":             {tls: config, roots: roots, verb: "END", reply: "452 c4n4ry", fault: "the mail server did not take the message: it answered 452"},
		"sender":           {tls: config, roots: roots, verb: "MAIL", reply: "553 c4n4ry", fault: "the mail server refused the sender: it answered 553"},
		"login":            {tls: config, roots: roots, user: "relay", login: "relay:c4n4ry@", fault: "the mail server refused our login: it answered 535"},
		"untrusted":        {tls: config, fault: "no secure connection to the mail server could be made"},
		"no mail server":   {tls: config, roots: roots, verb: "EHLO", reply: "502 c4n4ry", fault: "the mail server did not greet as one: it answered 502"},
		"data is not good": {verb: "DATA", reply: "554 c4n4ry", fault: "the mail server refused the message: it answered 554"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box, mailer := newMailbox(t, scripted.MailConfig{TLS: c.tls, User: c.user, Password: smtpPassword}, "smtp", c.login, c.roots)
			// HELO follows an EHLO that was refused.
			box.Script(c.verb, c.reply, c.reply)
			n := newNoticeHouse(t, mailer)
			n.mailTo("oncall@example.com")
			n.tell()
			n.begin(db.AlertRejections, "end_x", "Many.")
			n.post()
			row := n.settled()[0]
			require.Equal(t, c.fault, row.fault)
			require.Equal(t, c.final, row.givenUp)
			require.Empty(t, box.Journal())
			require.NotContains(t, n.log.String(), "c4n4ry")
			if c.final || c.verb == "" {
				return
			}
			box.Script(c.verb)
			n.hurry()
			n.post()
			require.True(t, n.settled()[0].delivered)
			require.Len(t, box.Journal(), 1)
		})
	}
}

func TestMailServersThatAreTaken(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{
		"smtp://mail.example.com": true, "smtp://u:p@mail.example.com:2525": true, "smtps://u@mail.example.com": true, "smtp://[::1]:25": true,
		"": false, "mail.example.com:25": false, "https://mail.example.com": false, "smtp://": false, "smtp://h/path": false, "smtp://h?x=1": false,
		"smtp://h:0": false, "smtp://h:99999": false, "smtp://u:c4n4ry@h:port": false, "smtp://u:c4n4ry@h#x": false,
	} {
		err := jobs.CheckMailURL(text)
		require.Equal(t, good, err == nil, "%s: %v", text, err)
		if err != nil {
			require.NotContains(t, err.Error(), "c4n4ry")
		}
	}
	_, err := jobs.NewMailer(jobs.MailConfig{URL: tenants.NewSecret("smtp://h:25")})
	require.ErrorContains(t, err, "the sender of mail")
	none, err := jobs.NewMailer(jobs.MailConfig{})
	require.NoError(t, err)
	require.Nil(t, none)
}

func TestMailAddressesThatAreTaken(t *testing.T) {
	t.Parallel()
	for address, good := range map[string]bool{
		"a@example.com": true, "on.call+x@mail.example.co": true, "o'neil_1@example.com": true,
		"": false, "a": false, "a@b": false, "@example.com": false, "a@": false, "A <a@example.com>": false, "<a@example.com>": false,
		"a@example.com, b@example.com": false, "a@example.com\r\nRCPT TO:<b@example.com>": false, "a@example.com\n": false, " a@example.com": false,
		`"a b"@example.com`: false, "a@[127.0.0.1]": false, "a@127.0.0.1": false, "ä@example.com": false, "a@exämple.com": false, "a(x)@example.com": false,
		"a@example..com": false, "a@.example.com": false, "a@example.com.": false, "a@-example.com": false,
		strings.Repeat("a", 65) + "@example.com": false, "a@" + strings.Repeat("a.", 130) + "com": false,
	} {
		err := jobs.CheckMailAddress(address)
		require.Equal(t, good, err == nil, "%q: %v", address, err)
	}
}
