package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net/http"
	netmail "net/mail"
	"regexp"
	"slices"
	"strings"

	"sluice/scripted"
)

// markRE is our mark at the end of a text, one for each kind of place.
var markRE = regexp.MustCompile(`\n\n(?:<!-- sluice:msg_[0-9a-f]{32} -->|\[sluice:msg_[0-9a-f]{32}\])$|\n<p>\[sluice:msg_[0-9a-f]{32}\]</p>$`)

// judge reads every journal, and returns what was found by the kind of connector.
func (w *raid) judge(preys []prey, ends []connected) map[string][]string {
	w.t.Helper()
	found := map[string][]string{}
	add := func(kind, at string, faults ...string) {
		for _, fault := range faults {
			found[kind] = append(found[kind], at+": "+fault)
		}
	}
	var left []string // everything that left, as text
	for _, p := range preys {
		vendor := w.vendors[p.kind]
		if vendor == nil {
			continue
		}
		for _, e := range vendor.Effects() {
			if (e.Kind == "labels") != (p.kind == "github_labels") && p.kind[:6] == "github" {
				continue
			}
			at := fmt.Sprintf("%s %s", e.Target, e.ID)
			if !slices.Contains(p.allowed, e.Target) {
				add(p.kind, at, "another target")
			}
			if !slices.Contains([]string{"comment", "labels", "message", "note"}, e.Kind) {
				add(p.kind, at, "an effect of another kind: "+e.Kind)
			}
			add(p.kind, at, judged(p.kind, markRE.ReplaceAllString(e.Text, ""))...)
		}
		for _, e := range vendor.Journal() {
			left = append(left, fmt.Sprint(e.Path, e.Query, e.Header, e.Body))
		}
	}
	for _, e := range w.target.Journal() {
		kind := "http"
		if e.Path == "/callback" {
			kind = "callback"
		}
		add(kind, e.Path, judgeHook(e)...)
		e.Header.Del("Authorization") // of http, where it belongs
		left = append(left, fmt.Sprint(e.Path, e.Query, e.Header, string(e.Body)))
	}
	for _, e := range w.mailbox.Journal() {
		faults, text := judgeMail(e)
		add("email", "mail", faults...)
		left = append(left, string(e.Data), text)
	}
	add("prompt", "prompt", w.judgePrompts()...)
	w.prompts.mu.Lock()
	for _, p := range w.prompts.all {
		left = append(left, strings.ReplaceAll(p.System, canarySystem, "")+p.User)
	}
	w.prompts.mu.Unlock()
	secrets := []string{canarySecret, canarySystem, canaryLiquid, w.key, w.operator}
	for _, c := range ends {
		if len(c.with.Secret) > 0 {
			secrets = append(secrets, c.with.Secret, c.url)
		}
	}
	for _, text := range left {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				add("canary", cutText(text), "holds "+secret)
			}
		}
		if strings.Contains(text, canaryOther) {
			add("canary", cutText(text), "holds another tenant's payload")
		}
	}
	return found
}

func cutText(text string) string { return text[:min(len(text), 120)] }

// judged are the faults of a text by the syntax of the connector's target.
func judged(kind, text string) []string {
	switch kind {
	case "github_comment", "gitlab_note", "linear_comment", "markdown":
		return markdownFaults(text)
	case "slack_message", "slack":
		return slackFaults(text)
	case "zendesk_comment", "intercom_reply", "hubspot_note":
		return deskFaults(text)
	case "html":
		return htmlFaults(text)
	case "github_labels":
		if text != "triaged" {
			return []string{"another label: " + text}
		}
		return nil
	}
	return plainFaults(text)
}

// judgeHook judges a request of callback or http: its address and headers are ours, and so is the form of its body.
func judgeHook(e scripted.TargetEntry) (faults []string) {
	known := []string{
		"Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "Idempotency-Key", "Sluice-Depth", "Sluice-Run", "Traceparent", "User-Agent", "Webhook-Id",
		"Webhook-Signature", "Webhook-Timestamp",
	}
	for name := range e.Header {
		if !slices.Contains(known, name) {
			faults = append(faults, "another header: "+name)
		}
	}
	for name, want := range map[string]string{"Sluice-Run": `^run_[0-9a-f]{32}$`, "Sluice-Depth": `^0$`, "Idempotency-Key": `^msg_[0-9a-f]{32}$`} {
		if got := e.Header.Values(name); len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
			faults = append(faults, fmt.Sprintf("%s is %q", name, got))
		}
	}
	if e.Path == "/callback" {
		var body struct {
			Type string
			Data map[string]any
		}
		if err := json.Unmarshal(e.Body, &body); err != nil || body.Type != "run.completed" || body.Data["run_id"] != e.Header.Get("Sluice-Run") {
			faults = append(faults, "another envelope")
		}
		names := []string{"automation_id", "automation_version", "depth", "entity", "event_id", "event_type", "output", "run_id"}
		if got := slices.Sorted(maps.Keys(body.Data)); !slices.Equal(got, names) {
			faults = append(faults, fmt.Sprintf("members %q", got))
		}
		return faults
	}
	format, piece, ok := strings.Cut(strings.TrimPrefix(e.Path, "/items/"), "/")
	if !ok || !slices.Contains(httpFormats, format) || strings.Contains(piece, "/") || e.Query != "" || e.Method != http.MethodPut {
		faults = append(faults, "another address")
	}
	var body map[string]any
	if err := json.Unmarshal(e.Body, &body); err != nil || len(body) > 2 || body["note"] == nil {
		return append(faults, fmt.Sprintf("another document: %d members, %v", len(body), err))
	}
	for name, value := range body {
		faults = append(faults, lineFaults(name)...)
		values, isList := value.([]any)
		if !isList {
			values = []any{value}
		}
		for _, one := range values {
			text, isText := one.(string)
			if !isText {
				faults = append(faults, "a value that is no text")
			}
			faults = append(faults, judged(format, text)...)
		}
	}
	return faults
}

// judgeMail judges a mail: envelope, headers, subject and text.
func judgeMail(e scripted.MailEntry) (faults []string, text string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	message, err := netmail.ReadMessage(bytes.NewReader(e.Data))
	if err != nil {
		return []string{err.Error()}, ""
	}
	if e.From != "desk@shop.example" || !slices.Equal(e.To, []string{"ann@shop.example"}) {
		fault("from %q to %q", e.From, e.To)
	}
	names := []string{"Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "Subject", "To"}
	if got := slices.Sorted(maps.Keys(message.Header)); !slices.Equal(got, names) {
		fault("headers %q", got)
	}
	for name, values := range message.Header {
		if len(values) != 1 {
			fault("%d of %s", len(values), name)
		}
	}
	if to := message.Header.Get("To"); strings.Trim(to, "<>") != "ann@shop.example" {
		fault("to %q", to)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		fault("%v", err)
	}
	faults = append(faults, lineFaults(subject)...)
	body := message.Body
	if message.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		fault("%v", err)
	}
	text = strings.ReplaceAll(string(raw), "\r\n", "\n")
	return append(faults, plainFaults(text)...), subject + text
}

// fencedRE is what the model must be shown, for a marker.
const fencedRE = `^An event <data-%[1]s>[^<]*</data-%[1]s> of <data-%[1]s>[^<]*</data-%[1]s>:\n(?s:<data-%[1]s>(.*)</data-%[1]s>)\nAnswer it\.` +
	`(?s:\n\nAn earlier answer to this could not be used\. It was:\n<data-%[1]s>(.*)</data-%[1]s>\n\nWhat was wrong with it: <data-%[1]s>(.*)</data-%[1]s>\n` +
	`Answer again, so that it fits\.)?$`

var (
	markerRE    = regexp.MustCompile(`<data-([A-Za-z0-9]{16,64})> and </data-`)
	imitationRE = regexp.MustCompile(`(?i)[<＜﹤‹〈]\s*[/／]?\s*data\s*-`)
)

// judgePrompts: whatever a stranger wrote stands between markers that he cannot know, and nothing of it is hidden from people.
func (w *raid) judgePrompts() (faults []string) {
	w.prompts.mu.Lock()
	defer w.prompts.mu.Unlock()
	for _, p := range w.prompts.all {
		if !strings.Contains(p.System, canarySystem) {
			continue // of the other tenant, or of the automations that connect makes
		}
		marker := markerRE.FindStringSubmatch(p.System)
		if marker == nil {
			faults = append(faults, "no marker")
			continue
		}
		shown := regexp.MustCompile(fmt.Sprintf(fencedRE, marker[1])).FindStringSubmatch(p.User)
		if shown == nil || slices.ContainsFunc(shown[1:], func(s string) bool { return strings.Contains(s, marker[1]) || imitationRE.MatchString(s) }) {
			faults = append(faults, fmt.Sprintf("not fenced: %q", p.User[max(0, len(p.User)-3000):]))
			continue
		}
		faults = append(faults, hiddenFaults(p.System+strings.ReplaceAll(p.User, "\u2060", "?"))...)
	}
	return faults
}
