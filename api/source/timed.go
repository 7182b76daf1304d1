package source

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// timedScheme is what Stripe, Calendly and Paddle share: one header with a timestamp and signatures, each of which is the
// HMAC-SHA256 in hex over the timestamp, a joint and the raw body. The key is the secret as it is.
type timedScheme struct {
	header    string
	separator string // between the elements
	timeKey   string // names the timestamp, in unix seconds
	macKey    string // names a signature
	joint     string // between the timestamp and the body in what is signed
}

// verify checks a delivery against every secret, and its time against the window.
func (t timedScheme) verify(r Request, secrets []string, window Window) (int, error) {
	value, err := signatureHeader(r.Header, t.header)
	if err != nil {
		return -1, err
	}
	timestamp, candidates, err := t.parse(value)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Second)
	if err != nil {
		return -1, err
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), candidates, []byte(timestamp), []byte(t.joint), r.Body)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, window)
}

// sign signs as verify checks.
func (t timedScheme) sign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	mac := sum(sha256.New, []byte(in.Secret), []byte(timestamp), []byte(t.joint), in.Body)
	h := signedHeader(in)
	h.Set(t.header, t.timeKey+"="+timestamp+t.separator+t.macKey+"="+hex.EncodeToString(mac))
	return Signed{h, in.Body}, nil
}

// parse reads "t=<unix s>,v1=<hex>[,v1=<hex>]...", under the scheme's own names. Other schemes and unreadable signatures are
// skipped, as Stripe's library does; an element without exactly one "=" is malformed, and so is a second timestamp.
func (t timedScheme) parse(value string) (timestamp string, candidates [][]byte, err error) {
	seen, timed := 0, false
	for element := range strings.SplitSeq(value, t.separator) {
		key, val, found := strings.Cut(element, "=")
		if !found || strings.Contains(val, "=") {
			return "", nil, refuse(ReasonSignatureMalformed, "header "+t.header+" must be key=value pairs")
		}
		switch key {
		case t.timeKey:
			if timed {
				return "", nil, refuse(ReasonTimestampMalformed, "header "+t.header+" must have one "+t.timeKey)
			}
			timestamp, timed = val, true
		case t.macKey:
			if seen++; seen > signaturesMax {
				return "", nil, refuse(ReasonSignatureMalformed, "header "+t.header+" has too many signatures")
			}
			if mac, ok := decodeHex(val, sha256.Size); ok {
				candidates = append(candidates, mac)
			}
		}
	}
	switch {
	case seen == 0:
		return "", nil, refuse(ReasonSignatureMissing, "header "+t.header+" has no "+t.macKey)
	case len(candidates) == 0:
		return "", nil, refuse(ReasonSignatureMalformed, "header "+t.header+" has no "+t.macKey+" of 64 hex digits")
	case !timed:
		return "", nil, refuse(ReasonTimestampMissing, "header "+t.header+" has no "+t.timeKey)
	}
	return timestamp, candidates, nil
}
