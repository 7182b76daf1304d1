package jobs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"net/netip"
	"net/smtp"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/outbound"
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
	server smtpServer
	from   *netmail.Address
	domain string // of the sender
	door   *outbound.Door
	now    func() time.Time
}

// smtpServer is where and how mail is handed over.
type smtpServer struct {
	host, address  string
	user, password string
	implicit       bool // encrypted from the start
}

// The ports of mail submission (RFC 8314).
const (
	smtpPort  = "587"
	smtpsPort = "465"
)

// NewMailer makes a Mailer; nil without an error where no URL is given. An error repeats nothing of the URL.
func NewMailer(c MailConfig) (*Mailer, error) {
	if c.URL.Empty() {
		return nil, nil //nolint:nilnil // no server: the notices say so
	}
	server, err := parseSMTP(c.URL.Reveal())
	if err != nil {
		return nil, err
	}
	from, err := parseSender(c.From)
	if err != nil {
		return nil, fmt.Errorf("the sender of mail, %q: %w", c.From, err)
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	return &Mailer{server: server, from: from, domain: domain, door: c.Door, now: c.Now}, nil
}

// CheckMailURL says whether text can be the URL of a MailConfig. Its error repeats nothing of it.
func CheckMailURL(text string) error {
	_, err := parseSMTP(text)
	return err
}

// CheckMailSender says whether text can be the sender of a MailConfig.
func CheckMailSender(text string) error {
	_, err := parseSender(text)
	return err
}

var errMailSender = errors.New("expected an address, such as Sluice <alerts@example.com>")

func parseSender(text string) (*netmail.Address, error) {
	from, err := netmail.ParseAddress(text)
	if err != nil || CheckMailAddress(from.Address) != nil {
		return nil, errMailSender
	}
	return from, nil
}

var errMailURL = errors.New("expected smtp://user:password@host:587 or smtps://user:password@host:465")

func parseSMTP(text string) (smtpServer, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return smtpServer{}, errMailURL
	}
	s := smtpServer{host: u.Hostname(), user: u.User.Username(), implicit: u.Scheme == "smtps"}
	s.password, _ = u.User.Password()
	port := u.Port()
	switch {
	case port == "" && s.implicit:
		port = smtpsPort
	case port == "":
		port = smtpPort
	default:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return smtpServer{}, errMailURL
		}
	}
	s.address = net.JoinHostPort(s.host, port)
	return s, nil
}

// local says whether the server is on this machine.
func (s smtpServer) local() bool {
	addr, err := netip.ParseAddr(s.host)
	return s.host == "localhost" || err == nil && addr.IsLoopback()
}

// The bounds of an address (RFC 5321, section 4.5.3.1).
const (
	mailAddressMax = 254
	mailLocalMax   = 64
)

// The characters of an address that every server takes. Quoted names, comments and other alphabets are refused: what is read in two ways by two
// programs goes to somebody else.
const (
	mailLocalRunes  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
	mailDomainRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
)

var errMailAddress = errors.New("expected an e-mail address, such as oncall@example.com")

// CheckMailAddress says whether mail can be sent to a bare address.
func CheckMailAddress(address string) error {
	local, domain, _ := strings.Cut(address, "@")
	parsed, err := netmail.ParseAddress(address)
	switch {
	case err != nil, parsed.Address != address, parsed.Name != "", len(address) > mailAddressMax, len(local) > mailLocalMax:
		return errMailAddress
	case strings.Trim(local, mailLocalRunes) != "", strings.Trim(domain, mailDomainRunes) != "":
		return errMailAddress
	case !strings.Contains(domain, "."), strings.HasPrefix(domain, "-"), strings.HasPrefix(domain, "."), strings.HasSuffix(domain, "."):
		return errMailAddress
	}
	if _, err := netip.ParseAddr(domain); err == nil {
		return errMailAddress
	}
	return nil
}

// mail is one message.
type mail struct {
	to            tenants.Secret
	id            string
	subject, text string
}

// send hands a message over to the operator's server, once. Its error is a *noticeFault, in which nothing of the server's own words is: they may
// repeat what was said to it.
func (m *Mailer) send(ctx context.Context, msg mail) error {
	if err := CheckMailAddress(msg.to.Reveal()); err != nil {
		return &noticeFault{message: err.Error(), final: true}
	}
	conn, err := m.door.Dial(ctx, m.server.address, noticeTimeout)
	if err != nil {
		return mailFault(ctx, "the mail server could not be reached", err)
	}
	defer func() { _ = conn.Close() }()
	client, err := m.greet(ctx, conn)
	if err != nil {
		return err
	}
	if err := client.Mail(m.from.Address); err != nil {
		return mailFault(ctx, "the mail server refused the sender", err)
	}
	if err := client.Rcpt(msg.to.Reveal()); err != nil {
		fault := mailFault(ctx, "the mail server refused the address", err)
		fault.final = replyCode(err)/100 == permanentReply
		return fault
	}
	w, err := client.Data()
	if err != nil {
		return mailFault(ctx, "the mail server refused the message", err)
	}
	_, err = w.Write(m.write(msg))
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return mailFault(ctx, "the mail server did not take the message", err)
	}
	// It was taken: how the parting goes does not matter.
	_ = client.Quit()
	return nil
}

// greet says who we are, over an encrypted connection.
func (m *Mailer) greet(ctx context.Context, conn net.Conn) (*smtp.Client, error) {
	if m.server.implicit {
		conn = tls.Client(conn, m.door.TLS(m.server.host))
	}
	client, err := smtp.NewClient(conn, m.server.host)
	if err == nil {
		err = client.Hello(m.domain)
	}
	if err != nil {
		return nil, mailFault(ctx, "the mail server did not greet as one", err)
	}
	encrypted := m.server.implicit
	if offered, _ := client.Extension("STARTTLS"); !encrypted && offered {
		if err := client.StartTLS(m.door.TLS(m.server.host)); err != nil {
			return nil, mailFault(ctx, "no secure connection to the mail server could be made", err)
		}
		encrypted = true
	}
	if !encrypted && !m.server.local() {
		return nil, &noticeFault{message: "the mail server offers no secure connection"}
	}
	if m.server.user == "" {
		return client, nil
	}
	if err := client.Auth(smtp.PlainAuth("", m.server.user, m.server.password, m.server.host)); err != nil {
		return nil, mailFault(ctx, "the mail server refused our login", err)
	}
	return client, nil
}

// write makes the message as it is sent. No header holds a line's end: the subject is encoded, and the addresses were checked.
func (m *Mailer) write(msg mail) []byte {
	var b bytes.Buffer
	for _, line := range [][2]string{
		{"From", m.from.String()}, {"To", msg.to.Reveal()}, {"Subject", mime.QEncoding.Encode("utf-8", plain(msg.subject, subjectMax))},
		{"Date", m.now().UTC().Format(time.RFC1123Z)},
		// The same for every try, so that a second copy can be known for what it is.
		{"Message-ID", "<" + msg.id + "@" + m.domain + ">"},
		{"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(line[0] + ": " + line[1] + "\r\n")
	}
	b.WriteString("\r\n")
	body := quotedprintable.NewWriter(&b)
	_, _ = body.Write([]byte(strings.ReplaceAll(msg.text, "\n", "\r\n"))) // a buffer takes everything
	_ = body.Close()
	return b.Bytes()
}

// permanentReply is the first digit of the replies that no repetition changes (RFC 5321, section 4.2.1).
const permanentReply = 5

// replyCode is the code that the server answered with, 0 if it did not answer.
func replyCode(err error) int {
	if reply, ok := errors.AsType[*textproto.Error](err); ok {
		return reply.Code
	}
	return 0
}

// mailFault says how far a message came.
func mailFault(ctx context.Context, message string, err error) *noticeFault {
	if code := replyCode(err); code > 0 {
		return &noticeFault{message: message + ": it answered " + strconv.Itoa(code)}
	}
	return &noticeFault{message: message, stopped: errors.Is(ctx.Err(), context.Canceled), cause: err}
}
