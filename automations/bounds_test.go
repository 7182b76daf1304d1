package automations_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

// bounded is triage with what a piece of JSON says more.
func bounded(t *testing.T, more string) automations.Spec {
	t.Helper()
	s := triage()
	require.NoError(t, json.Unmarshal([]byte(more), &s))
	return s
}

func TestCompile_NamesFaultsOfBounds(t *testing.T) {
	t.Parallel()
	for more, want := range map[string]automations.Fault{
		`{"retry": {"attempts": 0}}`:                                                {"retry.attempts", "from 1 to 20, got 0"},
		`{"retry": {"attempts": 21}}`:                                               {"retry.attempts", "from 1 to 20, got 21"},
		`{"retry": {"attempts": -1}}`:                                               {"retry.attempts", "from 1 to 20, got -1"},
		`{"retry": {"backoff_seconds": 0}}`:                                         {"retry.backoff_seconds", "from 1 to 3600, got 0"},
		`{"retry": {"backoff_seconds": 3601}}`:                                      {"retry.backoff_seconds", "from 1 to 3600, got 3601"},
		`{"retry": {"backoff_max_seconds": 0}}`:                                     {"retry.backoff_max_seconds", "from 1 to 86400, got 0"},
		`{"retry": {"backoff_max_seconds": 86401}}`:                                 {"retry.backoff_max_seconds", "from 1 to 86400, got 86401"},
		`{"retry": {"backoff_max_seconds": 1}}`:                                     {"retry.backoff_max_seconds", "at least backoff_seconds, which is 2, got 1"},
		`{"retry": {"backoff_seconds": 301}}`:                                       {"retry.backoff_max_seconds", "at least backoff_seconds, which is 301, got 300"},
		`{"retry": {"backoff_seconds": 60, "backoff_max_seconds": 59}}`:             {"retry.backoff_max_seconds", "at least backoff_seconds, which is 60, got 59"},
		`{"over_limit": "wait"}`:                                                    {"over_limit", `hold, drop or cheaper, got "wait"`},
		`{"over_limit": "Hold"}`:                                                    {"over_limit", `hold, drop or cheaper, got "Hold"`},
		`{"over_limit": "cheaper"}`:                                                 {"cheaper_model", "is required where over_limit is cheaper"},
		`{"cheaper_model": "openai/gpt-5-nano"}`:                                    {"cheaper_model", "is asked only where over_limit is cheaper; here it is hold"},
		`{"over_limit": "drop", "cheaper_model": "openai/gpt-5-nano"}`:              {"cheaper_model", "is asked only where over_limit is cheaper; here it is drop"},
		`{"over_limit": "cheaper", "cheaper_model": "gpt-5-nano"}`:                  {"cheaper_model", `provider/model, such as openai/gpt-5-mini, got "gpt-5-nano"`},
		`{"over_limit": "cheaper", "cheaper_model": "anthropic/claude-sonnet-4-5"}`: {"cheaper_model", `"anthropic/claude-sonnet-4-5" is the model itself`},
		`{"max_call_usd": "0"}`:                                                     {"max_call_usd", `more than 0 USD, got "0"`},
		`{"max_call_usd": "5 cents"}`:                                               {"max_call_usd", `a decimal in a string, such as "0.05"`},
		`{"loop": {"depth": -1}}`:                                                   {"loop.depth", "from 0 to 10, got -1"},
		`{"loop": {"depth": 11}}`:                                                   {"loop.depth", "from 0 to 10, got 11"},
		`{"loop": {"actions_per_hour": 0}}`:                                         {"loop.actions_per_hour", "from 1 to 10000, got 0"},
		`{"loop": {"actions_per_hour": 10001}}`:                                     {"loop.actions_per_hour", "from 1 to 10000, got 10001"},
	} {
		t.Run(more, func(t *testing.T) {
			t.Parallel()
			c, faults := automations.Compile(bounded(t, more))
			require.Nil(t, c)
			require.Len(t, faults, 1)
			require.Equal(t, want.Place, faults[0].Place)
			require.Contains(t, faults[0].Message, want.Message)
		})
	}
}

func TestCompile_FillsInBounds(t *testing.T) {
	t.Parallel()
	retries := automations.Retry{Attempts: 5, Base: 2 * time.Second, Most: 5 * time.Minute}
	loops := automations.Loop{Depth: 2, ActionsPerHour: 30}
	for more, want := range map[string]struct {
		retry automations.Retry
		loop  automations.Loop
		pico  int64
	}{
		`{}`: {retries, loops, 0},
		`{"retry": null, "over_limit": "", "cheaper_model": "", "max_call_usd": "", "loop": null}`: {retries, loops, 0},
		`{"retry": {}, "loop": {}}`:                      {retries, loops, 0},
		`{"retry": {"attempts": 1}}`:                     {automations.Retry{Attempts: 1, Base: 2 * time.Second, Most: 5 * time.Minute}, loops, 0},
		`{"retry": {"backoff_seconds": 300}}`:            {automations.Retry{Attempts: 5, Base: 5 * time.Minute, Most: 5 * time.Minute}, loops, 0},
		`{"loop": {"depth": 0}}`:                         {retries, automations.Loop{Depth: 0, ActionsPerHour: 30}, 0},
		`{"loop": {"actions_per_hour": 1}}`:              {retries, automations.Loop{Depth: 2, ActionsPerHour: 1}, 0},
		`{"max_call_usd": "0.05", "over_limit": "drop"}`: {retries, loops, 50_000_000_000},
		`{"retry": {"attempts": 20, "backoff_seconds": 3600, "backoff_max_seconds": 86400}, "over_limit": "cheaper", "cheaper_model": "openai/gpt-5-mini",
			"max_call_usd": "0.000000000001", "loop": {"depth": 10, "actions_per_hour": 10000}}`: {
			automations.Retry{Attempts: 20, Base: time.Hour, Most: 24 * time.Hour}, automations.Loop{Depth: 10, ActionsPerHour: 10_000}, 1,
		},
	} {
		t.Run(more, func(t *testing.T) {
			t.Parallel()
			s := bounded(t, more)
			c := compiled(t, s)
			require.Equal(t, want.retry, c.Retry())
			require.Equal(t, want.loop, c.Loop())
			require.Equal(t, want.pico, c.MaxCallPico())
			if s.OverLimit == "" {
				s.OverLimit = automations.OverHold
			}
			require.Equal(t, s.OverLimit, c.Spec().OverLimit)
			require.Equal(t, s.CheaperModel, c.Spec().CheaperModel)
			// What is kept is what compiles to the same again.
			kept, err := json.Marshal(c.Spec())
			require.NoError(t, err)
			var again automations.Spec
			require.NoError(t, json.Unmarshal(kept, &again))
			reread := compiled(t, again)
			require.Equal(t, c.Spec().Retry, reread.Spec().Retry)
			require.Equal(t, c.Spec().Loop, reread.Spec().Loop)
			require.Equal(t, []any{c.Retry(), c.Loop(), c.MaxCallPico()}, []any{reread.Retry(), reread.Loop(), reread.MaxCallPico()})
		})
	}
}

func TestCompile_LeavesBoundsAsTheyWereGiven(t *testing.T) {
	t.Parallel()
	s := bounded(t, `{"retry": {"attempts": 3}, "loop": {}}`)
	c := compiled(t, s)
	require.Nil(t, s.Retry.BackoffSeconds)
	require.Nil(t, s.Loop.Depth)
	require.Equal(t, 2, *c.Spec().Retry.BackoffSeconds, "what was begun is shown whole")
	require.Equal(t, 2, *c.Spec().Loop.Depth)
	plain := compiled(t, triage()).Spec()
	require.Nil(t, plain.Retry, "what was left out follows the defaults as they change")
	require.Nil(t, plain.Loop)
}

// A version never changes: one that was kept before there were bounds must go on.
func TestCompile_TakesWhatWasKeptBeforeThereWereBounds(t *testing.T) {
	t.Parallel()
	var s automations.Spec
	require.NoError(t, json.Unmarshal([]byte(`{"name": "n", "when": "", "model": "scripted/echo-1", "fallbacks": null, "prompt": {"system": "", "user": "x"},
		"max_output_tokens": 1024, "action": {"kind": "none"}, "mode": "shadow", "priority": "routine"}`), &s))
	c := compiled(t, s)
	require.Equal(t, automations.OverHold, c.Spec().OverLimit)
	require.Equal(t, automations.Retry{Attempts: 5, Base: 2 * time.Second, Most: 5 * time.Minute}, c.Retry())
	require.Equal(t, automations.Loop{Depth: 2, ActionsPerHour: 30}, c.Loop())
	require.Zero(t, c.MaxCallPico())
}

func TestParseUSD_IsExact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1_000_000_000_000, "0.1": 100_000_000_000, "0.10": 100_000_000_000, "0.000000000001": 1, "0.3": 300_000_000_000,
		"1.000000000001": 1_000_000_000_001, "9007.199254740993": 9_007_199_254_740_993, "9223372.036854775807": 9_223_372_036_854_775_807,
	} {
		pico, err := automations.ParseUSD(text)
		require.NoError(t, err, text)
		require.Equal(t, want, pico, text)
	}
	for _, text := range []string{
		"", "0", "0.0", "0.000000000000", "-1", "+1", "1.", ".5", "01", "00.5", "1e3", "1E-3", "0x1", "1_000", "1,5", " 1", "1 ", "1\n", "$1", "NaN", "Inf", "१",
		"0.0000000000001", "1.0000000000000", "9223372.036854775808", "9223373", "99999999999999999999999999",
	} {
		pico, err := automations.ParseUSD(text)
		require.Error(t, err, text)
		require.Zero(t, pico, text)
	}
}

// FuzzParseUSD holds what is read against a fraction of any precision.
func FuzzParseUSD(f *testing.F) {
	for _, seed := range []string{"1", "0.05", "9223372.036854775807", "0.000000000001", "1e3", "-1", "1.", "00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pico, err := automations.ParseUSD(text)
		if err != nil {
			require.Zero(t, pico)
			return
		}
		exact, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		require.Positive(t, pico)
		require.Zero(t, exact.Cmp(big.NewRat(pico, 1_000_000_000_000)), fmt.Sprint(text, pico))
	})
}
