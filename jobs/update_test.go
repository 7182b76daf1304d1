package jobs_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs/action/actiontest"
	"sluice/tenants"
)

// TestEffectsThatUpdateOneCommentGoOneAfterAnother: many runs at once about one issue leave one comment there, that of the last.
func TestEffectsThatUpdateOneCommentGoOneAfterAnother(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	to := vendorTarget(t, "github_comment", actiontest.Cases["github_comment"])
	var credential db.Credential
	h.tx(func(tx db.TenantTx) (err error) {
		credential, err = tx.CredentialInsertAt(t.Context(), "github", to.account, to.base, tenants.NewSecret(to.secret))
		return err
	})
	sample := strings.Replace(to.sample, "{", `{"update": true, `, 1)
	sample = strings.NewReplacer("crd_1", tenants.FormatID(tenants.CredentialPrefix, credential.ID), "BODY", "{{ payload.title }}").Replace(sample)
	automation := h.automation(map[string]any{"action": json.RawMessage(sample)})
	var runs []uuid.UUID
	for _, title := range []string{"first", "second", "third", "fourth"} {
		runs = append(runs, h.event(automation, `{"title":"`+title+`"}`))
	}
	h.work()
	h.work()
	ids := map[string]bool{}
	for _, run := range runs {
		require.Equal(t, db.RunDone, h.ended(run).Status)
		h.tx(func(tx db.TenantTx) error {
			actions, err := tx.ActionList(t.Context(), run)
			ids[string(actions[0].Receipt)] = true
			return err
		})
	}
	require.Equal(t, 1, to.made(), "one comment")
	require.LessOrEqual(t, len(ids), 2, "every receipt names it: 201 as it was made, 200 as it was changed")
}
