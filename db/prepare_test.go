package db_test

import (
	"context"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

// named finds the arguments of a statement; "::" before a type is no argument.
var named = regexp.MustCompile(`@([a-z_0-9]+)`)

// TestEveryStatementPrepares holds every constant of package db whose name ends in SQL against the migrated schema: a wrong column or type
// fails by the constant's name.
func TestEveryStatementPrepares(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	statements := statementsOf(t, ".")
	require.Greater(t, len(statements), 60, "the statements of the room")
	conn, err := pgx.Connect(context.Background(), b.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for name, sql := range statements {
		arguments := pgx.NamedArgs{}
		for _, m := range named.FindAllStringSubmatch(sql, -1) {
			arguments[m[1]] = nil
		}
		rewritten, _, err := arguments.RewriteQuery(context.Background(), conn, sql, nil)
		require.NoError(t, err, name)
		_, err = conn.Prepare(context.Background(), name, rewritten)
		require.NoError(t, err, "%s:\n%s", name, sql)
		require.Regexp(t, `^[a-z][A-Za-z0-9]*SQL$`, name)
	}
}

// statementsOf reads the string constants of a package whose names end in SQL, as the compiler sees them.
func statementsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	// Only constants matter, so what the imports are is of no interest.
	config := types.Config{Importer: importer.Default(), Error: func(error) {}}
	checked, _ := config.Check("db", set, files, nil)
	out := map[string]string{}
	for _, name := range checked.Scope().Names() {
		if c, ok := checked.Scope().Lookup(name).(*types.Const); ok && strings.HasSuffix(name, "SQL") {
			out[name] = constant.StringVal(c.Val())
		}
	}
	return out
}
