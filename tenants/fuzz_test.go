package tenants_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/tenants"
)

// FuzzIDs: an id has one spelling, and no text is the id of two kinds.
func FuzzIDs(f *testing.F) {
	for _, text := range []string{
		"", "run_", "run_0198", "run_01980000000070008000000000000000", "RUN_01980000000070008000000000000000", "run_0198000000007000800000000000000G", "run_0198000000007000800000000000000A", "run__1980000000070008000000000000000",
		"run_01980000-0000-7000-8000-000000000000", "run_01980000000070008000000000000000\x00", "evt_\xff", "run_Ａ1980000000070008000000000000", strings.Repeat("run_", 1000),
	} {
		f.Add("run", text)
		f.Add("", text)
	}
	f.Fuzz(func(t *testing.T, prefix, text string) {
		id, ok := tenants.ParseID(prefix, text)
		if !ok {
			require.Zero(t, id)
			return
		}
		require.Equal(t, text, tenants.FormatID(prefix, id), "one spelling")
	})
}

// FuzzKeys: what is taken for a key is long enough to be one, and one character more, less or other is not taken.
func FuzzKeys(f *testing.F) {
	for _, operator := range []bool{false, true} {
		key, err := tenants.NewKey(operator)
		require.NoError(f, err)
		f.Add(key.Reveal())
		f.Add(strings.Replace(key.Reveal(), "sl", "SL", 1))
		f.Add(key.Reveal() + "\x00")
	}
	for _, text := range []string{"", "slc_", "slo_", "slc_" + strings.Repeat("0", 36), "slo_" + strings.Repeat("\xff", 36), strings.Repeat("slc_", 9) + "slc_"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		operator, ok := tenants.ParseKey(text)
		if !ok {
			require.False(t, operator && !strings.HasPrefix(text, "slo_"))
			return
		}
		require.Len(t, text, 40)
		require.Equal(t, strings.HasPrefix(text, "slo_"), operator)
		for _, other := range []string{text + "0", text[:39], text[:10] + string(text[10]^1) + text[11:]} {
			_, taken := tenants.ParseKey(other)
			require.False(t, taken, other)
		}
		require.Len(t, tenants.HashKey(text), 32)
	})
}
