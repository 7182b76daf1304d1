package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/api/source"
	"sluice/db"
)

// sendSecretEnv is where the signing secret is looked for if it is not on the command line.
const sendSecretEnv = "SLUICE_SEND_SECRET"

const (
	sendTimeout  = 30 * time.Second // one delivery
	sendBytesMax = 64 << 10         // what is shown of an answer
	sendCountMax = 100_000
)

// sendCommand is a source: it signs a sample as the source would, and posts it.
type sendCommand struct {
	Source string `arg:"" optional:"" help:"The source, such as stripe."`
	Event  string `arg:"" optional:"" help:"The type of one of its samples."`

	URL          string        `name:"url" help:"The endpoint's URL, http://.../in/TOKEN."`
	Secret       string        `name:"secret" help:"The endpoint's signing secret ($SLUICE_SEND_SECRET)."`
	ID           string        `name:"id" help:"The event's id. With it, every delivery is of the same event."`
	At           time.Time     `name:"at" help:"When the event happened, if not now; with it and an id, every delivery has the same bytes where the source's signature is not in them."`
	Body         string        `name:"body" help:"A file whose content is sent in place of the sample's body; - is the standard input." placeholder:"FILE"`
	Settings     string        `name:"settings" help:"The endpoint's settings, as JSON, where the source has any." placeholder:"JSON"`
	Count        int           `name:"count" default:"1" help:"How many deliveries to make, one after another."`
	Every        time.Duration `name:"every" default:"0s" help:"The pause between two deliveries."`
	BadSignature bool          `name:"bad-signature" help:"Change the body after it was signed."`
	NewKey       bool          `name:"new-key" help:"Make a key for a source that signs with one whose other half it publishes: prints the endpoint's secret, and what to give as --secret."`
}

// Run lists the samples, or sends one.
func (c *sendCommand) Run(ctx context.Context, std streams, lookup environment) error {
	if c.NewKey {
		return newKey(std.out, c.Source)
	}
	if c.Event == "" {
		if c.URL != "" {
			return usage("EVENT: is missing: nothing was sent; `sluice send %s` lists the samples", c.Source)
		}
		return listSamples(std.out, c.Source)
	}
	s, sample, err := findSample(c.Source, c.Event)
	if err != nil {
		return err
	}
	settings, err := c.check(s, lookup)
	if err != nil {
		return err
	}
	body := sample.Body
	if c.Body != "" {
		given, err := c.readBody(std.in)
		if err != nil {
			return err
		}
		body = func(string, time.Time) []byte { return given }
	}
	client := &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}, Timeout: sendTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	refused := 0
	for i := range c.Count {
		if i > 0 && c.Every > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(c.Every):
			}
		}
		id := c.ID
		if id == "" {
			id = newSampleID()
		}
		at := time.Now().UTC()
		happened := at
		if !c.At.IsZero() {
			happened = c.At.UTC()
		}
		ok, err := c.deliver(ctx, client, std.out, s, source.SignInput{
			Method: http.MethodPost, URL: c.URL, Header: sample.Header, Body: body(id, happened), Secret: c.Secret, ID: id, At: at, Settings: settings,
		})
		if err != nil {
			return err
		}
		if !ok {
			refused++
		}
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d deliveries were not taken", refused, c.Count)
	}
	return nil
}

// check returns the settings, or every fault of the flags at once.
func (c *sendCommand) check(s source.Source, lookup environment) (source.Settings, error) {
	var faults []error
	if c.Secret == "" {
		c.Secret, _ = lookup(sendSecretEnv)
	}
	if c.Secret == "" {
		faults = append(faults, fmt.Errorf("--secret (%s): is missing; expected the endpoint's signing secret", sendSecretEnv))
	}
	if !strings.HasPrefix(c.URL, "http://") && !strings.HasPrefix(c.URL, "https://") {
		faults = append(faults, fmt.Errorf("--url: expected the endpoint's URL, http://.../in/TOKEN, got %q", c.URL))
	}
	if c.Count < 1 || c.Count > sendCountMax {
		faults = append(faults, fmt.Errorf("--count: expected 1 to %d, got %d", sendCountMax, c.Count))
	}
	settings, wrong := c.parseSettings(s)
	faults = append(faults, wrong...)
	if len(faults) > 0 {
		return nil, usageError{errors.Join(faults...)}
	}
	if s.Trial != nil {
		// The secret is the half that signs, which no endpoint has; Sign says if it is none.
		return settings, onlyTheSource(s)
	}
	if err := s.CheckSecret(c.Secret, settings); err != nil {
		return nil, usage("--secret (%s): %w", sendSecretEnv, err)
	}
	return settings, nil
}

// parseSettings reads the settings of an endpoint as they are there: the order says nothing to a sender.
func (c *sendCommand) parseSettings(s source.Source) (source.Settings, []error) {
	fields := map[string]json.RawMessage{}
	if c.Settings != "" {
		if err := json.Unmarshal([]byte(c.Settings), &fields); err != nil {
			return nil, []error{errors.New("--settings: expected a JSON object, as the endpoint has it")}
		}
	}
	_, _ = db.ParseOrder(fields)
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, []error{fmt.Errorf("--settings: %w", err)}
	}
	settings, wrong := s.ParseSettings(rest)
	var faults []error
	for _, fault := range wrong {
		faults = append(faults, fmt.Errorf("--settings: %s: %s", fault.Place, fault.Message))
	}
	return settings, faults
}

// onlyTheSource refuses a source whose certificate nobody else has.
func onlyTheSource(s source.Source) error {
	if s.CertificateURL == nil {
		return nil
	}
	return usage("SOURCE: only %s can sign for %s, with its certificate; POST /v1/endpoints/{id}/test sends a sample through the same door", s.Title, s.Name)
}

// newKey makes both halves of a key.
func newKey(out io.Writer, name string) error {
	s, known := source.Get(name)
	if !known || s.Trial == nil {
		return usage("SOURCE: %q has no key of two halves; its endpoint's secret signs", name)
	}
	if err := onlyTheSource(s); err != nil {
		return err
	}
	key, err := s.Trial()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	_, err = fmt.Fprintf(out, "the endpoint's secret: %s\n--secret (%s): %s\n", key.Verify, sendSecretEnv, key.Sign)
	return err
}

func (c *sendCommand) readBody(in io.Reader) ([]byte, error) {
	if c.Body == "-" {
		return io.ReadAll(in)
	}
	body, err := os.ReadFile(c.Body)
	if err != nil {
		return nil, usage("--body: %w", err)
	}
	return body, nil
}

// deliver makes one delivery and prints its answer on one line. It says whether the delivery was taken.
func (c *sendCommand) deliver(ctx context.Context, client *http.Client, out io.Writer, s source.Source, in source.SignInput) (bool, error) {
	began := time.Now()
	answer, err := postSigned(ctx, client, s, in, c.BadSignature)
	if err != nil {
		return false, err
	}
	_, err = fmt.Fprintf(out, "%s in %s: %s\n", answer.line, time.Since(began).Round(100*time.Microsecond), oneLine(answer.body))
	return answer.status/100 == 2, err
}

// doorAnswer is what the door said to a delivery.
type doorAnswer struct {
	status int
	line   string // such as "200 OK"
	body   []byte // its first sendBytesMax
}

// postSigned signs as the source would, and posts; tampered, the body is changed after it was signed.
func postSigned(ctx context.Context, client *http.Client, s source.Source, in source.SignInput, tampered bool) (doorAnswer, error) {
	signed, err := s.Sign(in)
	if err != nil {
		return doorAnswer{}, fmt.Errorf("sign: %w", err)
	}
	body := signed.Body
	if tampered {
		body = append(bytes.Clone(body), '\n')
	}
	request, err := http.NewRequestWithContext(ctx, in.Method, in.URL, bytes.NewReader(body))
	if err != nil {
		return doorAnswer{}, usage("--url: %w", err)
	}
	request.Header = signed.Header
	if s.ProxyHeader != nil && s.ProxyHeader(in.Settings) != "" {
		// What the proxy in front would say; where there is one, it writes over this.
		request.Header.Set(s.ProxyHeader(in.Settings), in.Secret)
	}
	response, err := client.Do(request)
	if err != nil {
		return doorAnswer{}, fmt.Errorf("deliver: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, sendBytesMax))
	if err != nil {
		return doorAnswer{}, fmt.Errorf("read the answer: %w", err)
	}
	return doorAnswer{response.StatusCode, response.Status, answer}, nil
}

// oneLine makes one line of an answer, which a server chose.
func oneLine(answer []byte) string {
	return strings.Join(strings.FieldsFunc(string(bytes.ToValidUTF8(answer, []byte("?"))), func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
}

func newSampleID() string {
	random := make([]byte, 12)
	_, _ = rand.Read(random) // never fails, as its documentation says
	return "sample_" + hex.EncodeToString(random)
}

// findSample finds the sample of a source, or says which there are.
func findSample(name, event string) (source.Source, source.Sample, error) {
	s, known := source.Get(name)
	if !known {
		return s, source.Sample{}, usage("SOURCE: there is no source %q; there are: %s", name, strings.Join(sourceNames(), ", "))
	}
	i := slices.IndexFunc(s.Samples, func(sample source.Sample) bool { return sample.Type == event })
	if i < 0 {
		var types []string
		for _, sample := range s.Samples {
			types = append(types, sample.Type)
		}
		return s, source.Sample{}, usage("EVENT: %s has no sample %q; it has: %s", name, event, strings.Join(types, ", "))
	}
	return s, s.Samples[i], nil
}

func sourceNames() []string {
	var names []string
	for _, s := range source.All() {
		names = append(names, s.Name)
	}
	return names
}

// listSamples prints the samples of one source, or of all.
func listSamples(out io.Writer, name string) error {
	if _, known := source.Get(name); name != "" && !known {
		return usage("SOURCE: there is no source %q; there are: %s", name, strings.Join(sourceNames(), ", "))
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SOURCE\tEVENT")
	for _, s := range source.All() {
		for _, sample := range s.Samples {
			if name == "" || name == s.Name {
				fmt.Fprintf(table, "%s\t%s\n", s.Name, sample.Type)
			}
		}
	}
	return table.Flush()
}
