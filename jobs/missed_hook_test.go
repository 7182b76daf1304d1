package jobs_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs"
)

func TestNextCursor(t *testing.T) {
	t.Parallel()
	const from = "https://api.github.com/repos/o/r/hooks/1/deliveries"
	for link, want := range map[string]string{
		"": "",
		`<https://api.github.com/repositories/1/hooks/1/deliveries?per_page=100&cursor=v1_5>; rel="next"`:               "v1_5",
		`<https://api.github.com/x?cursor=a>; rel="prev", <https://API.github.com/x?per_page=1&cursor=b,c>; rel="next"`: "b,c",
		`<https://api.github.com/x?cursor=a>; title="x" ; REL=next`:                                                     "a",
		`<https://api.github.com/x?cursor=a>; rel="previous"`:                                                           "",
		`<https://api.github.com/x?cursor=a`:                                                                            "",
		`rel="next"`:                                                                                                    "",
		`<>; rel="next`:                                                                                                 "fault",
		`<http://api.github.com/x?cursor=a>; rel="next"`:                                                                "fault",
		`<https://api.github.com:8443/x?cursor=a>; rel="next"`:                                                          "fault",
		`<https://api.github.com.evil.example/x?cursor=a>; rel="next"`:                                                  "fault",
		`<//evil.example/x?cursor=a>; rel="next"`:                                                                       "fault",
		`<https://api.github.com/x?cursor=` + strings.Repeat("a", 513) + `>; rel="next"`:                                "fault",
		`<:%zz>; rel="next"`:                                                                                            "fault",
	} {
		got, err := jobs.NextCursor(link, from)
		if want == "fault" {
			require.Error(t, err, link)
			continue
		}
		require.NoError(t, err, link)
		require.Equal(t, want, got, link)
	}
}

func FuzzNextCursor(f *testing.F) {
	f.Add(`<https://api.github.com/x?cursor=a>; rel="next"`)
	f.Add(`<a>;b=c;,<`)
	f.Fuzz(func(t *testing.T, link string) {
		cursor, err := jobs.NextCursor(link, "https://api.github.com/app/hook/deliveries")
		if len(cursor) > 512 || err != nil && cursor != "" {
			t.Fatalf("cursor %q, error %v", cursor, err)
		}
	})
}
