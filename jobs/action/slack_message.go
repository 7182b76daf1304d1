package action

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"sluice/jobs/action/harmless"
)

// slackMessage posts to a channel, or into a thread (docs.slack.dev/reference/methods/chat.postMessage). Slack drops no repeats: client_msg_id is for its
// own clients, and apps are asked not to rely on it (github.com/slackapi/java-slack-sdk/issues/852). So a message bears our key in its metadata, which
// is not shown (docs.slack.dev/messaging/message-metadata), and by which it is found again.
type slackMessage struct{ slack }

var (
	_ Connector = slackMessage{}
	_ Finder    = slackMessage{}
)

const (
	fieldChannel = "channel"
	fieldThread  = "thread"
	fieldTS      = "ts"

	// slackTextMax is what a message should not exceed. Slack cuts one only at 40,000 characters, but breaks a longer one than this into several
	// (docs.slack.dev/changelog/2018-04-truncating-really-long-messages), of which each would have to be found.
	slackTextMax = 4000
	// slackPage is the most that Slack recommends to ask for at once; apps outside of its marketplace are given 15 (docs.slack.dev/apis/web-api/rate-limits).
	slackPage     = 200
	slackPagesMax = 10

	slackChannelDefault = "{{ payload.event.channel | default: payload.channel_id }}"
	// slackMark is the type of our metadata, and slackKey the name of the key in it.
	slackMark = "sluice_message"
	slackKey  = "key"
)

func (slackMessage) Spec() Spec {
	return Spec{Kind: "slack_message", Account: "slack", Fields: []Field{
		{Name: fieldChannel, Form: FormTarget, Default: slackChannelDefault, Doc: "the id of the channel, such as C0123456789; that of the event if left out"},
		{Name: fieldAllow, Form: FormTexts, Doc: "the ids of the channels that may be written to; left out, the one of the event, or the one that channel writes out"},
		{
			Name: fieldThread, Form: FormTarget,
			Doc: "the ts of the message in whose thread to answer, such as {{ payload.event.thread_ts | default: payload.event.ts }}; left out, it goes to the channel",
		},
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the message, in Slack's mrkdwn"},
		linksField(), updateField(),
	}}
}

// Check finds a channel, or a thread, that cannot be. A template of the tenant's own for the channel wants the list of those that are meant.
func (slackMessage) Check(p Params) (faults []Fault) {
	if channel, ok := p.Literal(fieldChannel); ok {
		if !slackChannelRE.MatchString(channel) {
			faults = append(faults, Fault{Place: "action.channel", Message: slackChannelWanted})
		}
	} else if channel != "" && channel != slackChannelDefault && len(p.Lists[fieldAllow]) == 0 {
		faults = append(faults, Fault{Place: "action.allow", Message: "is required where channel is a template of your own: the ids of the channels that may be written to"})
	}
	if thread, ok := p.Literal(fieldThread); ok && thread != "" && !slackTimeRE.MatchString(thread) {
		faults = append(faults, Fault{Place: "action.thread", Message: slackThreadWanted})
	}
	return faults
}

const (
	slackChannelWanted = "expected the id of a channel, such as C0123456789"
	slackThreadWanted  = "expected the ts of a message, such as 1712345678.000100"
)

func (slackMessage) Prepare(p Params, in Input) (Effect, error) {
	channel, thread := p.Texts[fieldChannel], strings.TrimSpace(p.Texts[fieldThread])
	switch allow := p.Lists[fieldAllow]; {
	case !slackChannelRE.MatchString(channel):
		return Effect{}, refused(CodeTarget, "action.channel: "+slackChannelWanted)
	case len(allow) > 0 && !allowed(allow, channel):
		return Effect{}, refused(CodeTarget, "action.channel: the channel is not among those that action.allow names")
	case thread != "" && !slackTimeRE.MatchString(thread):
		return Effect{}, refused(CodeTarget, "action.thread: "+slackThreadWanted)
	}
	text := harmless.Slack(p.Texts[fieldBody], p.Rules(slackTextMax))
	if strings.TrimSpace(text) == "" {
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	target, args := channel, map[string]string{fieldChannel: channel}
	if thread != "" {
		target, args[fieldThread] = channel+"/"+thread, thread
	}
	return Effect{
		Kind: "slack_message", Target: target, ContentType: textType, Signed: true, Body: []byte(text), Once: OnceMark,
		Args: args, Update: p.Flags[fieldUpdate], RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// slackPost is a message as it is sent. Names are no mentions, and links bring no previews; chat.update must be told so too, since left out its parse is
// another one than that of chat.postMessage (docs.slack.dev/reference/methods/chat.update).
type slackPost struct {
	Channel     string       `json:"channel"`
	TS          string       `json:"ts,omitempty"`
	ThreadTS    string       `json:"thread_ts,omitempty"`
	Text        string       `json:"text"`
	Parse       string       `json:"parse"`
	LinkNames   bool         `json:"link_names"`
	UnfurlLinks bool         `json:"unfurl_links"`
	UnfurlMedia bool         `json:"unfurl_media"`
	Metadata    slackMetaOut `json:"metadata"`
}

type slackMetaOut struct {
	Type    string            `json:"event_type"`
	Payload map[string]string `json:"event_payload"`
}

// slackSeen is what is read of a message.
type slackSeen struct {
	TS       string `json:"ts"`
	ThreadTS string `json:"thread_ts"`
	Metadata struct {
		Type    string         `json:"event_type"`
		Payload map[string]any `json:"event_payload"`
	} `json:"metadata"`
}

// slackMade is the answer to a message that was posted or changed.
type slackMade struct {
	TS      string    `json:"ts"`
	Message slackSeen `json:"message"`
}

func (c slackMessage) Do(ctx context.Context, s Send) (Receipt, error) {
	post := slackPost{
		Channel: s.Effect.Args[fieldChannel], ThreadTS: s.Effect.Args[fieldThread], Text: string(s.Effect.Body), Parse: "none",
		Metadata: slackMetaOut{Type: slackMark, Payload: map[string]string{slackKey: s.Key}},
	}
	if s.Previous != nil && slackTimeRE.MatchString(s.Previous.ID) {
		change := post
		change.TS, change.ThreadTS = s.Previous.ID, ""
		var changed slackMade
		res, err := c.ask(ctx, s, question{method: http.MethodPost, path: "/chat.update", in: change, out: &changed})
		if err == nil {
			return Receipt{Status: res.Status, ID: s.Previous.ID, Note: s.Previous.Note}, nil
		}
		if !gone(err) {
			return Receipt{}, err
		}
		// Somebody has deleted it: another one takes its place.
	}
	var made slackMade
	res, err := c.ask(ctx, s, question{method: http.MethodPost, path: "/chat.postMessage", in: post, out: &made})
	if err != nil {
		return Receipt{}, err
	}
	if !slackTimeRE.MatchString(made.TS) {
		return Receipt{}, &Error{Code: CodeBroken, Kind: Retry, Message: "the target's answer could not be read", Doubt: true, Status: res.Status}
	}
	made.Message.TS = made.TS
	return c.receipt(s, made.Message, res.Status), nil
}

// receipt names a message. One whose thread is gone Slack posts to the channel without a word, and shows it by the thread_ts that its answer lacks
// (github.com/slack-go/slack/issues/1571).
func (slackMessage) receipt(s Send, m slackSeen, status int) Receipt {
	r := Receipt{Status: status, ID: m.TS}
	if s.Effect.Args[fieldThread] != "" && m.ThreadTS == "" {
		r.Note = "the thread is not there any more: Slack has posted the message to the channel"
	}
	return r
}

// Find looks where the message can be: in the one that was to be changed, in the thread, and, where there is no such thread, in the channel.
func (c slackMessage) Find(ctx context.Context, s Send) (*Receipt, error) {
	if s.Previous != nil && slackTimeRE.MatchString(s.Previous.ID) {
		if found, err := c.previous(ctx, s); found != nil || err != nil {
			return found, err
		}
	}
	if thread := s.Effect.Args[fieldThread]; thread != "" {
		// Without a beginning in time: the message that began the thread is to be among the answers, since it tells whether it is a thread.
		found, err := c.look(ctx, s, "/conversations.replies", url.Values{fieldTS: {thread}}, thread)
		if !gone(err) {
			return found, err
		}
	}
	return c.look(ctx, s, "/conversations.history", url.Values{"oldest": {strconv.FormatInt(s.from().Unix(), 10) + ".000000"}, "inclusive": {"true"}}, "")
}

// previous looks at the one message that was to be changed (docs.slack.dev/messaging/retrieving-messages).
func (c slackMessage) previous(ctx context.Context, s Send) (*Receipt, error) {
	path, q := "/conversations.history", url.Values{"oldest": {s.Previous.ID}, "latest": {s.Previous.ID}, "inclusive": {"true"}}
	if s.Effect.Args[fieldThread] != "" && s.Previous.Note == "" {
		path = "/conversations.replies"
		q.Set(fieldTS, s.Previous.ID) // that of a reply answers with the reply
	}
	found, err := c.look(ctx, s, path, q, "")
	if gone(err) {
		return nil, nil //nolint:nilnil // it is not there any more: what took its place is looked for next
	}
	return found, err
}

// look reads pages of messages for the one with our key. Fewer than were asked for may be on a page that is not the last one
// (docs.slack.dev/reference/methods/conversations.history), so that only Slack's own word ends it.
func (c slackMessage) look(ctx context.Context, s Send, path string, q url.Values, thread string) (*Receipt, error) {
	q.Set(fieldChannel, s.Effect.Args[fieldChannel])
	q.Set("include_all_metadata", "true")
	q.Set("limit", strconv.Itoa(slackPage))
	rooted := thread == ""
	for range slackPagesMax {
		var page struct {
			Messages []slackSeen `json:"messages"`
			More     bool        `json:"has_more"`
			Next     struct {
				Cursor string `json:"next_cursor"`
			} `json:"response_metadata"`
		}
		res, err := c.ask(ctx, s, question{method: http.MethodGet, path: path, query: q, out: &page, large: true})
		if err != nil {
			return nil, err
		}
		for _, m := range page.Messages {
			if m.TS == thread && m.ThreadTS != "" && m.ThreadTS != m.TS {
				return nil, slackUnclear("action.thread names an answer, and not the message that began the thread: what stands in the thread cannot be seen")
			}
			rooted = rooted || m.TS == thread
			if m.Metadata.Type != slackMark {
				continue
			}
			switch key, ok := m.Metadata.Payload[slackKey].(string); {
			case !ok:
				return nil, slackUnclear("Slack shows a message of ours without its mark")
			case key == s.Key:
				found := c.receipt(s, m, res.Status)
				return &found, nil
			}
		}
		if !page.More && page.Next.Cursor == "" {
			if !rooted {
				return nil, slackUnclear("Slack does not show the message that began the thread")
			}
			return nil, nil //nolint:nilnil // it is surely not there
		}
		if page.Next.Cursor == "" {
			break
		}
		q.Set("cursor", page.Next.Cursor)
	}
	return nil, tooMany()
}

// slackUnclear says that Slack was asked, and that its answer does not tell.
func slackUnclear(message string) *Error {
	return &Error{Kind: Refused, Code: CodeLookup, Message: message, Doubt: true}
}
