package migrations_test

import (
	"os"
	"testing"

	"sluice/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }
