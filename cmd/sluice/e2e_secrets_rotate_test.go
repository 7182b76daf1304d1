package main_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

// revokeBound is how soon what was revoked is refused by every process.
const revokeBound = time.Second

// TestSecretsChangeUnderTwoProcesses replaces an endpoint's secret and a key while deliveries come in at two API processes: within the overlap both
// secrets are taken everywhere, after its end and after a revocation nobody takes the old one, within a bounded time.
func TestSecretsChangeUnderTwoProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	others := []*world{w, w.second()}
	for _, one := range others {
		one.start("serve", servingUp)
	}
	s := w.shop()
	n := 0
	taken := func(one *world, s shop) bool {
		n++
		status, _, _ := one.deliver(one.at(s), fmt.Sprintf("rotate-%d", n))
		require.Contains(t, []int{http.StatusOK, http.StatusUnauthorized}, status)
		return status == http.StatusOK
	}
	var endpoints struct {
		Data []struct{ ID string }
	}
	w.call(s.key, http.MethodGet, "/v1/endpoints", nil, http.StatusOK, &endpoints)
	renewed := s
	for _, one := range others {
		require.True(t, taken(one, s)) // it is held in memory by each
	}
	renewed.secret = "the-next-secret-for-tests"
	const overlap = 3 * time.Second
	w.call(s.key, http.MethodPost, "/v1/endpoints/"+endpoints.Data[0].ID+"/secrets", map[string]any{"secret": renewed.secret, "overlap": overlap.String()}, http.StatusCreated, nil)
	began := time.Now()
	for _, one := range others {
		require.Eventually(t, func() bool { return taken(one, renewed) }, revokeBound, 5*time.Millisecond, "the new one is taken by every process")
		require.True(t, taken(one, s) || time.Since(began) > overlap, "the old one, in the overlap")
	}
	for _, one := range others {
		require.Eventually(t, func() bool { return !taken(one, s) }, overlap+revokeBound, 20*time.Millisecond, "the old one ends everywhere")
		require.True(t, taken(one, renewed))
	}
	require.Less(t, time.Since(began), overlap+2*revokeBound)

	var key struct{ ID, Secret string }
	w.call(s.key, http.MethodPost, "/v1/keys", map[string]any{"name": "second", "role": "viewer"}, http.StatusCreated, &key)
	for _, one := range others {
		require.Equal(t, http.StatusOK, one.ask(key.Secret, http.MethodGet, "/v1/tenant", "", ""))
	}
	w.call(s.key, http.MethodDelete, "/v1/keys/"+key.ID, nil, http.StatusNoContent, nil)
	for _, one := range others {
		require.Equal(t, http.StatusUnauthorized, one.ask(key.Secret, http.MethodGet, "/v1/tenant", "", ""), "a key is held nowhere: the next request is refused")
	}
}

// TestTheMasterKeyChangesUnderLoad rolls processes onto a new master key while events come in, with the command killed on its way again and again: no
// delivery and no effect fails, and in the end the new key alone opens everything.
func TestTheMasterKeyChangesUnderLoad(t *testing.T) {
	t.Parallel()
	if os.Getenv(proveSecrets) == "" {
		t.Skip("make prove/secrets")
	}
	const kills, many = 3, 300
	w := newWorld(t)
	older, newer := fmt.Sprintf("%x", w.base.MasterKey), strings.Repeat("5a", db.MasterKeyLen)
	with := func(primary, others string) []string {
		return append(slices.Clone(w.env), "SLUICE_MASTER_KEY="+primary, "SLUICE_MASTER_KEYS_OLD="+others)
	}
	for range many {
		require.NoError(t, w.base.DB.System(t.Context(), func(tx db.SystemTx) error {
			_, err := tx.Once(t.Context(), uuid.NewString(), []byte("x"), func() (uuid.UUID, []byte, error) {
				made, err := tx.TenantInsert(t.Context(), "many", "UTC")
				return made.TenantID, []byte("a"), err
			})
			return err
		}))
	}
	// One process of each order: the old key first, which is how they roll, and the new one first.
	second := w.second()
	w.env = with(older, newer)
	second.env = append(slices.Clone(second.env), "SLUICE_MASTER_KEY="+newer, "SLUICE_MASTER_KEYS_OLD="+older)
	w.start("serve", servingUp)
	second.start("serve", servingUp)
	w.start("work", workingUp)
	s, events := w.shop(), 0
	deliver := func() {
		for _, one := range []*world{w, second} {
			events++
			status, _, _ := one.deliver(one.at(s), fmt.Sprintf("key-%d", events))
			require.Equal(t, http.StatusOK, status)
		}
	}
	path, err := os.Executable()
	require.NoError(t, err)
	command := func(env []string, args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), path, append([]string{"master-key"}, args...)...)
		c.Env = env
		return c
	}
	deliver()
	both := with(newer, older)
	for i := range kills {
		c := command(both, "rotate", "--data-keys")
		require.NoError(t, c.Start())
		require.Eventually(t, func() bool {
			var moved int
			require.NoError(t, w.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.tenant_keysets where master_mark is distinct from $1`, markOf(t, w.base.MasterKey)).Scan(&moved))
			return moved > 0
		}, e2eWait, time.Millisecond)
		deliver()
		<-time.After(time.Duration(i*100) * time.Millisecond) // somewhere in the middle
		require.NoError(t, c.Process.Kill())
		_ = c.Wait()
		deliver()
	}
	out, err := command(both, "check").CombinedOutput()
	require.Contains(t, string(out), "unreadable: 0", "%v: after each kill everything opens", err)
	out, err = command(both, "rotate", "--data-keys", "--tenant", tenants.FormatID(tenants.TenantPrefix, s.tenant)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "left under an old key: 0, unreadable: 0")
	deliver()
	w.until(events, `select count(*) from sluice.runs where status = 'done'`)
	out, err = command(both, "rotate", "--data-keys").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = command(with(newer, ""), "check").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "left under an old key: 0, under a data key that is being replaced: 0, unreadable: 0")
	out, err = command(with(older, ""), "check").CombinedOutput()
	require.Error(t, err, "the old key is dead: %s", out)
	require.NotContains(t, string(out), "the master key, ", "it opens nothing")
}

func markOf(t *testing.T, key []byte) string {
	t.Helper()
	sealer, err := db.NewSealer(key)
	require.NoError(t, err)
	return sealer.Mark()
}
