package scripted_test

import (
	"net/smtp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// mailAt is the clock of these journals.
var mailAt = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newMailbox(t *testing.T, c scripted.MailConfig) (*scripted.Mailbox, string) {
	t.Helper()
	c.Now = func() time.Time { return mailAt }
	box := scripted.NewMailbox(c)
	address, err := box.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = box.Close() })
	return box, address
}

func TestMailboxKeepsWhatItIsSent(t *testing.T) {
	t.Parallel()
	box, address := newMailbox(t, scripted.MailConfig{User: "u", Password: "p"})
	message := []byte("Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n")
	require.ErrorContains(t, smtp.SendMail(address, nil, "a@x.example", []string{"b@x.example"}, message), "530")
	require.ErrorContains(t, smtp.SendMail(address, smtp.PlainAuth("", "u", "wrong", "127.0.0.1"), "a@x.example", []string{"b@x.example"}, message), "535")
	login := smtp.PlainAuth("", "u", "p", "127.0.0.1")
	box.Script("RCPT", "250 known", "550 nobody")
	require.ErrorContains(t, smtp.SendMail(address, login, "a@x.example", []string{"b@x.example", "c@x.example"}, message), "550")
	box.Script("END", "452 full")
	require.ErrorContains(t, smtp.SendMail(address, login, "a@x.example", []string{"b@x.example"}, message), "452")
	require.Empty(t, box.Journal())
	require.NoError(t, smtp.SendMail(address, login, "a@x.example", []string{"b@x.example", "c@x.example"}, message))
	entries, err := box.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, []scripted.MailEntry{{At: mailAt, User: "u", From: "a@x.example", To: []string{"b@x.example", "c@x.example"}, Data: message}}, entries)
}

func TestMailboxListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	_, err := scripted.NewMailbox(scripted.MailConfig{}).Listen("0.0.0.0:0")
	require.ErrorContains(t, err, "loopback")
}
