package jobs_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action/actiontest"
	"sluice/scripted"
	"sluice/tenants"
)

// TestDoubtNeverEndsAsFailed: an effect that may have been made, and that nobody can look for any more since its credential is gone, keeps its name: a
// failed one would leave it free, and a replay would make the effect twice.
func TestDoubtNeverEndsAsFailed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	to := vendorTarget(t, "github_comment", actiontest.Cases["github_comment"])
	var credential db.Credential
	h.tx(func(tx db.TenantTx) (err error) {
		credential, err = tx.CredentialInsertAt(t.Context(), "github", to.account, to.base, tenants.NewSecret(to.secret))
		return err
	})
	sample := strings.NewReplacer("crd_1", tenants.FormatID(tenants.CredentialPrefix, credential.ID), "BODY", "{{ output.reply }}").Replace(to.sample)
	to.script(scripted.VendorStep{Status: 503, RetryAfter: "600", Act: true})
	run := h.event(h.automation(map[string]any{"action": json.RawMessage(sample)}), `{"title":"a"}`)
	first := h.work()
	h.until(run, func(r db.Run) bool { return r.Reason == "action.status_5xx" })
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	require.NoError(t, first.Stop(ctx))

	_, err := h.base.Owner.Exec(t.Context(), `delete from sluice.credentials where id = $1`, credential.ID)
	require.NoError(t, err)
	h.tx(func(tx db.TenantTx) error {
		ids, err := tx.ActionsHasten(t.Context(), run)
		require.NoError(t, err)
		return h.poster.PostActions(t.Context(), tx.Pgx(), []jobs.ActionArgs{{TenantID: h.tenant, ActionID: ids[0]}})
	})
	h.work()
	require.Equal(t, db.RunDead, h.ended(run).Status)
	h.tx(func(tx db.TenantTx) error {
		actions, err := tx.ActionList(t.Context(), run)
		require.Equal(t, db.ActionUnknown, actions[0].State, actions[0].Detail)
		return err
	})
	require.Equal(t, 1, to.made())
}
