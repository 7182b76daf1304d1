package llm_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/jobs/llm"
)

// sonnet is Claude Sonnet 3.7 and 4: 3, 0.30, 3.75, 6 and 15 USD for a million tokens.
var sonnet = llm.Price{
	ID: 1, Provider: "anthropic", Model: "claude-3-7-sonnet",
	Input: 3_000_000, CacheRead: 300_000, CacheWrite5m: 3_750_000, CacheWrite1h: 6_000_000, Output: 15_000_000,
}

// gpt4o lists no price of cache writes.
var gpt4o = llm.Price{
	ID: 2, Provider: "openai", Model: "gpt-4o",
	Input: 2_500_000, CacheRead: 1_250_000, CacheWrite5m: llm.NoPrice, CacheWrite1h: llm.NoPrice, Output: 10_000_000,
}

const usd = 1_000_000_000_000 // pico-USD

func TestCost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		price llm.Price
		usage llm.Usage
		want  int64
	}{
		// LiteLLM issue 9812: 3 uncached, 12,304 written, 550 out were priced at 0.091311 USD instead of 0.05439 (rounded).
		"litellm 9812": {sonnet, llm.Usage{InputUncached: 3, InputCacheWrite5m: 12_304, OutputVisible: 550}, 54_399_000_000},
		"1-hour write": {sonnet, llm.Usage{InputUncached: 2048, InputCacheRead: 1800, InputCacheWrite5m: 148, InputCacheWrite1h: 100, OutputVisible: 503},
			6_144_000_000 + 540_000_000 + 555_000_000 + 600_000_000 + 7_545_000_000},
		"cached is not billed twice": {gpt4o, llm.Usage{InputUncached: 86, InputCacheRead: 1920, OutputVisible: 300},
			215_000_000 + 2_400_000_000 + 3_000_000_000},
		"reasoning is output":             {gpt4o, llm.Usage{InputUncached: 1, OutputVisible: 2, OutputReasoning: 3}, 2_500_000 + 50_000_000},
		"write without a price, as input": {gpt4o, llm.Usage{InputUncached: 1, InputCacheWrite5m: 1, InputCacheWrite1h: 1, OutputVisible: 1}, 3*2_500_000 + 10_000_000},
		"a million in, at 3 USD":          {sonnet, llm.Usage{InputUncached: 1_000_000}, 3 * usd},
		"smallest price":                  {llm.Price{ID: 3, Input: 5_000, Output: 1}, llm.Usage{InputUncached: 1, OutputVisible: 1}, 5_001},
		"nothing":                         {sonnet, llm.Usage{}, 0},
		"free model":                      {llm.Price{ID: 4}, llm.Usage{InputUncached: 5, OutputVisible: 5}, 0},
	} {
		got, err := llm.Cost(c.price, c.usage)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
}

func TestCostIsNeverZeroForWantOfAPrice(t *testing.T) {
	t.Parallel()
	used := llm.Usage{InputUncached: 1, OutputVisible: 1}
	for name, p := range map[string]llm.Price{
		"no row":          {},
		"no input price":  {ID: 1, Input: llm.NoPrice, Output: 1},
		"no output price": {ID: 1, Input: 1, Output: llm.NoPrice},
	} {
		_, err := llm.Cost(p, used)
		require.ErrorIs(t, err, llm.ErrUnpriced, name)
		require.Equal(t, int64(math.MaxInt64), llm.WorstCase(p, 1, 1), name)
	}
	_, err := llm.Cost(sonnet, llm.Usage{InputUncached: -1})
	require.Error(t, err)
	_, err = llm.Cost(sonnet, llm.Usage{OutputVisible: math.MaxInt64})
	require.ErrorIs(t, err, llm.ErrCostOverflow)
	_, err = llm.Cost(sonnet, llm.Usage{InputUncached: 2e12, OutputVisible: 3e11})
	require.ErrorIs(t, err, llm.ErrCostOverflow, "a sum overflows as well as a product")
}

func TestWorstCaseIsNeverBelowTheCost(t *testing.T) {
	t.Parallel()
	price := rapid.Int64Range(0, 200_000_000)
	tokens := rapid.Int64Range(0, 2_000_000)
	rapid.Check(t, func(t *rapid.T) {
		in := price.Draw(t, "input")
		p := llm.Price{ID: 1, Input: in, CacheRead: rapid.SampledFrom([]int64{llm.NoPrice, in / 10}).Draw(t, "read"),
			CacheWrite5m: rapid.SampledFrom([]int64{llm.NoPrice, in + in/4}).Draw(t, "write"), CacheWrite1h: llm.NoPrice,
			Output: price.Draw(t, "output")}
		u := llm.Usage{InputUncached: tokens.Draw(t, "uncached"), InputCacheRead: tokens.Draw(t, "cached"),
			InputCacheWrite5m: tokens.Draw(t, "written"), OutputVisible: tokens.Draw(t, "visible"), OutputReasoning: tokens.Draw(t, "reasoning")}
		cost, err := llm.Cost(p, u)
		if err != nil {
			t.Fatal(err)
		}
		if worst := llm.WorstCase(p, u.InputTotal(), u.OutputTotal()); worst < cost {
			t.Fatalf("worst case %d is below the cost %d", worst, cost)
		}
	})
	require.Equal(t, int64(math.MaxInt64), llm.WorstCase(sonnet, math.MaxInt64, math.MaxInt64))
	require.Equal(t, int64(math.MaxInt64), llm.WorstCase(sonnet, -1, 1))
}

func TestPickTier(t *testing.T) {
	t.Parallel()
	tiers := []llm.Price{{ID: 2, TierAbove: 200_000}, {ID: 1}}
	for tokens, want := range map[int64]int64{0: 1, 200_000: 1, 200_001: 2, 5_000_000: 2} {
		p, err := llm.PickTier(tiers, tokens)
		require.NoError(t, err)
		require.Equal(t, want, p.ID, tokens)
	}
	_, err := llm.PickTier(tiers[:1], 10)
	require.ErrorIs(t, err, llm.ErrUnpriced)
	_, err = llm.PickTier(nil, 10)
	require.ErrorIs(t, err, llm.ErrUnpriced)
}

func TestPriceNames(t *testing.T) {
	t.Parallel()
	for model, want := range map[string][]string{
		"claude-sonnet-4-5-20250929": {"claude-sonnet-4-5-20250929", "claude-sonnet-4-5"},
		"claude-3-5-haiku-latest":    {"claude-3-5-haiku-latest", "claude-3-5-haiku"},
		"claude-opus-4@20250514":     {"claude-opus-4@20250514", "claude-opus-4"},
		"gpt-5-mini-2025-08-07":      {"gpt-5-mini-2025-08-07", "gpt-5-mini"},
		"gpt-4o":                     {"gpt-4o"},
		"gpt-4-0613":                 {"gpt-4-0613"},
		"-latest":                    {"-latest"},
		"":                           {""},
	} {
		require.Equal(t, want, llm.PriceNames(model), model)
	}
}

func TestEstimateTokens(t *testing.T) {
	t.Parallel()
	empty := llm.EstimateTokens("")
	require.Positive(t, empty, "a call is never free")
	for text, atLeast := range map[string]int64{
		"The quick brown fox jumps over the lazy dog.": 10, // 10 tokens for GPT-4o.
		"你好，世界":                                            5,
		`{"id":12345678,"ok":true}`:                        11,
		"550e8400-e29b-41d4-a716-446655440000":             15,
		"Donaudampfschifffahrtsgesellschaftskapitänsmütze": 15,
	} {
		require.GreaterOrEqual(t, llm.EstimateTokens(text)-empty, atLeast, text)
	}
}

func TestTimesAreOfNoConcernToCost(t *testing.T) {
	t.Parallel()
	p := sonnet
	p.EffectiveTo = time.Unix(0, 0)
	got, err := llm.Cost(p, llm.Usage{InputUncached: 1})
	require.NoError(t, err)
	require.Equal(t, sonnet.Input, got, "a call in flight at a price change is priced by the row it names")
}
