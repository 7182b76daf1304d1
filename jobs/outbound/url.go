package outbound

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	hostBytesMax  = 253 // RFC 1035, without the final dot
	labelBytesMax = 63  // RFC 1035
)

// CheckURL tells whether a tenant may save an address as a target. It looks at how the address is written and asks nobody: a
// name that passes may still stand for a blocked address, which is found out at every dial. The error is an *Error of kind
// BadURL or Blocked whose text a tenant may read.
func (d *Door) CheckURL(raw string) error {
	_, err := d.parse(raw)
	return err
}

func badURL(reason string) error  { return &Error{Kind: BadURL, reason: reason} }
func blocked(reason string) error { return &Error{Kind: Blocked, reason: reason} }

// parse reads a tenant's address and returns it in its one spelling, or says why it is refused. No text of the parser's own
// is passed on: it repeats the address.
func (d *Door) parse(raw string) (*url.URL, error) {
	if len(raw) > urlBytesMax {
		return nil, badURL("the address is longer than " + strconv.Itoa(urlBytesMax) + " bytes")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, badURL("the address is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, badURL("the address must begin with https://")
	case u.Host == "" || u.Opaque != "":
		return nil, badURL("the address has no host")
	case u.User != nil:
		return nil, badURL("the address must not hold a user or a password")
	case strings.Contains(raw, "#"):
		return nil, badURL("the address must not hold a fragment")
	}
	host, err := hostName(u.Hostname())
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Port() == "":
		number = uint64(port(u.Scheme, ""))
	case err != nil || number == 0:
		return nil, badURL("the port must be a number from 1 to 65535")
	}
	if err := d.written(u.Scheme, host, uint16(number)); err != nil {
		return nil, err
	}
	u.Host = net.JoinHostPort(host, strconv.FormatUint(number, 10))
	if int(number) == port(u.Scheme, "") {
		u.Host = strings.TrimSuffix(u.Host, ":"+strconv.FormatUint(number, 10))
	}
	return u, nil
}

// hostName returns the one spelling of a host: a plain IP address, or a lower-case ASCII name without its final dot. Numbers
// in any other dress (127.1, 0x7f000001, 2130706433, 0177.0.0.1) are refused as the WHATWG URL standard recognises them, by
// the last label: some resolvers take them for addresses.
func hostName(host string) (string, error) {
	if strings.Contains(host, "%") {
		return "", badURL("the host must not hold a zone or an escape")
	}
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return "", badURL("the host is not an IPv6 address")
		}
		return addr.String(), nil
	}
	if !ascii(host) {
		name, err := idna.Lookup.ToASCII(host)
		// What is no text is read by the library as a sign of its own, and would become a name that nobody wrote.
		if err != nil || !utf8.ValidString(host) {
			return "", badURL("the host is not a valid international name")
		}
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	labels := strings.Split(host, ".")
	if number(labels[len(labels)-1]) {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return "", badURL("an IPv4 address must be written as four decimal numbers")
		}
		return addr.String(), nil
	}
	if len(host) > hostBytesMax {
		return "", badURL("the host is too long")
	}
	for _, label := range labels {
		if !labelOK(label) {
			return "", badURL("the host is not a valid name")
		}
	}
	return host, nil
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > '~' })
}

// number reports whether a label is a number to some resolver: decimal or octal digits, or 0x and hexadecimal ones.
func number(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return label != "" && strings.Trim(label, "0123456789") == ""
}

// labelOK allows the underscore too, which real names of hosts hold against the rules.
func labelOK(label string) bool {
	return label != "" && len(label) <= labelBytesMax && strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// isLocalhost reports whether a name means this machine by RFC 6761.
func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// written checks what can be known of a target before any lookup.
func (d *Door) written(scheme, host string, port uint16) error {
	if scheme != "https" && !(d.allowLoopback && onThisMachine(host)) {
		return badURL("the address must begin with https://")
	}
	return d.named(d.public, host, port)
}

// onThisMachine reports whether a host is written as this machine's own.
func onThisMachine(host string) bool {
	addr, err := netip.ParseAddr(host)
	return isLocalhost(host) || err == nil && addr.Unmap().IsLoopback()
}

// named checks a host and a port as they are written against what a guard lets pass.
func (d *Door) named(g guard, host string, port uint16) error {
	addr, err := netip.ParseAddr(host)
	literal := err == nil
	switch {
	case onThisMachine(host) && d.allowLoopback:
		return nil
	case onThisMachine(host):
		return blocked("")
	case !literal && !strings.Contains(host, "."):
		return badURL("the host must be a full domain name")
	case literal && g.address(addr) != nil:
		return blocked("")
	case g.port(port) != nil:
		return blocked("the port is not allowed")
	}
	return nil
}
