package automations

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// What a fetch that finds nothing (404, 410) means for the run.
const (
	NotFoundSkip     = "skip"     // there is nothing left to be done
	NotFoundContinue = "continue" // the model is asked, without a state
	NotFoundFail     = "fail"     // the run is dead
)

// A Fetch reads the entity as it stands at its source now, before the model is asked; the prompts see it as state.
type Fetch struct {
	URL          string `json:"url"`                     // Liquid over event and payload, whose scheme and host are literal
	CredentialID string `json:"credential_id,omitempty"` // sent as a bearer token; "" sends none
	NotFound     string `json:"not_found"`               // one of the constants above; "" means skip
}

// addressBytesMax bounds an address, as written and as rendered.
const addressBytesMax = 2048

// ErrEmptyPiece is the error of a value of an address that is empty: without it the address would mean something else, such as a list of all.
var ErrEmptyPiece = errors.New("the value is empty, and so the address would be another")

// originRE is what an address must begin with, as literal text: a value behind it can then change neither the host nor what is before it.
var originRE = regexp.MustCompile(`^https?://[^/?#@\\\s{}%]+/`)

// compileFetch checks a fetch and compiles its address. That the credential exists, and that the host may be asked, is checked elsewhere.
func compileFetch(f *Fetch, fault faulter) (*template, *Fetch) {
	if f == nil {
		return nil, nil
	}
	filled := *f
	if filled.NotFound == "" {
		filled.NotFound = NotFoundSkip
	}
	if !slices.Contains([]string{NotFoundSkip, NotFoundContinue, NotFoundFail}, filled.NotFound) {
		fault("fetch.not_found", "expected skip, continue or fail, got %s", quoted(filled.NotFound))
	}
	if len(f.URL) > addressBytesMax {
		fault("fetch.url", "expected at most %d bytes, got %d", addressBytesMax, len(f.URL))
		return nil, &filled
	}
	t := compileTemplate("fetch.url", f.URL, promptRoots, fault)
	if t == nil {
		return nil, &filled
	}
	return checkOrigin(t, "fetch.url", f.URL, fault), &filled
}

// checkOrigin answers the template of an address, or nil where its beginning is not written out.
func checkOrigin(t *template, place, address string, fault faulter) *template {
	if FetchOrigin(address) == "" {
		fault(place, "1:1: expected an address that begins with https://, a host and a slash, all written out: "+
			"values of the event may stand only behind them")
		return nil
	}
	if err := checkAddress(t.opening(), FetchOrigin(address)); err != nil {
		fault(place, "1:1: %v", err)
		return nil
	}
	return t
}

// opening is the literal text that a template begins with, whatever the data.
func (t *template) opening() string {
	var text strings.Builder
	for _, n := range t.nodes {
		literal, ok := n.(textNode)
		if !ok {
			break
		}
		text.WriteString(string(literal))
	}
	return text.String()
}

// FetchOrigin answers the literal beginning of an address to fetch, such as "https://api.example.com/": all of it that says who is asked. It is
// "" where the address does not begin so, which Compile faults.
func FetchOrigin(address string) string { return originRE.FindString(address) }

// FetchURL renders the address to fetch. Every value is one piece of it: percent-encoded, so that none can begin a path, a query or a host of
// its own. A value that is empty, or that would make a step up or down the path, is refused. Every error is a *RenderError.
func (c *Compiled) FetchURL(e Event, payload any) (string, error) {
	if c.fetchURL == nil {
		return "", nil
	}
	r := newRun(c.fetchURL, map[string]any{"event": eventValues(e), "payload": payload}, workMax)
	r.left, r.address = addressBytesMax, true
	address, err := r.text()
	if err != nil {
		return "", err
	}
	if err := checkAddress(address, FetchOrigin(c.spec.Fetch.URL)); err != nil {
		return "", &RenderError{Place: c.fetchURL.place, Err: err}
	}
	return address, nil
}

// checkAddress looks at the whole address again, as a server may read it: decoded, with either slash.
func checkAddress(address, origin string) error {
	path, ok := strings.CutPrefix(address, origin)
	if !ok {
		return errors.New("the host must be the one that is written out") // cannot be: the text is what the template begins with
	}
	if strings.ContainsFunc(address, func(c rune) bool { return c <= ' ' || c == '#' || unicode.IsControl(c) }) {
		return errors.New("the address holds a blank, a # or a control character")
	}
	path, _, _ = strings.Cut(path, "?")
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return errors.New("the address holds a percent sign that begins no escape")
	}
	// Some servers decode what they have decoded once more.
	for err == nil {
		if err := checkPath(decoded); err != nil {
			return err
		}
		before := decoded
		if decoded, err = url.PathUnescape(before); decoded == before {
			break
		}
	}
	return nil
}

// checkPath refuses a decoded path that steps to another directory, for servers that take either slash, and that cut off what is behind a ";".
func checkPath(path string) error {
	if strings.ContainsFunc(path, unicode.IsControl) {
		return errors.New("the path holds a control character")
	}
	for _, segment := range strings.FieldsFunc(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return errors.New("the path holds a step to another directory")
		}
	}
	return nil
}

// addressPiece percent-encodes all of a value but letters, digits and "-._~" (RFC 3986, section 2.3).
func addressPiece(s string) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for _, b := range []byte(s) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', strings.IndexByte("-._~", b) >= 0:
			out.WriteByte(b)
		default:
			out.WriteString("%" + string(hex[b>>4]) + string(hex[b&15]))
		}
	}
	return out.String()
}
