package action

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// linear is the API of Linear, GraphQL at one address (linear.app/developers/graphql); its schema is public
// (github.com/linear/linear, packages/sdk/src/schema.graphql).
type linear struct{ door *outbound.Door }

const (
	linearBase = "https://api.linear.app"
	// linearKeyPrefix begins personal keys, which stand in the header bare, where a token of OAuth is a bearer's (linear.app/developers/graphql).
	linearKeyPrefix = "lin_api_"
	linearViewer    = `query Viewer { viewer { id name } organization { urlKey } }`
)

// linearAccount is a key of Linear, or a token of OAuth.
func linearAccount(door *outbound.Door) Account {
	return Account{
		Kind: "linear", Base: linearBase, BaseDoc: "left out: Linear has one address",
		SecretDoc: "a personal API key, lin_api_..., or an access token of OAuth, that may write comments", Check: checkToken,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			var who struct {
				Viewer       struct{ ID string } `json:"viewer"`
				Organization struct {
					URLKey string `json:"urlKey"`
				} `json:"organization"`
			}
			if _, err := (linear{door: door}).ask(ctx, Send{Access: a, At: at}, linearQuestion{Query: linearViewer}, &who); err != nil {
				return Identity{}, err
			}
			return Identity{Actor: who.Viewer.ID, Note: "of the workspace " + strconv.Quote(who.Organization.URLKey)}, nil
		},
	}
}

// A linearQuestion is a request of GraphQL.
type linearQuestion struct {
	Query     string         `json:"query"`
	Variables map[string]any `json:"variables,omitempty"`
}

// ask puts a question and reads its data. An error of GraphQL is an error, whatever the status and whatever data come with it.
func (l linear) ask(ctx context.Context, s Send, in linearQuestion, data any) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	header := bearer(s.Secret)
	if strings.HasPrefix(s.Secret, linearKeyPrefix) {
		header.Set("Authorization", s.Secret)
	}
	return ask(ctx, l.door, question{
		method: http.MethodPost, base: s.baseOf(linearBase), path: "/graphql", header: header, in: in, at: s.At,
		out:   &struct{ Data any }{data},
		judge: func(res outbound.Response) *Error { return linearJudge(res, s.At) },
	})
}

// linearTaken is the cause of an error that says that what was to be made has an id that is in use.
type linearTaken struct{}

func (linearTaken) Error() string { return "the id is taken" }

// linearJudge reads the first error of an answer, by the types that Linear's own SDK knows (github.com/linear/linear, packages/sdk/src/error.ts). A limit
// is a 400 with the code RATELIMITED (linear.app/developers/rate-limiting). That a second comment with one id is refused as "conflict on insert of
// Comment", "Entity Comment with id ... already exists.", is not documented, but told alike by several who have tried it; see linearComment.Do for what
// happens where it is told otherwise.
func linearJudge(res outbound.Response, at time.Time) *Error {
	first, failed := linearFirst(res)
	if !failed {
		return nil // its status and its data say what there is to say
	}
	e := &Error{Code: CodeRefused, Kind: Refused, Message: "the target refused the request", Status: res.Status}
	switch kind := strings.ToLower(first.Extensions.Type); {
	case first.Extensions.Code == "RATELIMITED", kind == "ratelimited":
		return limited(res.Status, linearWait(res, at))
	case first.Extensions.Code == "AUTHENTICATION_ERROR", kind == "authentication error", kind == "forbidden", kind == "feature not accessible":
		e.Code, e.Message = CodeUnauthorized, "the target says that the credential is wrong, has ended, or may not do this"
	case kind == "invalid input", kind == "user error", kind == "graphql error", kind == "usage limit exceeded":
		if strings.HasPrefix(first.Message, "conflict on insert") || strings.HasSuffix(first.Extensions.Presentable, "already exists.") {
			e.cause = linearTaken{}
		}
	case res.Status/100 == 4:
		return nil // what the status says is all that is known
	default:
		// A fault inside, or one that is not known: it may have acted first.
		e.Code, e.Kind, e.Message, e.Doubt = CodeStatus5xx, Retry, "the target says that it failed", true
		e.RetryAfter = RetryAfter(res.Header, at)
	}
	return e
}

// A linearFault is an error of GraphQL as Linear writes it.
type linearFault struct {
	Message    string `json:"message"`
	Extensions struct {
		Type        string `json:"type"`
		Code        string `json:"code"`
		Presentable string `json:"userPresentableMessage"`
	} `json:"extensions"`
}

// linearFirst is the first error of an answer, false where it tells of none. What comes with a 5xx may be of anything that stands before Linear.
func linearFirst(res outbound.Response) (first linearFault, failed bool) {
	var answer struct {
		Errors []linearFault `json:"errors"`
	}
	if res.Status >= http.StatusInternalServerError || res.Truncated || json.Unmarshal(res.Body, &answer) != nil || len(answer.Errors) == 0 {
		return linearFault{}, false
	}
	return answer.Errors[0], true
}

// linearWait is how long a limit lasts that is used up: of requests, of one kind of request, or of what they cost, each with a time in unix
// milliseconds (linear.app/developers/rate-limiting).
func linearWait(res outbound.Response, at time.Time) time.Duration {
	wait := RetryAfter(res.Header, at)
	for _, limit := range []string{"Requests", "Endpoint-Requests", "Complexity"} {
		reset := res.Header.Get("X-RateLimit-" + limit + "-Reset")
		if res.Header.Get("X-RateLimit-"+limit+"-Remaining") != "0" || len(reset) <= len("000") {
			continue
		}
		wait = max(wait, untilUnix(reset[:len(reset)-len("000")], res.Header, at))
	}
	return wait
}

// The names of an issue: its id, or its team's key and a number.
var (
	linearIDRE    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	linearIssueRE = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,19}-[1-9][0-9]{0,9}$`)
)

// badLinearIssue says what is wrong with the name of an issue, "" for nothing.
func badLinearIssue(name string) string {
	if !linearIDRE.MatchString(name) && !linearIssueRE.MatchString(name) {
		return "expected the id of an issue, a UUID, or its name, such as SHOP-12"
	}
	return ""
}
