package jobs

import (
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"time"

	"sluice/jobs/outbound"
	"sluice/jobs/outbound/mail"
	"sluice/tenants"
)

// MailConfig says how mail leaves.
type MailConfig struct {
	// URL is smtp://user:password@host:587, which begins in the clear and must be encrypted before anything is said (STARTTLS), or smtps://...:465,
	// which is encrypted from the start. Only a server on this machine may go without.
	URL tenants.Secret
	// From is the sender: an address, with or without a name.
	From string
	Door *outbound.Door
	Now  func() time.Time
}

// Mailer sends mail through the operator's server. It is safe for concurrent use.
type Mailer struct {
	server mail.Server
	from   *netmail.Address
	door   *outbound.Door
	now    func() time.Time
}

// NewMailer makes a Mailer; nil without an error where no URL is given. An error repeats nothing of the URL.
func NewMailer(c MailConfig) (*Mailer, error) {
	if c.URL.Empty() {
		return nil, nil //nolint:nilnil // no server: the notices say so
	}
	server, err := mail.ParseServer(c.URL.Reveal())
	if err != nil {
		return nil, err
	}
	from, err := mail.ParseSender(c.From)
	if err != nil {
		return nil, fmt.Errorf("the sender of mail, %q: %w", c.From, err)
	}
	return &Mailer{server: server, from: from, door: c.Door, now: c.Now}, nil
}

// CheckMailURL says whether text can be the URL of a MailConfig. Its error repeats nothing of it.
func CheckMailURL(text string) error {
	_, err := mail.ParseServer(text)
	return err
}

// CheckMailSender says whether text can be the sender of a MailConfig.
func CheckMailSender(text string) error {
	_, err := mail.ParseSender(text)
	return err
}

// CheckMailAddress says whether mail can be sent to a bare address.
func CheckMailAddress(address string) error { return mail.CheckAddress(address) }

// letter is one message.
type letter struct {
	to            tenants.Secret
	id            string
	subject, text string
}

// send hands a message over to the operator's server, once. Its error is a *noticeFault, in which nothing of the server's own words is: they may
// repeat what was said to it.
func (m *Mailer) send(ctx context.Context, l letter) error {
	if err := mail.CheckAddress(l.to.Reveal()); err != nil {
		return &noticeFault{message: err.Error(), final: true}
	}
	conn, err := m.door.Dial(ctx, m.server.Address, noticeTimeout)
	if err != nil {
		return mailFault(ctx, "the mail server could not be reached", err)
	}
	defer func() { _ = conn.Close() }()
	client, err := mail.Greet(conn, m.server, m.door.TLS(m.server.Host), mail.DomainOf(m.from.Address))
	if err == nil {
		err = mail.Deliver(client, mail.Message{
			From: m.from, To: l.to.Reveal(), ID: l.id, Auto: "auto-generated", Subject: plain(l.subject, subjectMax), Text: l.text, At: m.now(),
		})
	}
	if err != nil {
		return mailFault(ctx, err.Error(), err)
	}
	return nil
}

// mailFault says how far a message came.
func mailFault(ctx context.Context, message string, err error) *noticeFault {
	if e, ok := errors.AsType[*mail.Error](err); ok && (e.Code > 0 || e.Step == mail.StepInsecure) {
		return &noticeFault{message: message, final: e.Step == mail.StepRecipient && e.Permanent()}
	}
	return &noticeFault{message: message, stopped: errors.Is(ctx.Err(), context.Canceled), cause: err}
}
