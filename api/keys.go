package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/tenants"
)

// Key is an API key of a tenant, without its secret.
type Key struct {
	ID         string     `json:"id" example:"key_01980000000070008000000000000000"`
	Name       string     `json:"name"`
	Role       string     `json:"role" enum:"viewer,editor,admin"`
	Last4      string     `json:"last4" doc:"the last characters of the secret"`
	CreatedAt  time.Time  `json:"created_at"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"to the minute; null if never"`
}

// version is always 1: a key cannot be changed.
func (Key) version() int { return 1 }

// NewKey is a key that was just made.
type NewKey struct {
	Key

	Secret string `json:"secret" doc:"the key itself: shown here, and never again"`
}

func toKey(k db.Key) Key {
	return Key{
		ID: tenants.FormatID(tenants.KeyPrefix, k.ID), Name: k.Name, Role: string(k.Role), Last4: k.Last4, CreatedAt: k.CreatedAt.UTC(),
		LastUsedAt: utc(k.LastUsedAt),
	}
}

// utc is a time that may be absent, in UTC.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

type keyCreateInput struct {
	Caller
	Creating

	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"100" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		Role string `json:"role" enum:"viewer,editor,admin" doc:"a viewer reads; an editor also changes endpoints and automations; an admin also keys and credentials"`
	}
}

type keyListInput struct {
	Caller
	Page
}

type keyDeleteInput struct {
	Caller

	ID string `path:"id" doc:"key_..."`
}

func (a *API) registerKeys() {
	register(a, adminRole, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: "/v1/keys", Tags: []string{"Keys"}, DefaultStatus: http.StatusCreated,
		Summary: "Make a key", Description: "The secret is shown here and never again.",
	}, a.keyCreate)
	register(a, adminRole, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: "/v1/keys", Tags: []string{"Keys"}, Summary: "List the keys that are not revoked",
	}, a.keyList)
	register(a, adminRole, huma.Operation{
		OperationID: "revoke-key", Method: http.MethodDelete, Path: "/v1/keys/{id}", Tags: []string{"Keys"},
		Summary: "Revoke a key", Description: "It is refused from now on. The last key of the role admin cannot be revoked: 409 key.last_admin.",
	}, a.keyRevoke)
}

func (a *API) keyCreate(ctx context.Context, in *keyCreateInput) (*made[NewKey], error) {
	return create(ctx, a, in.Caller, in.Creating, in.Body, func(tx db.TenantTx) (NewKey, error) {
		text, err := tenants.NewKey(false)
		if err != nil {
			return NewKey{}, err
		}
		k, err := tx.KeyInsert(ctx, in.Body.Name, tenants.Role(in.Body.Role), text)
		return NewKey{Key: toKey(k), Secret: text.Reveal()}, err
	})
}

func (a *API) keyList(ctx context.Context, in *keyListInput) (*listed[Key], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Key
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.KeyList(ctx, page)
		return err
	})
	return pageOf(rows, in.Limit, toKey, func(k db.Key) string { return byID(k.ID) }), err
}

func (a *API) keyRevoke(ctx context.Context, in *keyDeleteInput) (*struct{}, error) {
	id, err := pathID(tenants.KeyPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error { return tx.KeyRevoke(ctx, id) })
	if errors.Is(err, db.ErrConflict) {
		return nil, conflict("key.last_admin", "This is the last key of the role admin, and nobody could make another. Make one first.")
	}
	return nil, err
}
