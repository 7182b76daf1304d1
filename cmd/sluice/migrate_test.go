package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	url := dbtest.Empty(t)
	e := env{"SLUICE_OWNER_DATABASE_URL": url, "DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing"}
	must := func(want int, args ...string) (out, err string) {
		t.Helper()
		code, out, err := sluice(t, e, args...)
		require.Equal(t, want, code, out+err)
		return out, err
	}

	out, err := must(1, "migrate", "status")
	require.Regexp(t, `(?m)^version +0$`, out)
	require.Regexp(t, `(?m)^ready +no$`, out)
	require.Contains(t, err, "sluice: the schema is at version 0")
	require.Contains(t, err, "run `sluice migrate up`")
	require.Equal(t, 2, strings.Count(err, "\n"), "a line per fault")

	out, _ = must(0, "migrate", "up")
	require.Contains(t, out, "the schema is at version ")
	again, _ := must(0, "migrate", "up")
	require.Equal(t, out, again)
	out, err = must(0, "migrate", "status")
	require.Regexp(t, `(?m)^ready +yes$`, out)
	require.Empty(t, err)

	must(0, "migrate", "down", "--steps", "1")
	_, err = must(1, "migrate", "status")
	require.Contains(t, err, "run `sluice migrate up`")
	_, err = must(2, "migrate", "down", "--steps", "99")
	require.Contains(t, err, "sluice: --steps: expected at most ")
	must(2, "migrate", "down", "--steps", "-1")
	must(2, "migrate", "down", "--steps", "1", "--all", "--yes")

	must(0, "migrate", "down", "--all", "--yes")
	out, _ = must(1, "migrate", "status")
	require.Regexp(t, `(?m)^version +0$`, out)
	must(0, "migrate", "up")

	// Without an owner's URL, DATABASE_URL is taken; and what cannot be reached is one line without its password.
	code, out, err := sluice(t, env{"DATABASE_URL": url}, "migrate", "status")
	require.Zero(t, code, out+err)
	code, _, err = sluice(t, env{"DATABASE_URL": "postgres://sluice:c4n4ry@127.0.0.1:1/sluice"}, "migrate", "status")
	require.Equal(t, 1, code)
	require.NotContains(t, err, "c4n4ry")
	require.Equal(t, 1, strings.Count(err, "\n"), err)
}

func TestOperatorKey(t *testing.T) {
	t.Parallel()
	e := env{"DATABASE_URL": dbtest.New(t).URL}
	code, first, err := sluice(t, e, "operator-key", "create", "me")
	require.Zero(t, code, err)
	require.Regexp(t, `^slo_[0-9A-Za-z]{36}\n$`, first, "the key alone is on the output")
	require.Contains(t, err, "(me); this is shown once")
	code, second, err := sluice(t, e, "operator-key")
	require.Zero(t, code, err)
	require.Regexp(t, `^slo_`, second)

	_, list, _ := sluice(t, e, "operator-key", "list")
	lines := strings.Split(strings.TrimSpace(list), "\n")
	require.Len(t, lines, 3)
	require.NotContains(t, list, strings.TrimSpace(first))
	id := strings.Fields(lines[1])[0]
	code, _, err = sluice(t, e, "operator-key", "revoke", id)
	require.Zero(t, code, err)
	code, _, err = sluice(t, e, "operator-key", "revoke", id)
	require.Equal(t, 1, code)
	require.Equal(t, "sluice: there is no key "+id+" that is not revoked\n", err)
	code, _, err = sluice(t, e, "operator-key", "revoke", "nonsense")
	require.Equal(t, 2, code)
	require.Contains(t, err, "sluice: ID: expected opk_ and 32 hex digits")
	_, list, _ = sluice(t, e, "operator-key", "list")
	require.NotContains(t, list, id)
}
