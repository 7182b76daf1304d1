package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
)

// Creating is the Idempotency-Key of a POST that makes something.
type Creating struct {
	IdempotencyKey string `header:"Idempotency-Key" doc:"any text of your own: the same request with the same key is done once, and answered alike" minLength:"1" maxLength:"255" pattern:"^[\\x20-\\x7e]+$" patternDescription:"printable ASCII"`

	// place is the method and the path: the same key for another operation is another request.
	place string
}

// Resolve notes what is asked for.
func (c *Creating) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	c.place = ctx.Method() + " " + u.Path
	return nil
}

// made answers what was made.
type made[T versioned] struct {
	ETag     string `header:"ETag"`
	Replayed string `header:"Idempotency-Replayed" doc:"true if this is the answer to an earlier request with the same Idempotency-Key"`
	Body     T
}

// hash tells one request from another. The body counts as it was understood, not as it was spelled.
func (c *Creating) hash(body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("hash a request: %w", err)
	}
	sum := sha256.Sum256([]byte(c.place + "\n" + string(text)))
	return sum[:], nil
}

// once runs fn once for the request's Idempotency-Key, in the transaction of whoever calls it.
func once[T versioned](c *Creating, body any, fn func() (T, error), keep func(hash []byte, run func() ([]byte, error)) ([]byte, error)) (*made[T], error) {
	out := &made[T]{}
	if c.IdempotencyKey == "" {
		v, err := fn()
		out.Body, out.ETag = v, etag(v)
		return out, err
	}
	hash, err := c.hash(body)
	if err != nil {
		return nil, err
	}
	ran := false
	kept, err := keep(hash, func() ([]byte, error) {
		ran = true
		v, err := fn()
		if err != nil {
			return nil, err
		}
		return json.Marshal(v)
	})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(kept, &out.Body); err != nil {
		return nil, fmt.Errorf("read a kept answer: %w", err)
	}
	if !ran {
		out.Replayed = "true"
	}
	out.ETag = etag(out.Body)
	return out, nil
}

// create makes something of a tenant's, once for an Idempotency-Key. fn checks and makes; what it refuses is not remembered.
func create[T versioned](ctx context.Context, a *API, by Caller, c Creating, body any, fn func(db.TenantTx) (T, error)) (*made[T], error) {
	var out *made[T]
	err := a.deps.DB.Tenant(ctx, by.TenantID, func(tx db.TenantTx) (err error) {
		out, err = once(&c, body, func() (T, error) { return fn(tx) }, func(hash []byte, run func() ([]byte, error)) ([]byte, error) {
			return tx.Once(ctx, c.IdempotencyKey, hash, run)
		})
		return err
	})
	return out, err
}

// createAsOperator is create for what belongs to a tenant that is only being made; fn answers its id, too.
func createAsOperator[T versioned](ctx context.Context, a *API, c Creating, body any, fn func(db.SystemTx) (uuid.UUID, T, error)) (*made[T], error) {
	var out *made[T]
	err := a.deps.DB.System(ctx, func(tx db.SystemTx) (err error) {
		var id uuid.UUID
		out, err = once(&c, body, func() (v T, err error) { id, v, err = fn(tx); return v, err },
			func(hash []byte, run func() ([]byte, error)) ([]byte, error) {
				return tx.Once(ctx, c.IdempotencyKey, hash, func() (uuid.UUID, []byte, error) {
					answer, err := run()
					return id, answer, err
				})
			})
		return err
	})
	return out, err
}
