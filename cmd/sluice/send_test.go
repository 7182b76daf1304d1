package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
	"sluice/api/source/sourcetest"
)

// door verifies deliveries as the intake would, and remembers the ids.
type door struct {
	source   source.Source
	secret   string
	settings string

	mu     sync.Mutex
	ids    []string
	bodies []string
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	settings, _ := d.source.ParseSettings(json.RawMessage(d.settings))
	request := source.Request{Method: r.Method, Proxy: r.Header, URL: "http://" + r.Host + r.URL.Path, Header: r.Header, Body: body, ReceivedAt: time.Now()}
	if _, err := d.source.Verify(request, []string{d.secret}, settings); err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "{\"code\":\n\"signature.mismatch\"}\x1b[31m")
		return
	}
	events, err := d.source.Events(request, settings)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids, d.bodies = append(d.ids, events[0].ID), append(d.bodies, string(body))
	_, _ = io.WriteString(w, `{"duplicate":false}`)
}

func settingsText(t *testing.T, c sourcetest.Connection) string {
	t.Helper()
	if c.Settings == nil {
		return ""
	}
	text, err := json.Marshal(c.Settings)
	require.NoError(t, err)
	return string(text)
}

func TestSendEverySample(t *testing.T) {
	t.Parallel()
	for _, s := range source.All() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			connection := sourcetest.Connect(t, s)
			if connection.Sign == "" {
				code, _, err := sluice(t, env{"SLUICE_SEND_SECRET": "x"}, "send", s.Name, s.Samples[0].Type, "--url", "http://127.0.0.1:1/in/token", "--settings", settingsText(t, connection))
				require.NotZero(t, code)
				require.Contains(t, err, "/test sends a sample")
				return
			}
			d := &door{source: s, secret: connection.Secret, settings: settingsText(t, connection)}
			server := httptest.NewServer(d)
			t.Cleanup(server.Close)
			for _, sample := range s.Samples {
				code, out, err := sluice(t, env{"SLUICE_SEND_SECRET": connection.Sign}, "send", s.Name, sample.Type, "--url", server.URL+"/in/token",
					"--settings", settingsText(t, connection))
				require.Zero(t, code, out+err)
				require.Regexp(t, `^200 OK in [0-9.µms]+: {"duplicate":false}\n$`, out)
			}
			require.Len(t, d.ids, len(s.Samples))
		})
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	stripe, _ := source.Get("stripe")
	const secret = "whsec_c4n4ryc4n4ryc4n4ry"
	d := &door{source: stripe, secret: secret}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	event := stripe.Samples[0].Type
	send := func(args ...string) (int, string, string) {
		return sluice(t, env{}, append([]string{"send", "stripe", event, "--url", server.URL + "/in/token", "--secret", secret}, args...)...)
	}

	code, out, err := send("--count", "3")
	require.Zero(t, code, err)
	require.Equal(t, 3, strings.Count(out, "200 OK"))
	require.Len(t, d.ids, 3)
	require.NotEqual(t, d.ids[0], d.ids[1], "each is another event")

	code, _, err = send("--count", "2", "--id", "mine")
	require.Zero(t, code, err)
	require.Equal(t, d.ids[3], d.ids[4], "with an id, each is the same event")
	require.Contains(t, d.ids[3], "mine")

	code, out, err = send("--bad-signature")
	require.Equal(t, 1, code)
	require.Contains(t, out, `401 Unauthorized in `)
	require.Contains(t, out, `{"code": "signature.mismatch"} [31m`, "an answer is one line and holds no control characters")
	require.Equal(t, "sluice: 1 of 1 deliveries were not taken\n", err)

	file := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(file, stripe.Samples[0].Body("of-a-file", time.Now()), 0o600))
	code, _, err = send("--body", file)
	require.Zero(t, code, err)
	require.Contains(t, d.bodies[len(d.bodies)-1], "of-a-file")
}

func TestSendFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		err  []string
	}{
		{"UnknownSource", []string{"nonsense", "x"}, []string{`sluice: SOURCE: there is no source "nonsense"; there are: aws_sns`}},
		{"UnknownSourceToList", []string{"nonsense"}, []string{`sluice: SOURCE: there is no source "nonsense"`}},
		{"UnknownEvent", []string{"github", "x"}, []string{`sluice: EVENT: github has no sample "x"; it has: `}},
		{"AllAtOnce", []string{"github", "issues.opened", "--url", "localhost", "--count", "0", "--settings", `{"a":1}`}, []string{
			"sluice: --secret (SLUICE_SEND_SECRET): is missing", "\nsluice: --url: expected", "\nsluice: --count: expected 1", "\nsluice: --settings: a: ",
		}},
		{"BadSecret", []string{"github", "issues.opened", "--url", "http://x/in/y", "--secret", " c4"}, []string{"sluice: --secret (SLUICE_SEND_SECRET): "}},
		{"NoSuchFile", []string{"github", "issues.opened", "--url", "http://x/in/y", "--secret", "0123456789", "--body", "/none"}, []string{"sluice: --body: open /none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, _, err := sluice(t, env{}, append([]string{"send"}, c.args...)...)
			require.Equal(t, 2, code)
			for _, line := range c.err {
				require.Contains(t, err, line)
			}
			require.NotContains(t, err, "c4")
		})
	}
	t.Run("List", func(t *testing.T) {
		t.Parallel()
		code, out, _ := sluice(t, env{}, "send")
		require.Zero(t, code)
		for _, s := range source.All() {
			require.Contains(t, out, s.Name+" ")
			require.Contains(t, out, s.Samples[0].Type)
		}
		_, out, _ = sluice(t, env{}, "send", "stripe")
		require.NotContains(t, out, "github")
	})
}
