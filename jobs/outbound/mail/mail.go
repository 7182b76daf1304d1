// Package mail writes messages and hands them over to a server by SMTP (RFC 5321), encrypted before anything is said that matters.
//
// It knows addresses, messages and the conversation with a server. It opens no connection: those who call do so through the door that fits, since the
// operator's own server and one that a tenant names are not reached in the same way.
package mail

import (
	"errors"
	"net"
	netmail "net/mail"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A Server is where and how mail is handed over.
type Server struct {
	Host     string
	Address  string // host:port
	Implicit bool   // encrypted from the start, in place of STARTTLS
	User     string // empty logs in as nobody
	Password string
}

// The ports of mail submission (RFC 8314).
const (
	portSTARTTLS = "587"
	portTLS      = "465"
)

// ErrServer says what the address of a server must look like. It repeats nothing of the address.
var ErrServer = errors.New("expected smtp://user:password@host:587 or smtps://user:password@host:465")

// ParseServer reads smtp://HOST:587, which begins in the clear and must be encrypted before anything is said (STARTTLS), or smtps://HOST:465, which is
// encrypted from the start. A user and a password may stand before the host, escaped as in any address.
func ParseServer(text string) (Server, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return Server{}, ErrServer
	}
	s := Server{Host: u.Hostname(), User: u.User.Username(), Implicit: u.Scheme == "smtps"}
	s.Password, _ = u.User.Password()
	port := u.Port()
	switch {
	case port == "" && s.Implicit:
		port = portTLS
	case port == "":
		port = portSTARTTLS
	default:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return Server{}, ErrServer
		}
	}
	s.Address = net.JoinHostPort(s.Host, port)
	return s, nil
}

// local says whether the server is on this machine: only there may mail go without encryption.
func (s Server) local() bool {
	addr, err := netip.ParseAddr(s.Host)
	return s.Host == "localhost" || err == nil && addr.IsLoopback()
}

// The bounds of an address (RFC 5321, section 4.5.3.1).
const (
	addressBytesMax = 254
	localBytesMax   = 64
)

// The characters of an address that every server takes. Quoted names, comments and other alphabets are refused: what is read in two ways by two
// programs goes to somebody else.
const (
	localRunes  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
	domainRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
)

// ErrAddress says what an address must look like.
var ErrAddress = errors.New("expected an e-mail address, such as oncall@example.com")

// CheckAddress says whether mail can be sent to a bare address.
func CheckAddress(address string) error {
	local, domain, _ := strings.Cut(address, "@")
	parsed, err := netmail.ParseAddress(address)
	switch {
	case err != nil, parsed.Address != address, parsed.Name != "", len(address) > addressBytesMax, len(local) > localBytesMax:
		return ErrAddress
	case strings.Trim(local, localRunes) != "":
		return ErrAddress
	}
	return CheckDomain(domain)
}

// CheckDomain says whether mail can be sent to addresses of a domain.
func CheckDomain(domain string) error {
	switch {
	case strings.Trim(domain, domainRunes) != "", !strings.Contains(domain, "."), strings.Contains(domain, ".."):
		return ErrAddress
	case strings.HasPrefix(domain, "-"), strings.HasPrefix(domain, "."), strings.HasSuffix(domain, "."):
		return ErrAddress
	}
	if _, err := netip.ParseAddr(domain); err == nil {
		return ErrAddress
	}
	return nil
}

var errSender = errors.New("expected an address, such as Sluice <alerts@example.com>")

// ParseSender reads the address of a sender, with or without a name.
func ParseSender(text string) (*netmail.Address, error) {
	from, err := netmail.ParseAddress(text)
	if err != nil || CheckAddress(from.Address) != nil {
		return nil, errSender
	}
	return from, nil
}

// DomainOf is the domain of an address.
func DomainOf(address string) string {
	_, domain, _ := strings.Cut(address, "@")
	return domain
}
