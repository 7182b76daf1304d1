package harmless

import (
	"fmt"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// What a name in the domain name system may be long.
const (
	hostBytesMax  = 253
	labelBytesMax = 63
)

const anyBelow = "*."

// CheckHost returns what is wrong with a pattern of Rules.Links, nil if nothing is. A pattern is the name of a host in lower-case ASCII, or "*." and such
// a name under which not just anybody gets a name: "*.example.com", but not "*.co.uk" or "*.github.io". There are no ports and no addresses of machines.
func CheckHost(pattern string) error {
	host, below := strings.CutPrefix(pattern, anyBelow)
	if !hostName(host) {
		return fmt.Errorf(`expected the name of a host in lower case, as "example.com" or "*.example.com", without scheme, port or path: got %.80q`, pattern)
	}
	if below {
		if suffix, _ := publicsuffix.PublicSuffix(host); suffix == host {
			return fmt.Errorf("anybody can have a host below %q: name the hosts that are meant", host)
		}
	}
	return nil
}

// hostName says whether host is a name of two or more labels in lower-case ASCII, and not the address of a machine in any spelling.
func hostName(host string) bool {
	if len(host) > hostBytesMax || !strings.Contains(host, ".") {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > labelBytesMax || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
		last = label
	}
	return last[0] >= 'a' // a last label that begins with a digit may be read as a number, and the whole as an address
}

// hosts are the patterns that links may match.
type hosts []string

// hostsOf are the patterns that are well made.
func hostsOf(patterns []string) hosts {
	var good hosts
	for _, pattern := range patterns {
		if CheckHost(pattern) == nil {
			good = append(good, pattern)
		}
	}
	return good
}

// allow says whether a link may lead to host, which has to be written in lower case: there are parsers that end a host where its last label goes on in
// upper case, and make another of it.
func (h hosts) allow(host string) bool {
	if len(h) == 0 || !hostName(host) {
		return false
	}
	for _, pattern := range h {
		if below, found := strings.CutPrefix(pattern, "*"); host == pattern || found && strings.HasSuffix(host, below) {
			return true
		}
	}
	return false
}

// Linear makes a mention of the address of a person's profile.
const (
	linearHost     = "linear.app"
	linearProfiles = "/profiles/"
)

// mentioning says whether a link mentions somebody where it is posted.
func mentioning(host, path string) bool {
	return host == linearHost && (strings.Contains(strings.ToLower(path), linearProfiles) || strings.Contains(path, "%"))
}
