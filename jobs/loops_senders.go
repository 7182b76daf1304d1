package jobs

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// senders say by which names a source calls whoever caused an event; the first is the one for people. A source that is not here does not say it,
// or not in a place that is known. A name that stands for somebody else (the author of what somebody else closed) must not be among them: a run
// would be skipped for it.
var senders = map[string]func(payload any) []string{
	"bitbucket": func(p any) []string { return texts(p, "actor", "nickname", "account_id", "uuid", "name", "slug", "id") },
	"github":    func(p any) []string { return texts(p, "sender", "login", "id") },
	"gitlab":    gitlabSender,
	"hubspot":   func(p any) []string { return hubspotSender(text(p, "sourceId")) },
	"intercom":  intercomSender,
	"jira":      jiraSender,
	"linear":    linearSender,
	"pagerduty": func(p any) []string { return texts(within(p, "event"), "agent", "id") },
	"pipedrive": func(p any) []string { return texts(p, "meta", "user_id") },
	"servicenow": func(p any) []string {
		return []string{text(p, "sys_updated_by")}
	},
	"slack":   slackSender,
	"twilio":  func(p any) []string { return []string{text(p, "From")} },
	"zendesk": zendeskSender,
	"zoom":    func(p any) []string { return texts(p, "payload", "operator", "operator_id") },
}

// senderBytesMax is longer than any actor that a credential may have.
const senderBytesMax = 800

// sendersOf are the names of whoever caused an event, as far as its source says.
func sendersOf(source string, payload any) []string {
	of, ok := senders[source]
	if !ok {
		return nil
	}
	return slices.DeleteFunc(of(payload), func(name string) bool {
		// A name comes from outside: what cannot be an actor is not looked up, nor shown.
		return name == "" || len(name) > senderBytesMax || strings.ContainsFunc(name, unicode.IsControl)
	})
}

// actorsOf are the actors that a credential may have been given for the names of a sender: a name, or the source, a colon and a name.
func actorsOf(source string, names []string) []string {
	actors := make([]string, 0, len(names)+len(names))
	for _, name := range names {
		lower := strings.ToLower(name)
		actors = append(actors, lower, source+":"+lower)
	}
	return actors
}

// gitlabSender: events of members and tokens name whoever they are about in the fields in which a push names its sender.
func gitlabSender(p any) []string {
	if names := texts(p, "user", "username", "id"); anyOf(names) {
		return names
	}
	switch text(p, "object_kind") {
	case "push", "tag_push":
		return []string{text(p, "user_username"), text(p, "user_id")}
	case "note":
		return texts(p, "object_attributes", "author_id")
	}
	return nil
}

// hubspotSender: a change by a person has the source id userId:1234, one by an app the app's id.
func hubspotSender(id string) []string {
	if user, ok := strings.CutPrefix(id, "userId:"); ok {
		return []string{id, user}
	}
	return []string{id}
}

// intercomSender: an event of a conversation carries the part that it is about; the conversation's own author sent only its beginning.
func intercomSender(p any) []string {
	item := within(within(p, "data"), "item")
	if parts, ok := within(within(item, "conversation_parts"), "conversation_parts").([]any); ok && len(parts) > 0 {
		return texts(parts[len(parts)-1], "author", "id", "email")
	}
	if strings.HasPrefix(text(p, "topic"), "conversation.") && strings.HasSuffix(text(p, "topic"), ".created") {
		return texts(within(item, "source"), "author", "id", "email")
	}
	return nil
}

// jiraSender: an event of an issue names its user; one of a comment or of a worklog only whoever wrote, and last changed, it.
func jiraSender(p any) []string {
	for _, who := range []any{
		within(p, "user"), within(within(p, "comment"), "updateAuthor"), within(within(p, "comment"), "author"),
		within(within(p, "worklog"), "updateAuthor"), within(within(p, "worklog"), "author"),
	} {
		if names := []string{text(who, "name"), text(who, "accountId"), text(who, "key")}; anyOf(names) {
			return names
		}
	}
	return nil
}

// linearSender: older webhooks name no actor, and a comment that is just made names whoever wrote it.
func linearSender(p any) []string {
	if names := texts(p, "actor", "id", "email"); anyOf(names) {
		return names
	}
	if text(p, "type") == "Comment" && text(p, "action") == "create" {
		return texts(p, "data", "userId")
	}
	return nil
}

// slackSender: a bot's message names the bot and, mostly, its user. An edited message stands in the event as a whole.
func slackSender(p any) []string {
	event := within(p, "event")
	if edited := within(event, "message"); edited != nil {
		if editor := text(within(edited, "edited"), "user"); editor != "" {
			return []string{editor}
		}
		event = edited
	}
	if event == nil {
		// A command, and a click, are no events.
		return []string{text(p, "user_id"), text(within(p, "user"), "id")}
	}
	return []string{text(event, "user"), text(event, "bot_id"), cmp.Or(text(event, "app_id"), text(within(event, "bot_profile"), "app_id"))}
}

// zendeskSender: a comment's author is asked only where no actor is named, since others may change what an author wrote.
func zendeskSender(p any) []string {
	for _, names := range [][]string{
		{text(within(p, "detail"), "actor_id")}, texts(within(p, "event"), "actor", "id"), texts(within(within(p, "event"), "comment"), "author", "id"),
	} {
		if anyOf(names) {
			return names
		}
	}
	return nil
}

// within is the value of a key of an object, nil where there is none.
func within(v any, key string) any {
	object, _ := v.(map[string]any)
	return object[key]
}

// texts are the values of keys of the object at place.
func texts(v any, place string, keys ...string) []string {
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = text(within(v, place), key)
	}
	return out
}

// text is a text or a whole number, else "".
func text(v any, key string) string {
	switch v := within(v, key).(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

func anyOf(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return name != "" })
}
