package source_test

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// sourceRows gives the cells of every table row in docs/sources.md whose first cell is a name in backquotes, by table and name.
func sourceRows(t *testing.T) []map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/sources.md")
	require.NoError(t, err)
	row := regexp.MustCompile("^\\| `([a-z0-9_]+)` \\|")
	var tables []map[string][]string
	inside := false
	for line := range strings.SplitSeq(string(text), "\n") {
		match := row.FindStringSubmatch(line)
		if match == nil {
			inside = false
			continue
		}
		if !inside {
			tables, inside = append(tables, map[string][]string{}), true
		}
		rows := tables[len(tables)-1]
		require.NotContains(t, rows, match[1], "two rows of one source")
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		rows[match[1]] = cells
	}
	return tables
}

// The page for people names every source in both of its tables, and says of each what its functions say.
func TestDocsHaveEverySource(t *testing.T) {
	t.Parallel()
	const schemes, checks = 6, 3 // cells
	tables := sourceRows(t)
	require.Len(t, tables, 2, "one table of how each source works, one of what it was checked against")
	var names []string
	for _, s := range source.All() {
		names = append(names, s.Name)
	}
	for i, cells := range []int{schemes, checks} {
		require.ElementsMatch(t, names, slices.Collect(maps.Keys(tables[i])), "rows of table %d", i+1)
		for name, row := range tables[i] {
			require.Len(t, row, cells, name)
			for _, cell := range row {
				require.NotEmpty(t, strings.TrimSpace(cell), name)
			}
		}
	}
	for _, s := range source.All() {
		require.Equal(t, underSignature(t, s), tables[0][s.Name][2], "what is under the signature of %s", s.Name)
		require.Equal(t, answers(s), tables[0][s.Name][5], "answers to %s", s.Name)
	}
}

// The examples of settings are such that an endpoint takes them, and they mean what is said of them.
func TestDocsExamplesHold(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/sources.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, examples, 2)

	s, list := hmacSource(t, examples[0][1])
	r := subject{Source: s, settings: list}.deliver(t, source.Sample{Body: func(string, time.Time) []byte {
		return []byte(`{"events": [{"id": "e-1", "kind": "order.paid", "created": 1772625600, "order": {"id": 7, "revision": 3}}, {"id": "e-2"}]}`)
	}}, "", source.Trial{Sign: "a plain secret"})
	require.Regexp(t, `^t=1772625600,v1=[0-9a-f]{64}$`, r.Header.Get("X-Acme-Signature"))
	r.ReceivedAt = noon.Add(24 * time.Hour)
	_, err = s.Verify(r, []string{"a plain secret"}, list)
	require.NoError(t, err)
	events, err := s.Events(r, list)
	require.NoError(t, err)
	require.Equal(t, []source.Event{
		{ID: "e-1", Type: "order.paid", OccurredAt: noon, Entity: "order:7", Sequence: new(int64(3))}, {ID: "e-2"},
	}, named(events))

	s, form := hmacSource(t, examples[1][1])
	const secret = "acme_00112233445566778899aabbccddeeff"
	require.NoError(t, s.CheckSecret(secret, form))
	r = subject{Source: s, settings: form}.deliver(t, source.Sample{Body: func(string, time.Time) []byte {
		return []byte(`event=order_paid&object_id=7`)
	}}, "d-1", source.Trial{Sign: secret})
	require.Equal(t, "2026-03-04T12:00:00Z", r.Header.Get("X-Acme-Sent-At"))
	_, err = s.Verify(r, []string{secret}, form)
	require.NoError(t, err)
	require.True(t, s.IDSigned(form))
	events, err = s.Events(r, form)
	require.NoError(t, err)
	require.Equal(t, []source.Event{{ID: "d-1", Type: "order_paid", Entity: "order:7"}}, named(events))
}

// underSignature says what a signature covers: the same under all settings that the battery tries, or by settings.
func underSignature(t *testing.T, s source.Source) string {
	t.Helper()
	said := map[string]bool{}
	for _, one := range subjects(t) {
		if one.Name != s.Name {
			continue
		}
		var parts []string
		for part, covered := range map[string]bool{
			"body": s.BodySigned(one.settings), "id": s.IDSigned(one.settings), "time": s.Window(one.settings).Signed(),
		} {
			if covered {
				parts = append(parts, part)
			}
		}
		slices.Sort(parts)
		said[strings.Join(parts, ", ")] = true
	}
	all := slices.Sorted(maps.Keys(said))
	switch {
	case len(all) > 1:
		return "by settings"
	case all[0] == "":
		return "nothing"
	default:
		return all[0]
	}
}

// answers says where the answers to a source differ from the usual ones.
func answers(s source.Source) string {
	usual := source.Codes{
		Refused: http.StatusUnauthorized, Malformed: http.StatusBadRequest, TooLarge: http.StatusRequestEntityTooLarge,
		Disabled: http.StatusNotFound, Busy: http.StatusServiceUnavailable,
	}
	var all []string
	for _, one := range []struct {
		name       string
		code, rule int
	}{
		{"refused", s.Codes.Refused, usual.Refused}, {"malformed", s.Codes.Malformed, usual.Malformed}, {"too large", s.Codes.TooLarge, usual.TooLarge},
		{"switched off", s.Codes.Disabled, usual.Disabled}, {"busy", s.Codes.Busy, usual.Busy},
	} {
		if one.code != one.rule {
			all = append(all, one.name+" "+strconv.Itoa(one.code))
		}
	}
	if s.Accepted != nil {
		media, _, _ := strings.Cut(s.Accepted.Header.Get("Content-Type"), ";")
		if len(s.Accepted.Body) == 0 {
			media = "no body"
		}
		all = append(all, "accepted "+strconv.Itoa(s.Accepted.Status)+" ("+media+")")
	}
	if len(all) == 0 {
		return "usual"
	}
	return strings.Join(all, ", ")
}
