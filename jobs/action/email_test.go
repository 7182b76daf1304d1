package action_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net/http/httptest"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

// mailed is the connector whose target speaks SMTP: its battery is here.
const mailed = "email"

const (
	emailSample = `{"kind": "email", "credential_id": "crd_1", "from": "Süpport <support@acme.example>", "to": "ann@example.com", ` +
		`"subject": "Your order", "body": "Thank you, we look into it."}`
	emailSecret = "relay:p/ss:w@rd " + canary
)

// mailHouse is a mail server that is played, and the connector's way to it.
type mailHouse struct {
	*scripted.Mailbox

	c    action.Connector
	base string
	door *outbound.Door
}

// newMailHouse plays a mail server with a certificate for this machine.
func newMailHouse(t *testing.T, scheme string) *mailHouse {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	h := &mailHouse{
		Mailbox: scripted.NewMailbox(scripted.MailConfig{
			TLS: &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12}, Implicit: scheme == "smtps",
			User: "relay", Password: strings.TrimPrefix(emailSecret, "relay:"), Now: time.Now,
		}),
		door: outbound.New(outbound.Config{AllowLoopback: true, RootCAs: roots, Timeout: 500 * time.Millisecond}),
	}
	address, err := h.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.Close() })
	h.base = scheme + "://" + address
	h.c, _ = action.New(h.door).Get(mailed)
	return h
}

func (h *mailHouse) send(t *testing.T, raw string) action.Send {
	t.Helper()
	effect, err := h.c.Prepare(params(t, h.c, json.RawMessage(raw)), input())
	require.NoError(t, err)
	return action.Send{Key: keyOne, Effect: effect, Access: action.Access{Secret: emailSecret, Base: h.base}, At: at, Attempt: 1, Since: at}
}

// emailWith is the sample with fields in place of its own, or beside them.
func emailWith(t *testing.T, fields map[string]any) string {
	t.Helper()
	var object map[string]any
	require.NoError(t, json.Unmarshal([]byte(emailSample), &object))
	maps.Copy(object, fields)
	return string(written(t, object))
}

func TestEmailConnector(t *testing.T) {
	t.Parallel()
	c, ok := action.New(devDoor()).Get(mailed)
	require.True(t, ok)
	checks(t, c, json.RawMessage(emailSample))
	prepares(t, c, json.RawMessage(emailSample))
	for _, f := range c.Spec().Fields {
		content := false
		for _, name := range automations.ContentFields() {
			content = content || name == f.Name
		}
		require.Equal(t, content, f.Form == action.FormContent, f.Name)
	}
	_, finder := c.(action.Finder)
	require.False(t, finder)
}

func TestEmailTargets(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	c, _ := set.Get(mailed)
	for _, one := range []struct {
		fields map[string]any
		place  string
	}{
		{map[string]any{"to": "ann@example.com"}, ""},
		{map[string]any{"to": "{{ payload.email }}"}, "action.allow"},
		{map[string]any{"to": "{{ payload.email }}", "allow": []string{}}, "action.allow"},
		{map[string]any{"to": "{{ payload.email }}", "allow": []string{"example.com", "*.example.com", "bob@example.org"}}, ""},
		{map[string]any{"allow": []string{"*"}}, "action.allow"},
		{map[string]any{"allow": []string{"*example.com"}}, "action.allow"},
		{map[string]any{"allow": []string{"example.*"}}, "action.allow"},
		{map[string]any{"allow": []string{"*.com@example.com", "localhost"}}, "action.allow"},
		{map[string]any{"to": "ann"}, "action.to"},
		{map[string]any{"to": "ann@example.com, bob@example.com"}, "action.to"},
		{map[string]any{"to": "Ann <ann@example.com>"}, "action.to"},
		{map[string]any{"from": "{{ payload.from }}"}, "action.from"},
		{map[string]any{"from": "nobody"}, "action.from"},
	} {
		faults := set.Check(c, json.RawMessage(emailWith(t, one.fields)))
		if one.place == "" {
			require.Empty(t, faults, one.fields)
			continue
		}
		require.Len(t, faults, 1, one.fields)
		require.Equal(t, one.place, faults[0].Place, one.fields)
	}

	allow := []string{"Example.com", "*.example.org", "bob@example.net"}
	for to, ok := range map[string]bool{
		"ann@example.com": true, "Ann@EXAMPLE.com": true, "ann@a.example.org": true, "bob@example.net": true, "BOB@example.net": true,
		"ann@sub.example.com": false, "ann@example.org": false, "ann@badexample.org": false, "ann@example.net": false, "ann@example.com.evil.example": false,
		"ann@evil.example@example.com": false, "ann@example.com\r\nBcc: x@evil.example": false, "ann@evil.example,ann@example.com": false,
		"<ann@example.com>": false, "ann@example.com ": false, `"x@evil.example"@example.com`: false, "x@evil.example(@example.com": false,
		"ann%evil.example@example.com": true, // a name of theirs, which their own server reads
		"ann@[10.0.0.1]":               false,
	} {
		effect, err := c.Prepare(params(t, c, json.RawMessage(emailWith(t, map[string]any{"to": to, "allow": allow}))), input())
		if ok {
			require.NoError(t, err, to)
			require.Equal(t, to, effect.Target)
			continue
		}
		require.Equal(t, action.CodeTarget, failure(t, err).Code, to)
		require.NotContains(t, err.Error(), "evil")
	}
	for _, to := range []string{"ann@example.com\r\nBcc: x@evil.example", "ann@a.example,bob@b.example", "Ann <ann@example.com>", "ann", "ann@[10.0.0.1]"} {
		_, err := c.Prepare(params(t, c, json.RawMessage(emailWith(t, map[string]any{"to": to}))), input())
		require.Equal(t, action.CodeTarget, failure(t, err).Code, to)
	}
	_, err := c.Prepare(params(t, c, json.RawMessage(emailWith(t, map[string]any{"to": "ann@badexample.org", "allow": []string{"*example.org"}}))), input())
	require.Equal(t, action.CodeTarget, failure(t, err).Code)
	for field, code := range map[string]string{"subject": action.CodeEmptyBody, "body": action.CodeEmptyBody} {
		_, err := c.Prepare(params(t, c, json.RawMessage(emailWith(t, map[string]any{field: "\u200b"}))), input())
		require.Equal(t, code, failure(t, err).Code, field)
	}
}

func TestEmailIsHandedOver(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"smtp", "smtps"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			h := newMailHouse(t, scheme)
			raw := emailWith(t, map[string]any{
				"subject": "Überzählig " + strings.Repeat("ü", 400) + "\r\nBcc: eve@evil.example", "body": "One\r\n.\r\nTwo\r\nBcc: eve@evil.example\n" + strings.Repeat("long ", 300),
				"in_reply_to": "<first@example.com>", "references": "<zero@example.com> <bad id> <first@example.com>\r\nBcc: x@evil.example",
			})
			send := h.send(t, raw)
			receipt, err := h.c.Do(t.Context(), send)
			require.NoError(t, err)
			hides(t, emailSecret, receipt, send.Effect)
			messages := h.Journal()
			require.Len(t, messages, 1)
			got := messages[0]
			require.Equal(t, []any{true, "relay", "support@acme.example", []string{"ann@example.com"}}, []any{got.Encrypted, got.User, got.From, got.To})
			require.NotContains(t, string(got.Data), canary)
			for line := range strings.SplitSeq(string(got.Data), "\r\n") {
				require.LessOrEqual(t, len(line), 998)
				require.NotContains(t, line, "\r")
			}
			m, err := netmail.ReadMessage(bytes.NewReader(got.Data))
			require.NoError(t, err)
			require.Equal(t, receipt.ID, strings.Trim(m.Header.Get("Message-ID"), "<>"))
			require.True(t, strings.HasSuffix(receipt.ID, "@acme.example"))
			require.Equal(t, "Wed, 04 Mar 2026 05:06:07 +0000", m.Header.Get("Date"))
			for name, want := range map[string]string{
				"To": "ann@example.com", "Bcc": "", "In-Reply-To": "<first@example.com>", "References": "<zero@example.com> <first@example.com> ",
				"Auto-Submitted": "auto-replied", "Content-Type": "text/plain; charset=utf-8",
			} {
				require.Equal(t, strings.TrimSpace(want), m.Header.Get(name), name)
			}
			from, err := m.Header.AddressList("From")
			require.NoError(t, err)
			require.Equal(t, "Süpport", from[0].Name)
			subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
			require.NoError(t, err)
			require.Equal(t, send.Effect.Args["subject"], subject)
			body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
			require.NoError(t, err)
			require.Equal(t, strings.TrimSpace(string(send.Effect.Body)), strings.TrimSpace(strings.ReplaceAll(string(body), "\r\n", "\n")))
		})
	}
}

// A mail that answers nobody begins a conversation, and every try of it bears one id.
func TestEmailBearsOneID(t *testing.T) {
	t.Parallel()
	h := newMailHouse(t, "smtp")
	ids := map[string]bool{}
	for _, key := range []string{keyOne, keyOne, keyTwo} {
		send := h.send(t, emailSample)
		send.Key = key
		receipt, err := h.c.Do(t.Context(), send)
		require.NoError(t, err)
		ids[receipt.ID] = true
	}
	require.Len(t, ids, 2)
	m, err := netmail.ReadMessage(bytes.NewReader(h.Journal()[0].Data))
	require.NoError(t, err)
	require.Equal(t, []string{"auto-generated", "", ""}, []string{m.Header.Get("Auto-Submitted"), m.Header.Get("In-Reply-To"), m.Header.Get("References")})
	require.Equal(t, action.OnceNever, h.send(t, emailSample).Effect.Once)
}

func TestEmailHostileTextIsHarmless(t *testing.T) {
	t.Parallel()
	h := newMailHouse(t, "smtp")
	hostile := "<img src=https://evil.example/p.png?" + canary + "> https://evil.example/z www.evil.example \u202eabc <script>alert(1)</script>"
	send := h.send(t, emailWith(t, map[string]any{"subject": hostile, "body": hostile, "links": []string{"docs.example.com"}}))
	_, err := h.c.Do(t.Context(), send)
	require.NoError(t, err)
	for _, text := range []string{string(send.Effect.Body), send.Effect.Args["subject"]} {
		require.NotContains(t, text, "https://evil.example")
		require.NotContains(t, text, "\u202e")
	}
}

func TestEmailAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		verb, reply string
		kind        action.Kind
		code        string
		doubt       bool
	}{
		"no greeting":              {"EHLO", "502 " + canary, action.Refused, action.CodeRefused, false},
		"cut at the greeting":      {"EHLO", scripted.MailCut, action.Retry, action.CodeBroken, false},
		"login refused":            {"AUTH", "535 5.7.8 " + canary, action.Refused, action.CodeUnauthorized, false},
		"login not now":            {"AUTH", "454 4.7.0 " + canary, action.Retry, action.CodeStatus4xx, false},
		"sender refused":           {"MAIL", "553 5.7.1 " + canary, action.Refused, action.CodeRefused, false},
		"nobody there":             {"RCPT", "550 5.1.1 " + canary, action.Refused, action.CodeRefused, false},
		"greylisted":               {"RCPT", "451 4.7.1 " + canary, action.Retry, action.CodeStatus4xx, false},
		"closing":                  {"RCPT", "421 4.3.2 " + canary, action.Retry, action.CodeStatus4xx, false},
		"cut at the address":       {"RCPT", scripted.MailCut, action.Retry, action.CodeBroken, false},
		"no answer at the address": {"RCPT", scripted.MailHang, action.Retry, action.CodeTimeout, false},
		"data refused":             {"DATA", "554 5.5.1 " + canary, action.Refused, action.CodeRefused, false},
		"no room":                  {"END", "452 4.3.1 " + canary, action.Retry, action.CodeStatus4xx, false},
		"taken for spam":           {"END", "550 5.7.1 " + canary, action.Refused, action.CodeRefused, false},
		"cut after the final dot":  {"END", scripted.MailCut, action.Retry, action.CodeBroken, true},
		"silent after it":          {"END", scripted.MailHang, action.Retry, action.CodeTimeout, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newMailHouse(t, "smtp")
			h.Script(c.verb, c.reply, c.reply) // EHLO is tried as HELO, too
			receipt, err := h.c.Do(t.Context(), h.send(t, emailSample))
			require.Zero(t, receipt)
			got := failure(t, err)
			require.Equal(t, []any{c.kind, c.code, c.doubt}, []any{got.Kind, got.Code, got.Doubt})
			hides(t, emailSecret, err)
			require.Len(t, h.Journal(), map[bool]int{true: 1}[c.doubt])
		})
	}
}

func TestEmailIsNotSentInTheClear(t *testing.T) {
	t.Parallel()
	h := newMailHouse(t, "smtp")
	for name, c := range map[string]struct {
		door *outbound.Door
		base string
		kind action.Kind
		code string
	}{
		"certificate of a stranger": {devDoor(), h.base, action.Retry, action.CodeTLS},
		"no TLS where it begins":    {h.door, strings.Replace(h.base, "smtp:", "smtps:", 1), action.Retry, action.CodeTLS},
		"own machine":               {outbound.New(outbound.Config{}), h.base, action.Blocked, action.CodeBlocked},
		"private address":           {devDoor(), "smtp://10.0.0.1:587", action.Blocked, action.CodeBlocked},
		"port of servers":           {devDoor(), "smtp://mail.example.com:25", action.Blocked, action.CodeBlocked},
		"no mail server":            {devDoor(), "https://mail.example.com", action.Refused, action.CodeCredential},
		"no address":                {devDoor(), "", action.Refused, action.CodeCredential},
		"a login in the address":    {devDoor(), "smtp://a:b@127.0.0.1:1", action.Refused, action.CodeCredential},
	} {
		connector, _ := action.New(c.door).Get(mailed)
		send := h.send(t, emailSample)
		send.Base = c.base
		_, err := connector.Do(t.Context(), send)
		got := failure(t, err)
		require.Equal(t, []any{c.kind, c.code, false}, []any{got.Kind, got.Code, got.Doubt}, name)
		hides(t, emailSecret, err)
	}
	send := h.send(t, emailSample)
	send.Secret = ""
	_, err := h.c.Do(t.Context(), send)
	require.Equal(t, action.CodeCredential, failure(t, err).Code)
	require.Empty(t, h.Journal())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = h.c.Do(ctx, h.send(t, emailSample))
	require.Equal(t, action.CodeCanceled, failure(t, err).Code)
}

func TestSMTPAccount(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	account, ok := set.Account("smtp")
	require.True(t, ok)
	require.NotEmpty(t, account.SecretDoc)
	for secret, ok := range map[string]bool{
		emailSecret: true, "a:b": true, "apikey:SG.x": true, "": false, "a b": false, "user:": false, ":password": false, canary + ":x\r\nX: y": false,
		"u:" + strings.Repeat("x", 2000): false,
	} {
		err := account.Check(secret)
		require.Equal(t, ok, err == nil, secret)
		hides(t, "", err)
	}
	for base, ok := range map[string]bool{
		"smtp://smtp.example.com:587": true, "smtps://smtp.example.com:465": true, "smtp://smtp.example.com": true, "smtp://smtp.example.com:2525": true,
		"smtp://127.0.0.1:1025": true, "": false, "https://smtp.example.com": false, "smtp://smtp.example.com:25": false, "smtp://10.0.0.1:587": false,
		"smtp://u:" + canary + "@smtp.example.com:587": false, "smtp://smtp.example.com/": false, "smtp://smtp.example.com?x": false,
	} {
		err := set.CheckBase(account, base)
		require.Equal(t, ok, err == nil, base)
		hides(t, "", err)
	}
	h := newMailHouse(t, "smtp")
	account, _ = action.New(h.door).Account("smtp")
	id, err := account.Test(t.Context(), action.Access{Secret: emailSecret, Base: h.base}, time.Now())
	require.NoError(t, err)
	require.Empty(t, id.Actor)
	_, err = account.Test(t.Context(), action.Access{Secret: "relay:" + canary, Base: h.base}, time.Now())
	require.Equal(t, action.CodeUnauthorized, failure(t, err).Code)
	hides(t, "", err)
	require.Empty(t, h.Journal())
}
