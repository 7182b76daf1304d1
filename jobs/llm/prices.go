package llm

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"time"
)

// NoPrice stands in a Price for a bucket that has none (NULL in the table).
const NoPrice = -1

// A Price is one row of the price table: pico-USD (1e-12 USD) for one token of each bucket, which is the same number as micro-USD for
// a million tokens: 3 USD for a million tokens are 3,000,000. Tokens times price is thus an exact integer, at every call.
//
// A cache price may be NoPrice, where the vendor lists none. Reads and 5-minute writes then cost as uncached input, and 1-hour writes
// as 5-minute ones. Input and Output always have a price, which may be 0 for a model that costs nothing; an unknown price is an error
// and never 0.
type Price struct {
	// ID names the row; a call keeps it. 0 is no row, and Cost refuses it.
	ID              int64
	Provider, Model string
	// TierAbove: the row holds for prompts of more than so many tokens, cached ones included, and then for all tokens of the call. 0 is
	// the base.
	TierAbove int64
	// EffectiveFrom is inclusive, EffectiveTo exclusive; the zero time is no end.
	EffectiveFrom, EffectiveTo time.Time

	Input, CacheRead, CacheWrite5m, CacheWrite1h, Output int64
}

// ErrUnpriced is returned, wrapped, where tokens were used for which there is no price.
var ErrUnpriced = errors.New("no price")

// ErrCostOverflow is returned, wrapped, where a cost passes 9.2 million USD, the most a ledger entry can hold.
var ErrCostOverflow = errors.New("cost overflows")

// Cost is the exact cost of u at p, in pico-USD. Reasoning costs as output.
func Cost(p Price, u Usage) (pico int64, err error) {
	if p.ID == 0 {
		return 0, fmt.Errorf("cost of a call: %w row", ErrUnpriced)
	}
	p = p.filled()
	buckets := []struct {
		name          string
		tokens, price int64
	}{
		{"uncached input", u.InputUncached, p.Input},
		{"cache read", u.InputCacheRead, p.CacheRead},
		{"5-minute cache write", u.InputCacheWrite5m, p.CacheWrite5m},
		{"1-hour cache write", u.InputCacheWrite1h, p.CacheWrite1h},
		{"output", u.OutputVisible, p.Output},
		{"reasoning output", u.OutputReasoning, p.Output},
	}
	for _, b := range buckets {
		switch {
		case b.tokens == 0:
			continue
		case b.tokens < 0:
			return 0, fmt.Errorf("cost of a call to %s/%s: %s is %d tokens, expected 0 or more", p.Provider, p.Model, b.name, b.tokens)
		case b.price < 0:
			return 0, fmt.Errorf("cost of a call to %s/%s: %w for %s in price %d", p.Provider, p.Model, ErrUnpriced, b.name, p.ID)
		}
		product, ok := times(b.tokens, b.price)
		if !ok || pico > math.MaxInt64-product {
			return 0, fmt.Errorf("cost of a call to %s/%s: %w at %s", p.Provider, p.Model, ErrCostOverflow, b.name)
		}
		pico += product
	}
	return pico, nil
}

// filled puts the documented stand-ins where a cache price is missing.
func (p Price) filled() Price {
	if p.CacheRead < 0 {
		p.CacheRead = p.Input
	}
	if p.CacheWrite5m < 0 {
		p.CacheWrite5m = p.Input
	}
	if p.CacheWrite1h < 0 {
		p.CacheWrite1h = p.CacheWrite5m
	}
	return p
}

// WorstCase is the most that a call can cost at p, in pico-USD: all input at the dearest rate that can befall it unasked (OpenAI writes
// caches on its own; 1-hour writes only happen on request, and we never ask), all output used. It saturates instead of overflowing,
// and a missing price is math.MaxInt64 too: no budget admits it. Take p from PickTier with the same inputTokensUpperBound.
func WorstCase(p Price, inputTokensUpperBound, maxOutput int64) int64 {
	p = p.filled()
	rate := max(p.Input, p.CacheRead, p.CacheWrite5m)
	if p.ID == 0 || p.Input < 0 || p.Output < 0 || inputTokensUpperBound < 0 || maxOutput < 0 {
		return math.MaxInt64
	}
	in, ok := times(inputTokensUpperBound, rate)
	out, alsoOK := times(maxOutput, p.Output)
	if !ok || !alsoOK || in > math.MaxInt64-out {
		return math.MaxInt64
	}
	return in + out
}

// times multiplies two numbers that are not negative; ok is false on overflow.
func times(a, b int64) (product int64, ok bool) {
	high, low := bits.Mul64(uint64(a), uint64(b))
	return int64(low), high == 0 && low <= math.MaxInt64
}

// PickTier chooses among the rows of one model that are in force at one time: the one with the highest TierAbove below inputTokens.
func PickTier(prices []Price, inputTokens int64) (Price, error) {
	best := -1
	for i, p := range prices {
		if (p.TierAbove == 0 || inputTokens > p.TierAbove) && (best < 0 || p.TierAbove > prices[best].TierAbove) {
			best = i
		}
	}
	if best < 0 {
		return Price{}, fmt.Errorf("%w for a prompt of %d tokens", ErrUnpriced, inputTokens)
	}
	return prices[best], nil
}

var datedName = regexp.MustCompile(`^(.+)[-@](?:\d{8}|\d{4}-\d{2}-\d{2})$`)

// PriceNames is the names under which to look for the price of a model, in order of trial: as it is, then without "-latest", then
// without a trailing date ("-20250929", "@20250929" or "-2025-08-07"), since providers answer with dated names what is priced by
// family.
func PriceNames(model string) []string {
	names := []string{model}
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	undated := model
	if m := datedName.FindStringSubmatch(model); m != nil {
		undated = m[1]
	}
	add(strings.TrimSuffix(model, "-latest"))
	add(undated)
	return names
}

// estimateOverhead is for the roles and separators around a prompt, and the instructions that structured output adds.
const estimateOverhead = 200

// EstimateTokens guesses high how many tokens a text is, without the provider's tokenizer. ASCII letters and spaces count a third of a
// token (English has 4 to 5 letters a token), other ASCII (digits, JSON's punctuation) a half, every byte beyond ASCII two thirds (a
// Chinese character, 3 bytes, counts 2), and 200 tokens come on top for what the provider wraps around it. It is not a proof: random
// letters can pass it. Give it all that is sent, the schema included.
func EstimateTokens(text string) int64 {
	var count tokenCount
	count.add(text)
	return count.tokens() + estimateOverhead
}

// A tokenCount collects the bytes of texts by what they count.
type tokenCount struct{ letters, others, beyond int64 }

func (c *tokenCount) add(text string) {
	for i := range len(text) {
		switch b := text[i]; {
		case b >= 0x80:
			c.beyond++
		case b == ' ' || b|0x20 >= 'a' && b|0x20 <= 'z':
			c.letters++
		default:
			c.others++
		}
	}
}

func (c *tokenCount) tokens() int64 { return (c.letters+2)/3 + (c.others+1)/2 + (2*c.beyond+2)/3 }
