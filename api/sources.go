package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"sluice/api/source"
)

// Source is a kind of system that sends webhooks, and what a person needs to connect it.
type Source struct {
	Name           string   `json:"name" doc:"what an endpoint's source says" example:"github"`
	Title          string   `json:"title"`
	Docs           string   `json:"docs" doc:"the vendor's page on its webhooks"`
	Signs          string   `json:"signs" doc:"what is signed, and how"`
	Setup          string   `json:"setup" doc:"what to paste where; {url} and {secret} are the endpoint's"`
	SecretFrom     string   `json:"secret_from" enum:"source,sluice,either" doc:"who makes the signing secret"`
	AnswerWithinMS int64    `json:"answer_within_ms" doc:"how long the source waits for an answer; 0 if it does not say"`
	Retries        string   `json:"retries" doc:"its habit of sending again"`
	BodyBytesMax   int64    `json:"body_bytes_max" doc:"a larger delivery is refused"`
	Samples        []string `json:"samples" doc:"the types of event that a test can send"`
	Settings       string   `json:"settings" doc:"what an endpoint's settings can say"`
}

func toSource(s source.Source) Source {
	out := Source{
		Name: s.Name, Title: s.Title, Docs: s.Docs, Signs: s.Signs, Setup: s.Setup, SecretFrom: string(s.SecretFrom),
		AnswerWithinMS: s.AnswerWithin.Milliseconds(), Retries: s.Retries, BodyBytesMax: s.BodyMax, Samples: []string{},
		Settings: "order: none (every event on its own).",
	}
	for _, sample := range s.Samples {
		out.Samples = append(out.Samples, sample.Type)
	}
	if s.Name == "hmac" {
		out.Settings += " " + hmacSettingsDoc
	}
	return out
}

// hmacSettingsDoc says what api/source reads of the settings of the generic HMAC source.
const hmacSettingsDoc = "signature_header (required): the header with the signature; prefix: what stands before it; algorithm: sha1, sha256 or sha512; " +
	"encoding: hex, base64 or base64url; secret_encoding: raw, hex, base64 or whsec; timestamp_header and timestamp_unit (s or ms), with {timestamp} in " +
	"signed_string; signed_string: of {body}, {timestamp}, {id}, {method}, {url} and text; id_header: the header with the event's id; " +
	"id, type, time, entity: expressions over the payload and the headers that name the event."

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
