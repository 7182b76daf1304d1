package db_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

var recordSchema = flag.Bool("record-schema", false, "write doctor_schema.txt anew")

// TestSchemaInventory holds the inventory that the doctor carries against a database that was just migrated.
func TestSchemaInventory(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	var all strings.Builder
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		lines, err := tx.SchemaInventory(t.Context())
		for _, l := range lines {
			all.WriteString(l.String() + "\n")
		}
		return err
	}))
	const path = "doctor_schema.txt"
	if *recordSchema {
		require.NoError(t, os.WriteFile(path, []byte(all.String()), 0o600))
	}
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(kept), all.String(), "the migrations have changed: go test ./db -run TestSchemaInventory -record-schema")
}
