package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What Slack takes (docs.slack.dev/reference/methods/chat.postMessage, docs.slack.dev/changelog/2018-04-truncating-really-long-messages).
const (
	slackBreakAt    = 4000 // a longer message becomes several
	slackTextMax    = 40000
	slackPageRows   = 100
	slackPageMax    = 999
	slackReplyRows  = 1000
	slackBotUser    = "U0SLUICE"
	slackBot        = "B0SLUICE"
	slackKind       = "message"
	slackTypeMax    = 255
	slackMicrosFrom = 100
)

// NewSlack makes the part of Slack's Web API that posts messages, changes them and reads them, with some channels whose members the bot is. It says 200
// to what it understands, and ok or an error in the answer.
func NewSlack(token string, now func() time.Time, channels ...string) *Vendor {
	v := newVendor("slack", token, now)
	s := &slackChat{Vendor: v, channels: channels}
	v.mux.HandleFunc("POST /auth.test", s.with(s.who))
	v.mux.HandleFunc("POST /chat.postMessage", s.with(s.post))
	v.mux.HandleFunc("POST /chat.update", s.with(s.update))
	v.mux.HandleFunc("GET /conversations.history", s.with(s.history))
	v.mux.HandleFunc("GET /conversations.replies", s.with(s.replies))
	return v
}

type slackChat struct {
	*Vendor

	channels []string
}

// with checks what all methods have in common: a bearer token, which is never taken from the query, and a body of JSON.
func (s *slackChat) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case !ok || bearer == "":
			slackNo(w, "not_authed")
		case !s.authorized(r):
			slackNo(w, "invalid_auth")
		case r.Method == http.MethodPost && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"):
			slackNo(w, "invalid_post_type")
		default:
			w.Header().Set("X-Oauth-Scopes", "chat:write,channels:history")
			handle(w, r)
		}
	}
}

func slackNo(w http.ResponseWriter, code string) {
	vendorJSON(w, http.StatusOK, map[string]any{"ok": false, "error": code})
}

func (*slackChat) who(w http.ResponseWriter, _ *http.Request) {
	vendorJSON(w, http.StatusOK, map[string]any{
		"ok": true, "url": "https://acme.slack.com/", "team": "Acme", "user": "sluice", "team_id": "T0ACME", "user_id": slackBotUser, "bot_id": slackBot,
	})
}

// slackIn is a message as it is posted or changed.
type slackIn struct {
	Channel     string `json:"channel"`
	TS          string `json:"ts"`
	ThreadTS    string `json:"thread_ts"`
	Text        string `json:"text"`
	Parse       string `json:"parse"`
	LinkNames   bool   `json:"link_names"`
	UnfurlLinks *bool  `json:"unfurl_links"`
	UnfurlMedia *bool  `json:"unfurl_media"`
	Metadata    *struct {
		Type    string         `json:"event_type"`
		Payload map[string]any `json:"event_payload"`
	} `json:"metadata"`
}

var (
	slackTimeRE = regexp.MustCompile(`^[0-9]{10}\.[0-9]{6}$`)
	slackTypeRE = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
)

// message reads a message, or refuses it as Slack does.
func (s *slackChat) message(w http.ResponseWriter, r *http.Request) (slackIn, bool) {
	var in slackIn
	code := ""
	switch {
	case json.NewDecoder(r.Body).Decode(&in) != nil:
		code = "invalid_json"
	case !slices.Contains(s.channels, in.Channel):
		code = "channel_not_found"
	case in.Text == "":
		code = "no_text"
	case in.ThreadTS != "" && !slackTimeRE.MatchString(in.ThreadTS):
		code = "invalid_arguments"
	case in.Parse != "" && in.Parse != "none" && in.Parse != "full" && in.Parse != "client":
		code = "invalid_arguments"
	case in.Metadata != nil && (!slackTypeRE.MatchString(in.Metadata.Type) || len(in.Metadata.Type) > slackTypeMax || in.Metadata.Payload == nil):
		code = "invalid_metadata_format"
	}
	if code != "" {
		slackNo(w, code)
		return in, false
	}
	return in, true
}

// more is what is kept of a message beside its text.
func (in slackIn) more() map[string]string {
	live := func(flag *bool) string { return strconv.FormatBool(flag == nil || *flag) } // left out, a preview is made
	more := map[string]string{
		"parse": in.Parse, "link_names": strconv.FormatBool(in.LinkNames), "unfurl_links": live(in.UnfurlLinks), "unfurl_media": live(in.UnfurlMedia),
	}
	if in.Metadata != nil {
		payload, _ := json.Marshal(in.Metadata.Payload)
		more["event_type"], more["event_payload"] = in.Metadata.Type, string(payload)
	}
	return more
}

// post keeps a message. One of too many characters becomes several; a thread that is not there makes it a message of the channel, without a word
// (github.com/slack-go/slack/issues/1571).
func (s *slackChat) post(w http.ResponseWriter, r *http.Request) {
	in, ok := s.message(w, r)
	if !ok {
		return
	}
	root, there := s.find(in.Channel, in.ThreadTS)
	var first VendorEffect
	for i, part := range slackParts(in.Text) {
		more := in.more()
		if there {
			more["thread_ts"] = root.ID
			if up := root.More["thread_ts"]; up != "" {
				more["thread_ts"] = up // an answer to an answer stands in the same thread
			}
		}
		e := s.write(VendorEffect{ID: s.time(), Kind: slackKind, Target: in.Channel, Text: part, More: more})
		if i == 0 {
			first = e
		}
	}
	vendorJSON(w, http.StatusOK, map[string]any{"ok": true, "channel": in.Channel, "ts": first.ID, "message": s.show(first, true)})
}

// slackParts are the messages that a text becomes.
func slackParts(text string) (parts []string) {
	runes := []rune(text)
	if len(runes) > slackTextMax {
		runes = runes[:slackTextMax]
	}
	if utf8.RuneCountInString(text) <= slackBreakAt {
		return []string{text}
	}
	for chunk := range slices.Chunk(runes, slackBreakAt) {
		parts = append(parts, string(chunk))
	}
	return parts
}

// time is the time of the next message, which nothing else has.
func (s *slackChat) time() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return fmt.Sprintf("%d.%06d", s.now().Unix(), slackMicrosFrom+s.next)
}

// find is the message of a channel that has a time.
func (s *slackChat) find(channel, ts string) (VendorEffect, bool) {
	all := s.read(slackKind, channel)
	at := slices.IndexFunc(all, func(e VendorEffect) bool { return e.ID == ts })
	if at < 0 {
		return VendorEffect{}, false
	}
	return all[at], true
}

func (s *slackChat) update(w http.ResponseWriter, r *http.Request) {
	in, ok := s.message(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	at := slices.IndexFunc(s.effects, func(e VendorEffect) bool { return e.ID == in.TS && e.Target == in.Channel })
	if at >= 0 {
		e := &s.effects[at]
		thread := e.More["thread_ts"]
		e.Text, e.More, e.Updates = in.Text, in.more(), e.Updates+1
		if in.Parse == "" {
			e.More["parse"] = "client" // unlike a message that is posted
		}
		if thread != "" {
			e.More["thread_ts"] = thread
		}
	}
	s.mu.Unlock()
	if at < 0 {
		slackNo(w, "message_not_found")
		return
	}
	vendorJSON(w, http.StatusOK, map[string]any{"ok": true, "channel": in.Channel, "ts": in.TS, "text": in.Text})
}

// show is a message as it is read. What its metadata hold is shown to those who ask for all of it.
func (*slackChat) show(e VendorEffect, all bool) map[string]any {
	row := map[string]any{"type": slackKind, "ts": e.ID, "text": e.Text, "user": slackBotUser, "bot_id": slackBot}
	if thread := e.More["thread_ts"]; thread != "" {
		row["thread_ts"] = thread
	}
	if kind := e.More["event_type"]; kind != "" {
		metadata := map[string]any{"event_type": kind}
		if all {
			metadata["event_payload"] = json.RawMessage(e.More["event_payload"])
		}
		row["metadata"] = metadata
	}
	return row
}

// history reads the messages of a channel that are in no thread, the newest first.
func (s *slackChat) history(w http.ResponseWriter, r *http.Request) {
	var rows []VendorEffect
	for _, e := range s.read(slackKind, r.URL.Query().Get("channel")) {
		if e.More["thread_ts"] == "" {
			rows = append(rows, e)
		}
	}
	slices.Reverse(rows)
	s.page(w, r, rows, slackPageRows)
}

// replies reads a thread, the oldest first. The time of an answer is answered with it alone (github.com/slackapi/bolt-python/issues/783).
func (s *slackChat) replies(w http.ResponseWriter, r *http.Request) {
	channel, ts := r.URL.Query().Get("channel"), r.URL.Query().Get("ts")
	root, there := s.find(channel, ts)
	if slices.Contains(s.channels, channel) && !there {
		slackNo(w, "thread_not_found")
		return
	}
	rows := []VendorEffect{root}
	for _, e := range s.read(slackKind, channel) {
		if e.More["thread_ts"] == ts {
			rows = append(rows, e)
		}
	}
	s.page(w, r, rows, slackReplyRows)
}

// page answers with the part of rows that the query asks for. Times compare as texts: they are of one length.
func (s *slackChat) page(w http.ResponseWriter, r *http.Request, rows []VendorEffect, size int) {
	q := r.URL.Query()
	if !slices.Contains(s.channels, q.Get("channel")) {
		slackNo(w, "channel_not_found")
		return
	}
	oldest, latest, inclusive := q.Get("oldest"), q.Get("latest"), q.Get("inclusive") == "true"
	for name, time := range map[string]string{"oldest": oldest, "latest": latest} {
		if time != "" && !slackTimeRE.MatchString(time) {
			slackNo(w, "invalid_ts_"+name)
			return
		}
	}
	rows = slices.DeleteFunc(rows, func(e VendorEffect) bool {
		return oldest != "" && (e.ID < oldest || e.ID == oldest && !inclusive) || latest != "" && (e.ID > latest || e.ID == latest && !inclusive)
	})
	if n, err := strconv.Atoi(q.Get("limit")); err == nil && n > 0 {
		size = min(n, slackPageMax)
	}
	from, _ := strconv.Atoi(q.Get("cursor"))
	from = min(max(from, 0), len(rows))
	until := min(from+size, len(rows))
	shown := []map[string]any{}
	for _, e := range rows[from:until] {
		shown = append(shown, s.show(e, q.Get("include_all_metadata") == "true" || q.Get("include_all_metadata") == "1"))
	}
	answer := map[string]any{"ok": true, "messages": shown, "has_more": until < len(rows)}
	if until < len(rows) {
		answer["response_metadata"] = map[string]any{"next_cursor": strconv.Itoa(until)}
	}
	vendorJSON(w, http.StatusOK, answer)
}
