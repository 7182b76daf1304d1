package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"sluice/api/source"
)

// Source is a kind of system that sends webhooks, and what a person needs to connect it.
type Source struct {
	Name           string          `json:"name" doc:"what an endpoint's source says" example:"github"`
	Title          string          `json:"title"`
	Docs           string          `json:"docs" doc:"the vendor's page on its webhooks"`
	Signs          string          `json:"signs" doc:"what is signed, and how"`
	Setup          string          `json:"setup" doc:"what to paste where; {url} and {secret} are the endpoint's"`
	SecretFrom     string          `json:"secret_from" enum:"source,sluice,either,none" doc:"who makes the signing secret"`
	AnswerWithinMS int64           `json:"answer_within_ms" doc:"how long the source waits for an answer; 0 if it does not say"`
	Retries        string          `json:"retries" doc:"its habit of sending again"`
	BodyBytesMax   int64           `json:"body_bytes_max" doc:"a larger delivery is refused"`
	Samples        []string        `json:"samples" doc:"the types of event that a test can send"`
	Order          string          `json:"order" doc:"what its events can be ordered by"`
	Notes          []string        `json:"notes" doc:"what is weak or not known for certain, and what was chosen therefore"`
	Settings       []SourceSetting `json:"settings" doc:"what an endpoint's settings can say"`
	AnswerCodes    SourceCodes     `json:"answer_codes" doc:"with which status a delivery is answered"`
}

// SourceSetting is one field of an endpoint's settings.
type SourceSetting struct {
	Name string `json:"name"`
	Help string `json:"help"`
}

// SourceCodes are the statuses with which deliveries of a source are answered: the ones that harm least there.
type SourceCodes struct {
	Accepted  int `json:"accepted" doc:"stored, or seen before"`
	Refused   int `json:"refused" doc:"the signature does not hold"`
	Malformed int `json:"malformed" doc:"the signature holds, and the payload cannot be read"`
	TooLarge  int `json:"too_large"`
	Disabled  int `json:"disabled" doc:"the endpoint is switched off"`
	Busy      int `json:"busy" doc:"not stored, to be sent again"`
}

func toSource(s source.Source) Source {
	out := Source{
		Name: s.Name, Title: s.Title, Docs: s.Docs, Signs: s.Signs, Setup: s.Setup, SecretFrom: string(s.SecretFrom),
		AnswerWithinMS: s.AnswerWithin.Milliseconds(), Retries: s.Retries, BodyBytesMax: s.BodyMax, Samples: []string{},
		Order: s.Order, Notes: append([]string{}, s.Notes...),
		AnswerCodes: SourceCodes{
			Accepted: http.StatusOK, Refused: s.Codes.Refused, Malformed: s.Codes.Malformed, TooLarge: s.Codes.TooLarge,
			Disabled: s.Codes.Disabled, Busy: s.Codes.Busy,
		},
	}
	if s.Accepted != nil {
		out.AnswerCodes.Accepted = s.Accepted.Status
	}
	for _, setting := range append(slices.Clone(orderSettings), s.Settings...) {
		out.Settings = append(out.Settings, SourceSetting(setting))
	}
	for _, sample := range s.Samples {
		out.Samples = append(out.Samples, sample.Type)
	}
	return out
}

type sourceListInput struct{}

type sourceListOutput struct {
	Body struct {
		Data []Source `json:"data"`
	}
}

func (a *API) registerSources() {
	register(a, anyKey, huma.Operation{
		OperationID: "list-sources", Method: http.MethodGet, Path: "/v1/sources", Tags: []string{"Sources"},
		Summary: "List the systems that can send events", Description: "How each signs, what to paste where, and which sample events it has.",
	}, a.sourceList)
}

func (a *API) sourceList(context.Context, *sourceListInput) (*sourceListOutput, error) {
	out := &sourceListOutput{}
	for _, s := range source.All() {
		out.Body.Data = append(out.Body.Data, toSource(s))
	}
	return out, nil
}
