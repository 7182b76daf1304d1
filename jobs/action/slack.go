package action

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"sluice/jobs/action/harmless"
	"sluice/jobs/outbound"
)

// slack is the Web API of Slack (docs.slack.dev/apis/web-api).
type slack struct{ door *outbound.Door }

const (
	slackBase = "https://slack.com/api"
	// slackPrefix begins every token of Slack that can post: xoxb- of a bot, xoxp- of a user, xoxe. of a rotating one
	// (docs.slack.dev/authentication/tokens). That of an app as a whole begins with xapp-, and cannot.
	slackPrefix     = "xox"
	slackTeamMax    = 80
	slackScopeWrite = "chat:write"
	// slackScopeRead lets a bot look for what it has posted to public channels; private ones, and messages to people, want one each like it.
	slackScopeRead = "channels:history"
)

// slackAccount is a token of Slack.
func slackAccount(door *outbound.Door) Account {
	return Account{
		Kind: "slack", Base: slackBase, BaseDoc: "the address of the Web API, " + slackBase,
		SecretDoc: "a bot token, xoxb-..., with the scope chat:write, and channels:history (groups:history, im:history, mpim:history) so that a message whose " +
			"fate is not known can be looked for",
		Check: func(secret string) error {
			if err := checkToken(secret); err != nil {
				return err
			}
			if !strings.HasPrefix(secret, slackPrefix) {
				return errors.New("expected a token that begins with xoxb-")
			}
			return nil
		},
		Test: slack{door: door}.test,
	}
}

// test asks who a token is. auth.test needs no scope; the scopes of a token stand in a header of every answer (docs.slack.dev/reference/methods/auth.test,
// api.slack.com/docs/oauth-scopes). Messages of a bot name its user, and so does the change of one.
func (c slack) test(ctx context.Context, a Access, at time.Time) (Identity, error) {
	var who struct {
		UserID string `json:"user_id"`
		Team   string `json:"team"`
	}
	res, err := c.ask(ctx, Send{Access: a, At: at}, question{method: http.MethodPost, path: "/auth.test", in: struct{}{}, out: &who})
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Actor: who.UserID, Note: "the workspace " + harmless.Line(who.Team, slackTeamMax)}
	if scopes := res.Header.Get("X-Oauth-Scopes"); scopes != "" {
		held := strings.FieldsFunc(scopes, func(r rune) bool { return r == ',' || r == ' ' })
		if !slices.Contains(held, slackScopeWrite) {
			id.Note += "; the scope chat:write is missing, without which nothing can be posted"
		}
		if !slices.Contains(held, slackScopeRead) {
			id.Note += "; the scope channels:history is missing, without which nobody can look whether a message was posted"
		}
	}
	return id, nil
}

// ask puts a question. Slack says 200 to almost everything, and in the answer whether it was done.
func (c slack) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	q.base, q.at, q.header = s.baseOf(slackBase), s.At, bearer(s.Secret)
	q.judge = func(res outbound.Response) *Error { return slackSays(res, s.At) }
	return ask(ctx, c.door, q)
}

// slackCodes are the words in which Slack says no, and what they mean here (docs.slack.dev/reference/methods/chat.postMessage, the errors of chat.update,
// conversations.history and conversations.replies are the same ones).
var slackCodes = map[string]struct{ code, message string }{
	"access_denied":                    {CodeUnauthorized, "Slack does not let the token do this"},
	"account_inactive":                 {CodeUnauthorized, "the token is of a user or a workspace that was deleted"},
	"app_access_restricted":            {CodeUnauthorized, "the workspace's administrators have restricted the app"},
	"as_user_not_supported":            {CodeUnauthorized, "Slack does not take a token of this kind"},
	"cannot_reply_to_message":          {CodeRefused, "this message cannot be answered in a thread"},
	"cant_update_message":              {CodeUnauthorized, "the token may not change this message"},
	"channel_not_found":                {CodeNotFound, "the channel is not there, or the bot may not see it: invite it"},
	"edit_window_closed":               {CodeRefused, "the workspace lets nobody change a message of this age"},
	"ekm_access_denied":                {CodeUnauthorized, "the workspace's administrators have suspended posting"},
	"enterprise_is_restricted":         {CodeUnauthorized, "the token is of an enterprise, where a workspace's is needed"},
	"invalid_arg_name":                 {CodeRefused, "Slack did not understand the request"},
	"invalid_arguments":                {CodeRefused, "Slack did not understand the request"},
	"invalid_auth":                     {CodeUnauthorized, "Slack does not take the token"},
	"invalid_json":                     {CodeRefused, "Slack did not understand the request"},
	"invalid_metadata_format":          {CodeRefused, "Slack did not understand the request"},
	"invalid_metadata_schema":          {CodeRefused, "Slack did not understand the request"},
	"invalid_post_type":                {CodeRefused, "Slack did not understand the request"},
	"invalid_ts_latest":                {CodeRefused, "Slack did not understand the request"},
	"invalid_ts_oldest":                {CodeRefused, "Slack did not understand the request"},
	"is_archived":                      {CodeRefused, "the channel has been archived"},
	"is_inactive":                      {CodeRefused, "the channel is frozen, or its thread is"},
	"message_not_found":                {CodeNotFound, "the message is not there"},
	"messages_tab_disabled":            {CodeRefused, "the app takes no messages from people, and so sends them none"},
	"metadata_must_be_sent_from_app":   {CodeUnauthorized, "the token is not of an app, which alone may mark its messages"},
	"metadata_too_large":               {CodeTooLarge, "the mark is longer than Slack takes"},
	"method_not_supported_for_channel": {CodeRefused, "this kind of channel does not take it"},
	"missing_scope":                    {CodeUnauthorized, "the token lacks a scope"},
	"msg_too_long":                     {CodeTooLarge, "the message is longer than Slack takes"},
	"no_permission":                    {CodeUnauthorized, "the token may not do this"},
	"no_text":                          {CodeEmptyBody, "the message is empty"},
	"not_allowed_token_type":           {CodeUnauthorized, "Slack does not take a token of this kind"},
	"not_authed":                       {CodeUnauthorized, "Slack was given no token"},
	"not_in_channel":                   {CodeUnauthorized, "the bot is not in the channel: invite it"},
	"org_login_required":               {CodeUnauthorized, "the workspace is being moved to an enterprise"},
	"restricted_action":                {CodeUnauthorized, "the workspace does not let the bot post there"},
	"team_access_not_granted":          {CodeUnauthorized, "the token has no access to this workspace"},
	"team_not_found":                   {CodeUnauthorized, "the workspace of the token is not there"},
	"thread_not_found":                 {CodeNotFound, "the thread is not there"},
	"token_expired":                    {CodeUnauthorized, "the token has expired"},
	"token_revoked":                    {CodeUnauthorized, "the token was revoked"},
	"two_factor_setup_required":        {CodeUnauthorized, "the token's user must set up two factors first"},
}

// slackSays reads whether Slack did what it was asked for; nil where it did, or where the status or the answer's form tells.
func slackSays(res outbound.Response, at time.Time) *Error {
	var said struct {
		OK    *bool  `json:"ok"`
		Error string `json:"error"`
	}
	if res.Status/100 != 2 || res.Truncated {
		return nil
	}
	if json.Unmarshal(res.Body, &said) != nil || said.OK == nil {
		return &Error{Code: CodeBroken, Kind: Retry, Message: "the target's answer could not be read", Doubt: true, Status: res.Status}
	}
	if *said.OK {
		return nil
	}
	if known, ok := slackCodes[said.Error]; ok {
		return &Error{Kind: Refused, Code: known.code, Message: known.message, Status: res.Status}
	}
	switch said.Error {
	case "ratelimited", "rate_limited", "message_limit_exceeded":
		return limited(res.Status, RetryAfter(res.Header, at))
	case "fatal_error", "internal_error", "service_unavailable", "team_added_to_org", "request_timeout":
		// Of the first two the documentation says that a part of it may have been done all the same.
		return &Error{Kind: Retry, Code: CodeStatus5xx, Message: "Slack failed", Status: res.Status, RetryAfter: RetryAfter(res.Header, at), Doubt: true}
	}
	if strings.HasPrefix(said.Error, "restricted_action_") {
		return &Error{Kind: Refused, Code: CodeUnauthorized, Message: slackCodes["restricted_action"].message, Status: res.Status}
	}
	// The documented lists are not complete, as they say themselves: a word that nobody knows may mean anything.
	return &Error{Kind: Refused, Code: CodeRefused, Message: "Slack refused for a reason that is not known here", Status: res.Status, Doubt: true}
}

// slackChannelRE is the id of a channel (C, G) or of a conversation with one person (D). A name would be looked up by Slack, and may be another channel's
// tomorrow; the id of a person (U, W) opens a conversation.
var slackChannelRE = regexp.MustCompile(`^[CDG][A-Z0-9]{2,30}$`)

// slackTimeRE is the time of a message, which is its id within its channel.
var slackTimeRE = regexp.MustCompile(`^[0-9]{10}\.[0-9]{6}$`)
