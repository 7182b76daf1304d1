package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

// asSluice makes the test's binary the real one, for what only a process can show: signals.
const asSluice = "SLUICE_TEST_AS_SLUICE"

func TestMain(m *testing.M) {
	if os.Getenv(asSluice) != "" {
		main()
	}
	dir, err := os.MkdirTemp("", "sluice-proof-")
	if err != nil {
		panic(err)
	}
	if err := os.Setenv("SLUICE_TEST_PROVING_DIR", dir); err != nil { // told to the tests outside of this package
		panic(err)
	}
	code := dbtest.Main(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// env is an environment for run.
type env map[string]string

func (e env) lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

// output may be written to by a process' log while a test reads it.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// sluice runs a command line to its end.
func sluice(t *testing.T, e env, args ...string) (code int, out, err string) {
	t.Helper()
	return sluiceIn(t.Context(), "", e, args...)
}

func sluiceIn(ctx context.Context, in string, e env, args ...string) (code int, out, err string) {
	var stdout, stderr output
	code = run(ctx, args, e.lookup, streams{strings.NewReader(in), &stdout, &stderr})
	return code, stdout.String(), stderr.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		code int
		out  string
		err  string
	}{
		{"Version", []string{"version"}, 0, "sluice dev go1", ""},
		{"Help", []string{"--help"}, 0, "operator-key", ""},
		{"HelpOfACommandHasItsSettings", []string{"work", "--help"}, 0, "$SLUICE_RUN_WORKERS", ""},
		{"NoCommand", nil, 2, "", "sluice: expected one of"},
		{"UnknownCommand", []string{"nonsense"}, 2, "", "sluice: unexpected argument nonsense"},
		{"UnknownFlag", []string{"version", "--nonsense"}, 2, "", "sluice: unknown flag --nonsense"},
		{"FlagOfAnotherCommand", []string{"version", "--lease", "5s"}, 2, "", "sluice: --lease (SLUICE_LEASE): is not used by sluice version"},
		{"OpenAPINeedsNothing", []string{"openapi"}, 0, "openapi: 3.1", ""},
		{"DownOfNothing", []string{"migrate", "down"}, 2, "", "sluice: expected --steps N, or --all --yes"},
		{"DownOfAllUnconfirmed", []string{"migrate", "down", "--all"}, 2, "", "expected --yes as well"},
		{"MigrateWithoutDatabase", []string{"migrate", "up"}, 2, "", "sluice: --owner-database-url (SLUICE_OWNER_DATABASE_URL) or --database-url (DATABASE_URL): is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, out, err := sluice(t, env{}, c.args...)
			require.Equal(t, c.code, code, out+err)
			require.Contains(t, out, c.out)
			require.Contains(t, err, c.err)
			if c.err == "" {
				require.Empty(t, err)
			} else {
				require.Empty(t, out)
			}
		})
	}
	t.Run("HelpHidesOtherCommandsSettings", func(t *testing.T) {
		t.Parallel()
		_, out, _ := sluice(t, env{}, "migrate", "up", "--help")
		require.Contains(t, out, "--owner-database-url")
		require.NotContains(t, out, "--lease")
	})
}
