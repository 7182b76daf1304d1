package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	h := newLedgerHouse(t)
	_, err := h.Owner.Exec(t.Context(), `update sluice.automations set enabled = false`)
	require.NoError(t, err)
	code, out, errors := sluice(t, h.e, "doctor", "--verbose", "--show", "1")
	require.Zero(t, code, out+errors)
	require.Empty(t, errors)
	require.Regexp(t, `(?m)^NOTICE  server\.settings \(I1\)  a crash .*: 2$\n^    f\w+ is off$\n^    and 1 more$\n^    -> ALTER SYSTEM`, out)
	require.Regexp(t, `(?m)^ *\d+\.\d ms +run\.stuck$`, out)
	require.Regexp(t, `\d+ checks, broken: 0, needs a hand: 0, notices: 2, could not look: 0\n$`, out)

	h.exec(`update sluice.budgets set reserved_pico = 5`)
	h.exec(`insert into sluice.alerts (tenant_id, id, kind, subject, detail) values ($1, gen_random_uuid(), 'held', 'x', 'canary')`, h.tenant)
	code, out, errors = sluice(t, h.e, "doctor")
	require.Equal(t, 1, code, out+errors)
	require.Empty(t, errors)
	require.Regexp(t, `(?m)^BROKEN  budget\.reserved \(I7\)  .*: 1$\n^    tnt_[0-9a-f]{32}  0 tokens, 5 pico are reserved; .*$\n^    -> `, out)
	require.Regexp(t, `(?m)^    tnt_[0-9a-f]{32}  alt_[0-9a-f]{32}  20\S+Z  held$`, out)
	require.Contains(t, out, "broken: 1, needs a hand: 0, notices: 3, could not look: 0\n")
	require.NotContains(t, out, "canary")

	code, out, errors = sluice(t, h.e, "doctor", "--json", "--check", "budget.reserved")
	require.Equal(t, 1, code, out+errors)
	var told doctorReport
	require.NoError(t, json.Unmarshal([]byte(out), &told))
	require.False(t, told.Clean)
	require.Len(t, told.Checks, 1)
	require.Len(t, told.Findings, 1)
	require.Equal(t, "broken", told.Findings[0].Severity)
	require.Regexp(t, `^tnt_`, told.Findings[0].Places[0].ID)
	require.NotEmpty(t, told.Findings[0].Advice)
	require.Contains(t, out, `"could_not_look": []`)

	// It looks again until what mends itself is mended: here, after it has looked once.
	type end struct {
		code int
		said string
	}
	ended := make(chan end, 1)
	began := time.Now()
	go func() {
		code, out, errors := sluiceIn(t.Context(), "", h.e, "doctor", "--wait", "1m", "--check", "budget.reserved")
		ended <- end{code, out + errors}
	}()
	require.Eventually(t, func() bool {
		var looked bool
		const sql = `select exists (select from pg_stat_activity where datname = current_database() and application_name = 'sluice sluice_system'
			and query = 'rollback' and state = 'idle' and backend_start > $1::timestamptz - interval '1 s')`
		return h.Owner.QueryRow(t.Context(), sql, began).Scan(&looked) == nil && looked
	}, time.Minute, 10*time.Millisecond)
	require.Empty(t, ended)
	h.exec(`update sluice.budgets set reserved_pico = 0`)
	last := <-ended
	require.Zero(t, last.code, last.said)

	// Without a master key no secret is looked at; with another one than they are sealed under, none opens.
	e := env{"DATABASE_URL": h.URL, "SLUICE_MASTER_KEY": strings.Repeat("00", db.MasterKeyLen)}
	code, out, errors = sluice(t, e, "doctor", "--check", "secret.sealed")
	require.Equal(t, 1, code, out+errors)
	require.Contains(t, out, "BROKEN  secret.sealed")
}

func TestDoctorCannotLook(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	_, err := b.Owner.Exec(t.Context(), `alter table sluice.replays rename to moved`)
	require.NoError(t, err)
	for _, c := range []struct {
		name string
		e    env
		args []string
		code int
		out  string
		err  string
	}{
		{"NoDatabase", env{"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}, nil, 2, "", "could not look"},
		{"NoSchema", env{"DATABASE_URL": dbtest.Empty(t)}, nil, 2, "", "could not look"},
		{"NoURL", env{}, nil, 2, "", "--database-url (DATABASE_URL): is missing"},
		{"NoSuchCheck", env{"DATABASE_URL": b.URL}, []string{"--check", "nonsense"}, 2, "", "there is no check nonsense"},
		{"ShowNone", env{"DATABASE_URL": b.URL}, []string{"--show", "0"}, 2, "", "--show of 1 or more"},
		{"OneCheckAlone", env{"DATABASE_URL": b.URL}, []string{"--check", "replay.stuck"}, 2, "COULD NOT LOOK  replay.stuck: ", ""},
		{"OneCheckAloneBesideAFinding", env{"DATABASE_URL": b.URL}, nil, 1, "COULD NOT LOOK  replay.stuck: ", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, out, err := sluice(t, c.e, append([]string{"doctor"}, c.args...)...)
			require.Equal(t, c.code, code, out+err)
			require.Contains(t, out, c.out)
			require.Contains(t, err, c.err)
		})
	}
}

// TestDoctorsChecksAreDocumented: a finding sends whoever reads it to docs/doctor.md.
func TestDoctorsChecksAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/doctor.md")
	require.NoError(t, err)
	contract, err := os.ReadFile("../../openapi/openapi.yaml")
	require.NoError(t, err)
	for _, c := range db.Checks() {
		require.Contains(t, string(doc), "| `"+c.ID+"` | "+string(c.Severity)+" | "+c.Guards+" |", c.ID)
		require.NotEmpty(t, c.Advice, c.ID)
		// What is advised exists.
		for _, word := range strings.FieldsFunc(c.Advice, func(r rune) bool { return r == ' ' || r == ',' || r == ')' || r == '(' }) {
			if path, _, _ := strings.Cut(strings.TrimRight(word, ".:;"), "?"); strings.HasPrefix(path, "/v1/") {
				require.Contains(t, string(contract), "  "+path+":\n", c.ID)
			}
		}
	}
}
