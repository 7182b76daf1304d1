package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// docsPolicy lets the page use its own style, and nothing else: no script, no picture, no connection.
const docsPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// registerDocuments serves the contract as YAML, JSON and a page. All three are made once, here, of what is registered.
func (a *API) registerDocuments() {
	var err error
	if a.document, err = a.OpenAPI(); err != nil {
		panic(err)
	}
	if a.documentJSON, err = json.Marshal(a.huma.OpenAPI()); err != nil {
		panic(err)
	}
	if a.docs, err = docsPage(a.huma.OpenAPI()); err != nil {
		panic(err)
	}
	a.serveDocument("/openapi.yaml", "application/yaml", a.document)
	a.serveDocument("/openapi.json", "application/json", a.documentJSON)
	a.serveDocument("/docs", "text/html; charset=utf-8", a.docs)
}

func (a *API) serveDocument(path, contentType string, text []byte) {
	a.raw("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=300")
		w.Header().Set("Content-Security-Policy", docsPolicy)
		w.Header().Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(text) // to a connection that is gone there is nothing to say
	})
}

// docsOperation is an operation as the page shows it.
type docsOperation struct {
	ID, Method, Path, Tag, Summary, Description, Who, Status string
	Parameters                                               []*huma.Param
	Request, Response                                        *docsSchema
}

// docsSchema is a schema as the page shows it.
type docsSchema struct {
	Name   string
	Fields []docsField
}

type docsField struct {
	Name, Type, Link, Text string
	Required               bool
}

func docsPage(document *huma.OpenAPI) ([]byte, error) {
	var page struct {
		Title, Version, Text string
		Operations           []docsOperation
		Schemas              []docsSchema
	}
	page.Title, page.Version, page.Text = document.Info.Title, document.Info.Version, document.Info.Description
	for path, item := range document.Paths {
		for method, op := range map[string]*huma.Operation{
			http.MethodDelete: item.Delete, http.MethodGet: item.Get, http.MethodPatch: item.Patch, http.MethodPost: item.Post, http.MethodPut: item.Put,
		} {
			if op != nil {
				page.Operations = append(page.Operations, docsOperationOf(method, path, op))
			}
		}
	}
	slices.SortFunc(page.Operations, func(x, y docsOperation) int {
		return cmp.Or(strings.Compare(x.Tag, y.Tag), strings.Compare(x.Path, y.Path), strings.Compare(x.Method, y.Method))
	})
	for name, schema := range document.Components.Schemas.Map() {
		page.Schemas = append(page.Schemas, *docsSchemaOf(name, schema))
	}
	slices.SortFunc(page.Schemas, func(x, y docsSchema) int { return strings.Compare(x.Name, y.Name) })
	var out bytes.Buffer
	err := docsTemplate.Execute(&out, page)
	return out.Bytes(), err
}

func docsOperationOf(method, path string, op *huma.Operation) docsOperation {
	who, _ := op.Extensions["x-sluice-role"].(string)
	d := docsOperation{
		ID: op.OperationID, Method: method, Path: path, Tag: strings.Join(op.Tags, ", "), Summary: op.Summary, Description: op.Description, Who: who,
		Parameters: op.Parameters,
	}
	if op.RequestBody != nil {
		if media := op.RequestBody.Content["application/json"]; media != nil {
			d.Request = docsBodyOf(media.Schema)
		}
	}
	for status, response := range op.Responses {
		if strings.HasPrefix(status, "2") {
			d.Status = status
			if media := response.Content["application/json"]; media != nil {
				d.Response = docsBodyOf(media.Schema)
			}
		}
	}
	return d
}

// docsBodyOf is a body: a link to a schema by its name, or its fields.
func docsBodyOf(s *huma.Schema) *docsSchema {
	if s == nil {
		return nil
	}
	if s.Ref != "" {
		return &docsSchema{Name: refName(s.Ref)}
	}
	return docsSchemaOf("", s)
}

func docsSchemaOf(name string, s *huma.Schema) *docsSchema {
	d := &docsSchema{Name: name}
	for field, of := range s.Properties {
		kind, link := docsType(of)
		d.Fields = append(d.Fields, docsField{
			Name: field, Type: kind, Link: link, Text: of.Description, Required: slices.Contains(s.Required, field),
		})
	}
	slices.SortFunc(d.Fields, func(x, y docsField) int { return strings.Compare(x.Name, y.Name) })
	return d
}

// docsType says what a field holds, and which schema says more.
func docsType(s *huma.Schema) (kind, link string) {
	switch {
	case s.Ref != "":
		return refName(s.Ref), refName(s.Ref)
	case s.Type == huma.TypeArray && s.Items != nil:
		kind, link = docsType(s.Items)
		return "list of " + kind, link
	case len(s.Enum) > 0:
		var words []string
		for _, e := range s.Enum {
			if word, ok := e.(string); ok {
				words = append(words, word)
			}
		}
		return strings.Join(words, " | "), ""
	case s.Type == "":
		return "any JSON", ""
	case s.Format != "":
		return s.Type + ", " + s.Format, ""
	default:
		return s.Type, ""
	}
}

func refName(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

var docsTemplate = template.Must(template.New("docs").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{{.Title}} API</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,.path{font-family:ui-monospace,monospace;font-size:.9em}
details{border:1px solid #8886;border-radius:.4rem;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}
b.m{display:inline-block;min-width:4.5rem;font-family:ui-monospace,monospace}
.who{float:right;opacity:.7;font-size:.85em}
table{border-collapse:collapse;width:100%;margin:.4rem 0}
td{border-top:1px solid #8884;padding:.2rem .5rem .2rem 0;vertical-align:top}
td:first-child{white-space:nowrap}
h2{margin-top:2rem}
</style></head><body>
<h1>{{.Title}} <small>{{.Version}}</small></h1>
<p>{{.Text}}</p>
<p>Show a key as <code>Authorization: Bearer slc_...</code>. The same as <a href="/openapi.yaml">YAML</a> and <a href="/openapi.json">JSON</a> (OpenAPI 3.1).
A source posts its events to <code>POST /in/{token}</code>, the URL of an endpoint.</p>
{{- define "fields"}}{{if .Name}}<p><a href="#schema-{{.Name}}"><code>{{.Name}}</code></a></p>{{end}}{{template "rows" .Fields}}{{end}}
{{- define "rows"}}{{if .}}<table>{{range .}}<tr><td><code>{{.Name}}</code>{{if .Required}}*{{end}}</td><td>{{if .Link}}<a href="#schema-{{.Link}}">{{.Type}}</a>{{else}}{{.Type}}{{end}}</td><td>{{.Text}}</td></tr>{{end}}</table>{{end}}{{end}}
{{- $tag := ""}}
{{range .Operations}}{{if ne .Tag $tag}}{{$tag = .Tag}}<h2>{{.Tag}}</h2>{{end}}
<details id="{{.ID}}"><summary><b class="m">{{.Method}}</b> <span class="path">{{.Path}}</span> {{.Summary}} <span class="who">{{.Who}}</span></summary>
{{if .Description}}<p>{{.Description}}</p>{{end}}
{{if .Parameters}}<table>{{range .Parameters}}<tr><td><code>{{.Name}}</code>{{if .Required}}*{{end}}</td><td>{{.In}}</td><td>{{.Description}}</td></tr>{{end}}</table>{{end}}
{{with .Request}}<h4>Body</h4>{{template "fields" .}}{{end}}
<h4>Answer {{.Status}}</h4>{{with .Response}}{{template "fields" .}}{{end}}
</details>{{end}}
<h2>Schemas</h2>
{{range .Schemas}}<details id="schema-{{.Name}}"><summary><code>{{.Name}}</code></summary>{{template "rows" .Fields}}</details>{{end}}
</body></html>
`))
