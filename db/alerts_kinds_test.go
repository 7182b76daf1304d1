package db_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db"
)

// TestEveryKindOfAlertCanBeAskedFor reads the constants in the source: one that is missing in the list could be told to nobody by name.
func TestEveryKindOfAlertCanBeAskedFor(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "alerts.go", nil, 0)
	require.NoError(t, err)
	var kinds []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Alert") {
			return true
		}
		if text, ok := spec.Values[0].(*ast.BasicLit); ok && text.Kind == token.STRING {
			kind, err := strconv.Unquote(text.Value)
			require.NoError(t, err)
			kinds = append(kinds, kind)
		}
		return true
	})
	require.NotEmpty(t, kinds)
	require.ElementsMatch(t, kinds, db.AlertKinds)
	require.True(t, slices.IsSorted(db.AlertKinds), "people read them: %v", db.AlertKinds)
}
