package api

import (
	"encoding/base64"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
)

// pageRowsMax bounds a page of any list; the tag of Page.Limit says the same.
const pageRowsMax = 200

// Page is which page of a list is asked for. A list is newest first, and its cursor is where the page before ended.
type Page struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"how many, at most"`
	Cursor string `query:"cursor" maxLength:"512" doc:"next_cursor of the page before"`
}

// List is one page.
type List[T any] struct {
	Data       []T    `json:"data"`
	NextCursor string `json:"next_cursor,omitempty" doc:"the cursor of the next page; absent on the last one"`
}

// listed answers a page.
type listed[T any] struct{ Body List[T] }

var errCursor = "expected the next_cursor of the page before"

// text is what a cursor holds; "" at the beginning.
func (p *Page) text() (string, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(p.Cursor)
	if err != nil {
		return "", invalidAt("query.cursor", errCursor)
	}
	return string(raw), nil
}

// rows is the page for the database, one row longer than asked, to see whether there is another page.
func (p *Page) rows() (db.Page, error) {
	text, err := p.text()
	if err != nil {
		return db.Page{}, err
	}
	page := db.Page{Limit: p.Limit + 1}
	if text != "" {
		if page.Before, err = uuid.FromBytes([]byte(text)); err != nil {
			return db.Page{}, invalidAt("query.cursor", errCursor)
		}
	}
	return page, nil
}

// Resolve refuses a cursor that is none of ours together with every other bad field.
func (p *Page) Resolve(huma.Context) []error {
	if _, err := p.text(); err != nil {
		return []error{&huma.ErrorDetail{Location: "query.cursor", Message: errCursor}}
	}
	return nil
}

func cursorOf(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// pageOf makes an answer of up to limit+1 rows; at is the text of the cursor that ends at a row.
func pageOf[R, T any](rows []R, limit int, to func(R) T, at func(R) string) *listed[T] {
	out := &listed[T]{Body: List[T]{Data: []T{}}}
	if len(rows) > limit {
		rows = rows[:limit]
		out.Body.NextCursor = cursorOf(at(rows[limit-1]))
	}
	for _, r := range rows {
		out.Body.Data = append(out.Body.Data, to(r))
	}
	return out
}

// byID is the cursor of rows that are ordered by their ids.
func byID(id uuid.UUID) string { return string(id[:]) }
