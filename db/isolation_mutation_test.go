package db_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

// proveVariable asks for the whole proof, which is too heavy for every run of the tests: `make prove/isolation`.
const proveVariable = "SLUICE_TEST_ISOLATION"

// mutations are the ways in which a table's guard can be weakened, and who is to see it by reaching a row, beside the catalogue.
var mutations = []struct {
	name, sql string
	role      string
	// writes is whether only one who may write the table can see it.
	writes bool
	// fresh is whether it takes a connection that never had a setting.
	fresh bool
}{
	{"its policy is dropped", `drop policy tenant on ?`, "sluice_app", false, false},
	{"its policy shows all", `alter policy tenant on ? using (true)`, "sluice_app", false, false},
	{"its policy takes all", `alter policy tenant on ? with check (true)`, "sluice_app", true, false},
	{"its row security is disabled", `alter table ? disable row level security`, "sluice_app", false, false},
	{"its row security is not forced", `alter table ? no force row level security`, "sluice_owner", false, false},
	{"a second policy shows all", `create policy second on ? for select using (true)`, "sluice_app", false, false},
	{"an empty setting is every tenant", `alter policy tenant on ? using (tenant_id = (select nullif(current_setting('sluice.tenant_id', true), '')::uuid)
		or current_setting('sluice.tenant_id', true) = '')`, "sluice_app", false, false},
	{"no setting is every tenant", `alter policy tenant on ? using (tenant_id = (select nullif(current_setting('sluice.tenant_id', true), '')::uuid)
		or current_setting('sluice.tenant_id', true) is null)`, "sluice_app", false, true},
}

// TestEveryWeakenedPolicyIsMissed weakens the guard of each table in each way, and wants a row to be reached: a suite that cannot fail proves nothing. The
// whole proof also wants the catalogue's check to tell each of them, and each policy of the roles that act across tenants that is dropped or closed.
func TestEveryWeakenedPolicyIsMissed(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	whole := os.Getenv(proveVariable) != ""
	golden := goldenCatalogue(t)
	all := targets(t, b, other.tenant)
	made, reached, told := 0, 0, 0
	for i, of := range all {
		for n, m := range mutations {
			if !whole && n != 1 && (i+n)%len(mutations) != 0 {
				continue // every table's policy is opened, and each other way is tried on its share of the tables
			}
			made++
			begin := ownerTx
			if m.fresh {
				begin = freshTx
			}
			tx := begin(t, b)
			_, err := tx.Exec(t.Context(), strings.ReplaceAll(m.sql, "?", of.Name))
			require.NoError(t, err)
			found := leaksUnset(t.Context(), tx, m.role, of)
			if !m.fresh {
				found = leaks(t.Context(), tx, m.role, of, one.tenant, other.tenant)
			}
			if len(found) > 0 {
				reached++
			} else if !m.writes || len(of.Inserts) > 0 {
				t.Errorf("%s: %s, and no row is reached", of.Name, m.name)
			}
			if whole {
				faults, err := catalogueFaults(t.Context(), tx, golden)
				require.NoError(t, err)
				require.NotEmpty(t, faults, "%s: %s, and the catalogue says nothing", of.Name, m.name)
				told++
			}
			require.NoError(t, tx.Rollback(t.Context()))
		}
	}
	t.Logf("%d tables, %d mutations: %d seen by a row that was reached, %d by the catalogue", len(all), made, reached, told)
	if !whole {
		return
	}
	policies, err := texts(t.Context(), b.Owner, `select format('%I on %s', polname, polrelid::regclass) from pg_policy where polname <> 'tenant'`)
	require.NoError(t, err)
	for _, policy := range policies {
		for _, sql := range []string{`drop policy ` + policy, `alter policy ` + policy + ` to public`} {
			tx := ownerTx(t, b)
			_, err := tx.Exec(t.Context(), sql)
			require.NoError(t, err)
			faults, err := catalogueFaults(t.Context(), tx, golden)
			require.NoError(t, err)
			require.NotEmpty(t, faults, sql)
			require.NoError(t, tx.Rollback(t.Context()))
		}
	}
	t.Logf("%d policies of those who act across tenants, each dropped and each opened to everybody: all told by the catalogue", len(policies))
}
