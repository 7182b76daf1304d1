package action

import (
	"context"
	"errors"
	"fmt"
	"net"
	netsmtp "net/smtp"
	"strings"
	"time"

	"sluice/jobs/outbound"
	"sluice/jobs/outbound/mail"
)

// smtp is a tenant's own mail server (RFC 5321, RFC 6409), reached through the door that guards addresses.
type smtp struct{ door *outbound.Door }

const (
	smtpSecretBytesMin = 3
	smtpSecretBytesMax = 1024
	// smtpName is who we are in the greeting of a test, where there is no sender yet. RFC 2606 keeps it from being somebody.
	smtpName = "sluice.invalid"
)

// smtpAccount is a login at a mail server.
func smtpAccount(door *outbound.Door) Account {
	c := smtp{door: door}
	return Account{
		Kind: "smtp", BaseDoc: "the mail server: smtp://HOST:587, which must offer STARTTLS, or smtps://HOST:465",
		SecretDoc: "user:password of the mail server", Check: checkLogin, BaseCheck: c.checkServer,
		Test: func(ctx context.Context, a Access, _ time.Time) (Identity, error) {
			client, done, err := c.open(ctx, a, smtpName)
			if err != nil {
				return Identity{}, err
			}
			defer done()
			_ = client.Quit() // it has taken the login: how the parting goes does not matter
			// No source of events names the sender of a mail by a login.
			return Identity{Note: "the mail server took the login"}, nil
		},
	}
}

// checkLogin tells whether a secret is a user and a password.
func checkLogin(secret string) error {
	user, password, _ := strings.Cut(secret, ":")
	if user == "" || password == "" || len(secret) < smtpSecretBytesMin || len(secret) > smtpSecretBytesMax ||
		strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r == '\x7f' }) {
		return fmt.Errorf("expected user:password, of at most %d bytes and without control characters", smtpSecretBytesMax)
	}
	return nil
}

var errServer = errors.New("expected smtp://HOST:587 or smtps://HOST:465, without a user: the login is the secret")

// checkServer tells whether a credential may name a mail server.
func (c smtp) checkServer(base string) error {
	server, err := mail.ParseServer(base)
	if err != nil || strings.Contains(base, "@") {
		return errServer
	}
	return c.door.CheckDial(server.Address)
}

// open connects, encrypts and logs in. Its error is an *Error, and has nothing in doubt: nothing was handed over yet.
func (c smtp) open(ctx context.Context, a Access, name string) (*netsmtp.Client, func(), error) {
	if checkLogin(a.Secret) != nil {
		return nil, nil, refused(CodeCredential, "the credential's secret is missing, or is not user:password")
	}
	server, err := mail.ParseServer(a.Base)
	if err != nil || strings.Contains(a.Base, "@") {
		return nil, nil, refused(CodeCredential, "the credential's address is not that of a mail server")
	}
	server.User, server.Password, _ = strings.Cut(a.Secret, ":")
	conn, err := c.door.DialTenant(ctx, server.Address)
	if err != nil {
		return nil, nil, undelivered(err)
	}
	client, err := mail.Greet(conn, server, c.door.TLS(server.Host), name)
	if err != nil {
		_ = conn.Close()
		return nil, nil, mailFailure(ctx, err)
	}
	return client, func() { _ = conn.Close() }, nil
}

// The first digit of the replies after which the same may succeed later (RFC 5321, section 4.2.1).
const transientReply = 4

// mailFailure translates how a conversation with a mail server ended.
func mailFailure(ctx context.Context, err error) *Error {
	e, ok := errors.AsType[*mail.Error](err)
	if !ok {
		return &Error{Code: CodeBroken, Kind: Retry, Message: "the message could not be handed over", Doubt: true, cause: err}
	}
	result := &Error{Kind: Retry, Code: CodeBroken, Message: e.Error(), Doubt: e.Doubt, cause: e.Unwrap()}
	timeout, slow := errors.AsType[net.Error](err)
	switch {
	case e.Code/100 == transientReply:
		result.Code = CodeStatus4xx
	case e.Code > 0 && e.Step == mail.StepLogin:
		result.Code, result.Kind = CodeUnauthorized, Refused
	case e.Code > 0:
		result.Code, result.Kind = CodeRefused, Refused
	case e.Step == mail.StepInsecure:
		result.Code, result.Kind = CodeTLS, Refused
	case errors.Is(ctx.Err(), context.Canceled):
		result.Code = CodeCanceled
	case slow && timeout.Timeout():
		result.Code = CodeTimeout
	case e.Step == mail.StepSecure:
		result.Code = CodeTLS
	}
	return result
}
