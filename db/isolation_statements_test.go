package db_test

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

// plan is a node of a plan, as EXPLAIN tells it.
type plan struct {
	Node     string `json:"Node Type"`
	Schema   string `json:"Schema"`
	Relation string `json:"Relation Name"`
	Index    string `json:"Index Cond"`
	Recheck  string `json:"Recheck Cond"`
	Filter   string `json:"Filter"`
	Plans    []plan `json:"Plans"`
}

// tenantBound is a condition that a scan of a tenant's table must carry: its tenant is the statement's argument, or that of another row, whose own
// scan must carry it.
var tenantBound = regexp.MustCompile(`\btenant_id = (\$\d+|("[^"]+"|[a-z_0-9]+)\.tenant_id)|(\$\d+|("[^"]+"|[a-z_0-9]+)\.tenant_id) = ([a-z_0-9]+\.)?tenant_id\b`)

// jobBound is the condition of River's jobs, which no row security guards: a job is the tenant's by its arguments.
var jobBound = regexp.MustCompile(`args ->> 'tenant_id'::text\) = \(*\$\d+`)

// unbound are the scans of a plan that any tenant's rows may come out of.
func unbound(p plan, tables []string) []string {
	var out []string
	if p.Schema == "sluice" && slices.Contains(tables, p.Schema+"."+p.Relation) && p.Node != "ModifyTable" && !tenantBound.MatchString(p.Index+" "+p.Recheck+" "+p.Filter) {
		out = append(out, p.Node+" of "+p.Relation)
	}
	for _, below := range p.Plans {
		out = append(out, unbound(below, tables)...)
	}
	return out
}

// What a statement says in words, where no plan shows it: whose a new row is, whose a function of ours is asked for, whose a lock is.
var (
	insertWords = regexp.MustCompile(`insert into sluice\.([a-z_]+)\s*(?:\(\s*tenant_id,[^)]*\)\s*(?:select|values\s*\()\s*(@tenant_id|(?:[a-z]+\.)?tenant_id)\b)?`)
	callWords   = regexp.MustCompile(`\bsluice\.([a-z_]+)\(\s*(@tenant_id\b|[a-z]+\.tenant_id\b)?`)
	lockWords   = regexp.MustCompile(`pg_(?:try_)?advisory_[a-z_]*\((.*)`)
)

// unsaid are the inserts, the calls of functions that take a tenant first, and the locks that do not name the tenant.
func unsaid(sql string, functions []string) []string {
	var out []string
	for _, m := range insertWords.FindAllStringSubmatch(sql, -1) {
		if m[2] == "" {
			out = append(out, "insert into "+m[1])
		}
	}
	for _, m := range callWords.FindAllStringSubmatch(sql, -1) {
		if m[2] == "" && slices.Contains(functions, m[1]) {
			out = append(out, "call of "+m[1])
		}
	}
	for _, m := range lockWords.FindAllStringSubmatch(sql, -1) {
		if !strings.Contains(m[1], "tenant_id") {
			out = append(out, "lock on "+m[1])
		}
	}
	return out
}

// planOf plans a statement for any arguments, as the superuser: past row security, so that nothing but the statement itself binds it.
func planOf(ctx context.Context, pool *pgxpool.Pool, sql string) (plan, error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return plan{}, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	arguments := pgx.NamedArgs{}
	for _, m := range named.FindAllStringSubmatch(sql, -1) {
		arguments[m[1]] = nil
	}
	rewritten, values, err := arguments.RewriteQuery(ctx, tx.Conn(), sql, nil)
	if err != nil {
		return plan{}, err
	}
	if _, err := tx.Exec(ctx, `set local plan_cache_mode = force_generic_plan; prepare judged as `+rewritten); err != nil {
		return plan{}, err
	}
	defer func() { _, _ = tx.Conn().Exec(ctx, `deallocate all`) }()
	call := `judged`
	if len(values) > 0 {
		call += `(` + strings.TrimSuffix(strings.Repeat("null, ", len(values)), ", ") + `)`
	}
	var text []byte
	if err := tx.QueryRow(ctx, `explain (verbose, costs off, format json) execute `+call, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		return plan{}, err
	}
	var explained []struct{ Plan plan }
	if err := json.Unmarshal(text, &explained); err != nil || len(explained) != 1 {
		return plan{}, fmt.Errorf("read the plan: %w", err)
	}
	return explained[0].Plan, nil
}

// tenantStatements are the constants that methods of TenantTx use, and those that nothing but functions uses that are not another transaction's.
func tenantStatements(t *testing.T) map[string]string {
	t.Helper()
	all, elsewhere, here := statementsOf(t, "."), map[string]bool{}, map[string]bool{}
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range f.Decls {
			function, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			receiver := ""
			if function.Recv != nil {
				if name, ok := function.Recv.List[0].Type.(*ast.Ident); ok {
					receiver = name.Name
				}
			}
			ast.Inspect(function, func(n ast.Node) bool {
				if name, ok := n.(*ast.Ident); ok && all[name.Name] != "" {
					if receiver == "SystemTx" || receiver == "DoorTx" || function.Recv != nil && receiver == "" || receiver == "" && function.Recv == nil {
						elsewhere[name.Name] = true
					} else {
						here[name.Name] = true
					}
				}
				return true
			})
		}
	}
	out := map[string]string{}
	for name, sql := range all {
		if here[name] || !elsewhere[name] && strings.Contains(sql, "@tenant_id") {
			out[name] = sql
		}
	}
	return out
}

// predicates are the words by which a statement keeps to its tenant; each is taken out in turn.
var predicates = regexp.MustCompile(`(?:[a-z_]+\.)?tenant_id = (?:@tenant_id|[a-z_]+\.tenant_id)|@tenant_id`)

// nobodys are the statements of a tenant's transaction that name none, each with its reason.
var nobodys = map[string]string{
	"auditNoteSQL":   "its function takes the tenant from the setting of row security",
	"behaviourSQL":   "it reads no table",
	"priceListAtSQL": "prices are everybody's",
	"priceListSQL":   "prices are everybody's",
}

// labels are the statements that also write the tenant's id into their answer, which binds nothing: by the place of the word.
var labels = map[string]int{"checkRollupsSQL": 5}

// TestEveryStatementOfATenantNamesIt plans every statement of TenantTx past row security, and wants each scan of a tenant's table, and each insert into
// one, bound to the argument. Row security hides a predicate that is missing, so that no test of answers can see it: this one can. In the whole proof
// each predicate is taken out in turn, and the plan or the words must tell.
func TestEveryStatementOfATenantNamesIt(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	statements := tenantStatements(t)
	tables, err := texts(t.Context(), b.Owner, preamble()+`select oid::regclass::text from tenant`) // partitions too
	require.NoError(t, err)
	functions, err := texts(t.Context(), b.Owner, `select proname::text from pg_proc where pronamespace = 'sluice'::regnamespace and proargtypes[0] = 'uuid'::regtype`)
	require.NoError(t, err)
	require.Greater(t, len(statements), 100)
	judge := func(sql string) []string {
		p, err := planOf(t.Context(), b.Owner, sql)
		if err != nil {
			return []string{err.Error()}
		}
		found := append(unbound(p, tables), unsaid(sql, functions)...)
		if strings.Contains(sql, "river.") && !jobBound.MatchString(fmt.Sprint(p)) {
			found = append(found, "River's jobs")
		}
		return found
	}
	whole := os.Getenv(proveVariable) != ""
	taken, told := 0, 0
	for _, name := range slices.Sorted(maps.Keys(statements)) {
		sql := statements[name]
		if found := judge(sql); len(found) > 0 {
			t.Errorf("%s reaches every tenant's rows: %q\n%s", name, found, sql)
			continue
		}
		if !strings.Contains(sql, "@tenant_id") {
			require.Contains(t, nobodys, name, "it names no tenant")
		}
		for i, at := range predicates.FindAllStringIndex(sql, -1) {
			if !whole && i > 0 {
				continue
			}
			instead := "true"
			if sql[at[0]:at[1]] == "@tenant_id" {
				instead = "gen_random_uuid()"
			}
			if labels[name] == i+1 {
				continue
			}
			taken++
			if len(judge(sql[:at[0]]+instead+sql[at[1]:])) > 0 {
				told++
			} else {
				t.Errorf("%s without its predicate %d, %q, and nobody tells", name, i+1, sql[at[0]:at[1]])
			}
		}
	}
	t.Logf("%d statements, %d predicates taken out in turn: %d told", len(statements), taken, told)
}
