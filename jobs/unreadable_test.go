package jobs_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// damage makes a credential one that does not open, as a process with a wrong master key sees it; mend gives it another secret.
func (h *house) damage(credential uuid.UUID) {
	h.t.Helper()
	_, err := h.base.Owner.Exec(h.t.Context(), `update sluice.credentials set sealed = set_byte(sealed, 12, 255 - get_byte(sealed, 12)) where id = $1`, credential)
	require.NoError(h.t, err)
}

func (h *house) mend(credential uuid.UUID, secret string) {
	h.t.Helper()
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.CredentialUpdate(h.t.Context(), credential, db.CredentialChange{Secret: tenants.NewSecret(secret)}, 0)
		return err
	})
}

// TestAnEffectWhoseCredentialDoesNotOpenWaits: nothing has left, so no attempt is spent and nothing is in doubt, however often it is looked at, and
// also where a doubt could not be resolved.
func TestAnEffectWhoseCredentialDoesNotOpenWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var credential db.Credential
	h.tx(func(tx db.TenantTx) (err error) {
		credential, err = tx.CredentialInsertAt(t.Context(), "api", "http", h.url, tenants.NewSecret("Authorization: Bearer a-token-0001"))
		return err
	})
	h.damage(credential.ID)
	run := h.event(h.automation(map[string]any{"action": map[string]any{
		"kind": "http", "url": h.url + "/hook", "body": "{{ output.reply }}", "credential_id": tenants.FormatID(tenants.CredentialPrefix, credential.ID),
	}}), `{"title":"a"}`)
	h.work()
	waits := h.until(run, func(r db.Run) bool { return r.Reason == "credential.unreadable" })
	require.Equal(t, db.RunActing, waits.Status)
	for range 3 {
		h.tx(func(tx db.TenantTx) error {
			ids, err := tx.ActionsHasten(t.Context(), run)
			require.NoError(t, err)
			return h.poster.PostActions(t.Context(), tx.Pgx(), []jobs.ActionArgs{{TenantID: h.tenant, ActionID: ids[0]}})
		})
		h.eventually("looked at again", func() bool {
			var due bool
			require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select until is not null and lease_until is null from sluice.actions where run_id = $1`, run).Scan(&due))
			return due
		})
	}
	h.tx(func(tx db.TenantTx) error {
		actions, err := tx.ActionList(t.Context(), run)
		require.Equal(t, db.ActionIntended, actions[0].State, actions[0].Detail)
		require.Zero(t, actions[0].Attempt)
		return err
	})
	require.Zero(t, h.acted())
	h.mend(credential.ID, "Authorization: Bearer a-token-0002")
	h.tx(func(tx db.TenantTx) error {
		ids, err := tx.ActionsHasten(t.Context(), run)
		require.NoError(t, err)
		return h.poster.PostActions(t.Context(), tx.Pgx(), []jobs.ActionArgs{{TenantID: h.tenant, ActionID: ids[0]}})
	})
	ended := h.ended(run)
	require.Equal(t, db.RunDone, ended.Status, ended.Reason+": "+ended.Detail)
	require.Equal(t, 1, h.acted())
}

// TestARunWhoseKeyDoesNotOpenWaits: the model's key and that of a fetch alike.
func TestARunWhoseKeyDoesNotOpenWaits(t *testing.T) {
	t.Parallel()
	for kind, changes := range map[string]func(id string, h *house) map[string]any{
		"scripted": func(id string, _ *house) map[string]any { return map[string]any{"credential_id": id} },
		"bearer": func(id string, h *house) map[string]any {
			return map[string]any{"fetch": map[string]any{"url": h.url + "/state", "credential_id": id}}
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			var credential db.Credential
			h.tx(func(tx db.TenantTx) (err error) {
				credential, err = tx.CredentialInsert(t.Context(), kind, kind, tenants.NewSecret("a-token-0001"))
				return err
			})
			h.damage(credential.ID)
			run := h.event(h.automation(changes(tenants.FormatID(tenants.CredentialPrefix, credential.ID), h)), `{"title":"a"}`)
			h.work()
			waits := h.until(run, func(r db.Run) bool { return r.Reason == "credential.unreadable" })
			require.Equal(t, db.RunWaiting, waits.Status)
			require.Zero(t, waits.Attempt, "to wait is not to fail")
			require.Empty(t, h.calls(run))
			require.NotContains(t, fmt.Sprint(waits.Detail), "a-token")
		})
	}
}
