package action

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sluice/jobs/action/harmless"
	"sluice/jobs/outbound"
)

// httpRequest sends a request of the tenant's own to an API that no connector knows. Its host is written out in the automation; its secret goes into one
// header, and nowhere but below the address that an administrator has given to the credential.
//
// Nobody can ask such a target whether it has a request. So it is sent again only where the tenant says that the target honours Idempotency-Key
// (datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header), which is the same for every attempt.
type httpRequest struct{ door *outbound.Door }

var _ Connector = httpRequest{}

const (
	fieldFormat     = "format"
	fieldHeader     = "header"
	fieldIdempotent = "idempotent"
	fieldJSON       = "json"
	fieldMethod     = "method"

	httpHeaderDefault = "Authorization"
	httpBodyBytesMax  = 1 << 20
	// httpTextMax bounds one text within a body, in characters.
	httpTextMax = 100_000
	// httpNameMax bounds the name of a member, in characters.
	httpNameMax = 255

	httpSecretBytesMin = 8
	httpSecretBytesMax = 4096
)

// The formats of texts: what the target makes of them.
const (
	formatExact    = "exact"
	formatHTML     = "html"
	formatMarkdown = "markdown"
	formatPlain    = "plain"
	formatSlack    = "slack"
)

// httpAccount is a secret for an API that no connector knows.
func httpAccount() Account {
	return Account{
		Kind: "http", BaseDoc: "what the secret may be sent to: https://HOST, or an address at it below which all requests go",
		SecretDoc: "the whole value of the header, such as Bearer abc123", Check: checkHeaderValue,
	}
}

// checkHeaderValue tells whether a secret can be the value of a header as it is.
func checkHeaderValue(secret string) error {
	if len(secret) < httpSecretBytesMin || len(secret) > httpSecretBytesMax || strings.TrimSpace(secret) != secret ||
		strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("expected %d to %d printable characters, without blanks at the ends", httpSecretBytesMin, httpSecretBytesMax)
	}
	return nil
}

func (httpRequest) Spec() Spec {
	return Spec{Kind: "http", Account: "http", Fields: []Field{
		{Name: fieldURL, Form: FormAddress, Required: true, Doc: "the address, whose scheme and host are written out: https://api.example.com/items/{{ payload.id }}"},
		{Name: fieldMethod, Form: FormLiteral, Default: http.MethodPost, Choices: []string{http.MethodPatch, http.MethodPost, http.MethodPut}, Doc: "POST, PUT or PATCH"},
		{Name: fieldJSON, Form: FormContent, Doc: "what is sent, as a JSON document; a text stands between quotes, as in {\"note\": \"{{ output.note }}\"}"},
		{Name: fieldBody, Form: FormContent, Doc: "what is sent, as plain text, in place of json"},
		{
			Name: fieldFormat, Form: FormLiteral, Default: formatPlain, Choices: []string{formatExact, formatHTML, formatMarkdown, formatPlain, formatSlack},
			Doc: "what the target makes of the texts in it, so that none of them can act there; exact changes nothing, for targets that take them as data",
		},
		{Name: fieldHeader, Form: FormLiteral, Default: httpHeaderDefault, Doc: "the header that the credential's secret goes into"},
		{Name: fieldIdempotent, Form: FormFlag, Doc: "true if the target honours Idempotency-Key: then a request whose fate is not known is sent again"},
		linksField(),
	}}
}

// headerRE is the name of a header that a secret may go into.
var headerRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)

// headersTaken are those that say how a request is carried, or that are written already.
var headersTaken = []string{
	"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host", "idempotency-key", "keep-alive",
	"sluice-depth", "sluice-run", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
}

// originRE is the beginning of an address that says who is asked.
var originRE = regexp.MustCompile(`^https?://[^/?#@\\\s{}%]+/`)

func (c httpRequest) Check(p Params) (faults []Fault) {
	fault := func(name, message string) { faults = append(faults, Fault{Place: "action." + name, Message: message}) }
	address := p.Texts[fieldURL]
	if Template(address) {
		address = originRE.FindString(address)
	}
	if err := c.door.CheckURL(address); err != nil {
		fault(fieldURL, err.Error())
	}
	_, document := p.Texts[fieldJSON]
	_, body := p.Texts[fieldBody]
	switch {
	case document && body:
		fault(fieldBody, "expected none beside json")
	case !document && !body:
		fault(fieldJSON, "is required, or body in its place")
	}
	if name, ok := p.Texts[fieldHeader]; ok && (!headerRE.MatchString(name) || slices.Contains(headersTaken, strings.ToLower(name))) {
		fault(fieldHeader, "expected the name of a header that is not written already, such as Authorization or X-Api-Key")
	}
	return faults
}

func (c httpRequest) Prepare(p Params, in Input) (Effect, error) {
	target, err := masked(p.Texts[fieldURL])
	if err != nil {
		return Effect{}, refused(CodeTarget, "action.url: expected an address")
	}
	effect := Effect{
		Kind: "http", Target: target, URL: p.Texts[fieldURL], ContentType: textType, Signed: p.Texts[fieldCredential] != "", Once: OnceNever,
		Args:  map[string]string{fieldMethod: cmp.Or(p.Texts[fieldMethod], http.MethodPost), fieldHeader: cmp.Or(p.Texts[fieldHeader], httpHeaderDefault)},
		RunID: in.RunID, Depth: in.Depth,
	}
	if p.Flags[fieldIdempotent] {
		effect.Once = OnceKey
	}
	clean := cleaner(p)
	if document, ok := p.Texts[fieldJSON]; ok {
		effect.ContentType = jsonType
		if effect.Body, err = cleanJSON(document, clean, nameCleaner(p)); err != nil {
			return Effect{}, err
		}
	} else {
		effect.Body = []byte(clean(p.Texts[fieldBody]))
	}
	switch {
	case len(bytes.TrimSpace(effect.Body)) == 0:
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	case len(effect.Body) > httpBodyBytesMax:
		return Effect{}, refused(CodeTooLarge, fmt.Sprintf("the body is longer than %d bytes", httpBodyBytesMax))
	}
	return effect, nil
}

// cleaner is what makes a text harmless for the target.
func cleaner(p Params) func(string) string {
	rules := p.Rules(httpTextMax)
	of := func(format func(string, harmless.Rules) string) func(string) string {
		return func(text string) string { return format(text, rules) }
	}
	switch p.Texts[fieldFormat] {
	case formatExact:
		return func(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
	case formatHTML:
		return of(harmless.HTML)
	case formatMarkdown:
		return of(harmless.Markdown)
	case formatSlack:
		return of(harmless.Slack)
	default:
		return of(harmless.Plain)
	}
}

// nameCleaner is what makes the name of a member harmless. It is a word and no text: as a paragraph of HTML no target would know it.
func nameCleaner(p Params) func(string) string {
	if p.Texts[fieldFormat] == formatExact {
		return cleaner(p)
	}
	return func(name string) string { return harmless.Line(name, httpNameMax) }
}

// cleanJSON reads a document and writes it with every text in it made harmless, and every number with the digits that it has.
func cleanJSON(document string, clean, name func(string) string) ([]byte, error) {
	if strings.TrimSpace(document) == "" {
		return nil, refused(CodeEmptyBody, "action.json: the template came out empty")
	}
	if !json.Valid([]byte(document)) {
		return nil, refused(CodeInvalid, "action.json: what came out is no JSON document: a text must stand between quotes")
	}
	decoder := json.NewDecoder(strings.NewReader(document))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, refused(CodeInvalid, "action.json: what came out cannot be read")
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(cleanValue(value, clean, name)); err != nil {
		return nil, refused(CodeInvalid, "action.json: what came out cannot be written")
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// cleanValue makes every text of a value harmless, the names in objects among them. JSON that was valid is not nested too deeply.
func cleanValue(value any, clean, name func(string) string) any {
	switch value := value.(type) {
	case string:
		return clean(value)
	case []any:
		for i := range value {
			value[i] = cleanValue(value[i], clean, name)
		}
		return value
	case map[string]any:
		cleaned := make(map[string]any, len(value))
		for _, given := range slices.Sorted(maps.Keys(value)) { // in an order, since two names may become one
			cleaned[name(given)] = cleanValue(value[given], clean, name)
		}
		return cleaned
	}
	return value
}

func (c httpRequest) Do(ctx context.Context, s Send) (Receipt, error) {
	if s.Key == "" || len(s.Key) > callbackKeyBytesMax || strings.ContainsFunc(s.Key, badKeyRune) {
		return Receipt{}, refused(CodeInvalid, "the key of the effect cannot be sent as an Idempotency-Key")
	}
	header := http.Header{}
	header.Set("Content-Type", s.Effect.ContentType)
	header.Set("Idempotency-Key", s.Key)
	if s.Effect.RunID != "" {
		header.Set("Sluice-Run", s.Effect.RunID)
		header.Set("Sluice-Depth", strconv.Itoa(s.Effect.Depth))
	}
	if s.Effect.Signed {
		if err := s.need(); err != nil {
			return Receipt{}, err
		}
		if err := below(s.Base, s.Effect.URL); err != nil {
			return Receipt{}, refused(CodeCredential, "the credential may not be sent to this address: "+err.Error())
		}
		header.Set(s.Effect.Args[fieldHeader], s.Secret)
	}
	res, err := c.door.Do(ctx, outbound.Request{Body: s.Effect.Body, Header: header, Method: s.Effect.Args[fieldMethod], URL: s.Effect.URL})
	if err != nil {
		return Receipt{}, undelivered(err)
	}
	failure := answered(res, s.At)
	if failure != nil && res.Status == http.StatusConflict && s.Effect.Once == OnceKey && s.Attempt > 1 {
		// What honours the key says so while the attempt before is still being worked on.
		failure.Kind, failure.Doubt, failure.RetryAfter = Retry, true, RetryAfter(res.Header, s.At)
	}
	if failure != nil {
		return Receipt{}, failure
	}
	return Receipt{Note: "the request was accepted", Status: res.Status, URL: s.Effect.Target}, nil
}

var (
	errNoBase    = errors.New("it has no address of its own")
	errElsewhere = errors.New("it is not below the address of the credential")
)

// below says why an address is not below another one, as any server may read it: decoded, with either slash.
func below(base, address string) error {
	if base == "" {
		return errNoBase
	}
	b, err := url.Parse(base)
	if err != nil || b.Host == "" {
		return errNoBase
	}
	a, err := url.Parse(address)
	if err != nil || a.User != nil || a.Scheme != b.Scheme || !strings.EqualFold(hostPort(a), hostPort(b)) {
		return errElsewhere
	}
	if stepsUp(a.Path) {
		return errElsewhere
	}
	if within := strings.TrimSuffix(b.EscapedPath(), "/"); a.EscapedPath() != within && !strings.HasPrefix(a.EscapedPath(), within+"/") {
		return errElsewhere
	}
	return nil
}

// decodings are how often a server, and one behind it, may decode a path that was decoded once.
const decodings = 3

// stepsUp says whether a path steps to another directory, for servers that take either slash, that cut off what is behind a ";", and that decode again.
func stepsUp(path string) bool {
	for range decodings {
		for _, piece := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }) {
			if name, _, _ := strings.Cut(piece, ";"); name == "." || name == ".." {
				return true
			}
		}
		decoded, err := url.PathUnescape(path)
		if err != nil {
			return false // nothing more can be decoded
		}
		path = decoded
	}
	return false
}

// hostPort is the host of an address with the port that it means.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "http" {
		return u.Host + ":80"
	}
	return u.Host + ":443"
}
