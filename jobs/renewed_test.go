package jobs_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/scripted"
	"sluice/tenants"
)

// TestCredentialThatIsReplacedIsUsedAtOnce: a worker that still holds the old secret in memory asks again with the new one, and an effect dies of no secret
// but the newest.
func TestCredentialThatIsReplacedIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const first, second = "the-first-token", "the-second-token"
	github := scripted.NewGitHubIssues(first, time.Now)
	t.Cleanup(func() { _ = github.Close() })
	address, err := github.Listen("127.0.0.1:0")
	require.NoError(t, err)
	var credential db.Credential
	h.tx(func(tx db.TenantTx) (err error) {
		credential, err = tx.CredentialInsertAt(t.Context(), "github", "github", address, tenants.NewSecret(first))
		return err
	})
	automation := h.automation(map[string]any{"action": map[string]any{
		"kind": "github_comment", "credential_id": tenants.FormatID(tenants.CredentialPrefix, credential.ID), "repo": "acme/shop", "issue": "1", "body": "Hello",
	}})
	run := func() uuid.UUID { return h.event(automation, `{}`) }
	h.work()
	require.Equal(t, db.RunDone, h.ended(run()).Status, "the worker holds the secret now")

	github.Expect(second)
	refused := h.ended(run())
	require.Equal(t, db.RunDead, refused.Status)
	require.Equal(t, "action.unauthorized", refused.Reason)
	require.Len(t, github.Journal(), 2, "a secret that nobody has replaced is not tried twice")

	require.Equal(t, db.RunDead, h.ended(run()).Status, "the worker has just read it anew")
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.CredentialUpdate(t.Context(), credential.ID, db.CredentialChange{Secret: tenants.NewSecret(second)}, 0)
		return err
	})
	require.Equal(t, db.RunDone, h.ended(run()).Status)
	require.Len(t, github.Effects(), 2)
}
