package tenants_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/tenants"
)

func newKey(t *testing.T, operator bool) string {
	t.Helper()
	key, err := tenants.NewKey(operator)
	require.NoError(t, err)
	return key.Reveal()
}

func TestNewKeyIsOneThatParseKeyTakes(t *testing.T) {
	t.Parallel()
	for prefix, operator := range map[string]bool{"slc_": false, "slo_": true} {
		seen := map[string]bool{}
		for range 100 {
			key := newKey(t, operator)
			require.Regexp(t, `^`+prefix+`[0-9A-Za-z]{36}$`, key)
			require.False(t, seen[key])
			seen[key] = true
			gotOperator, ok := tenants.ParseKey(key)
			require.True(t, ok)
			require.Equal(t, operator, gotOperator)
		}
	}
}

func TestParseKeyKnowsAKeyWithoutMakingIt(t *testing.T) {
	t.Parallel()
	// CRC-32 (IEEE) of the first 34 characters, in base62: worked out by another program.
	operator, ok := tenants.ParseKey("slc_0123456789ABCDEFGHIJKLMNOPQRST0KWBh7")
	require.True(t, ok)
	require.False(t, operator)
	operator, ok = tenants.ParseKey("slo_0123456789ABCDEFGHIJKLMNOPQRST2LxBoZ")
	require.True(t, ok)
	require.True(t, operator)
}

func TestParseKeyRefusesEveryTypo(t *testing.T) {
	t.Parallel()
	key := newKey(t, false)
	for i := range key {
		other := byte('a')
		if key[i] == other {
			other = 'b'
		}
		_, ok := tenants.ParseKey(key[:i] + string(other) + key[i+1:])
		require.False(t, ok, "character %d", i)
		if i > 0 && key[i] != key[i-1] {
			_, ok = tenants.ParseKey(key[:i-1] + key[i:i+1] + key[i-1:i] + key[i+1:])
			require.False(t, ok, "characters %d and %d changed places", i-1, i)
		}
	}
}

func TestParseKeyRefusesOtherShapes(t *testing.T) {
	t.Parallel()
	key, operators := newKey(t, false), newKey(t, true)
	for name, text := range map[string]string{
		"another prefix":             "slx_" + key[4:],
		"empty":                      "",
		"no prefix":                  key[4:],
		"a prefix alone":             "slc_",
		"a space after":              key + " ",
		"a space before":             " " + key,
		"longer":                     key + "0",
		"shorter":                    key[:len(key)-1],
		"tenant's made operator's":   "slo_" + key[4:],
		"operator's made a tenant's": "slc_" + operators[4:],
		"prefix in upper case":       "SLC_" + key[4:],
		"very long":                  key + strings.Repeat("0", 1<<16),
	} {
		operator, ok := tenants.ParseKey(text)
		require.False(t, ok, name)
		if text != "slo_"+key[4:] {
			require.False(t, operator, name)
		}
	}
}

func TestHashKeyIsSHA256(t *testing.T) {
	t.Parallel()
	key := newKey(t, false)
	sum := sha256.Sum256([]byte(key))
	require.Equal(t, sum[:], tenants.HashKey(key))
	require.NotEqual(t, tenants.HashKey(key), tenants.HashKey(newKey(t, false)))
}

func TestNewTokenIsBase62AndNeverTheSame(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		token, err := tenants.NewToken()
		require.NoError(t, err)
		require.Regexp(t, `^[0-9A-Za-z]{32}$`, token)
		require.False(t, seen[token])
		seen[token] = true
	}
}
