package source_test

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestCatalogueIsCompleteAndSorted(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range source.All() {
		names = append(names, s.Name)
		require.Regexp(t, regexp.MustCompile(`^[a-z][a-z0-9_]*$`), s.Name)
		require.NotEmpty(t, s.Title, s.Name)
		docs, err := url.Parse(s.Docs)
		require.NoError(t, err)
		require.Equal(t, "https", docs.Scheme, s.Name)
		require.Contains(t, s.Setup, "{url}", s.Name)
		require.NotEmpty(t, s.Signs, s.Name)
		require.NotEmpty(t, s.Retries, s.Name)
		require.Positive(t, s.BodyMax, s.Name)
		require.NotEmpty(t, s.Samples, s.Name)
		require.NotEmpty(t, s.Order, s.Name)
		require.NotNil(t, s.Window, s.Name)
		require.NotNil(t, s.BodySigned, s.Name)
		require.NotNil(t, s.IDSigned, s.Name)
		require.NotNil(t, s.CheckSecret, s.Name)
		require.NotNil(t, s.ParseSettings, s.Name)
		switch s.SecretFrom {
		case source.SecretFromSource, source.SecretNone:
			require.Nil(t, s.NewSecret, s.Name)
			require.NotContains(t, s.Setup, "{secret}", s.Name)
		default:
			require.NotNil(t, s.NewSecret, s.Name)
			require.Contains(t, s.Setup, "{secret}", s.Name)
		}
		types := make([]string, len(s.Samples))
		for i, sample := range s.Samples {
			types[i] = sample.Type
		}
		require.True(t, slices.IsSorted(types), "samples of %s", s.Name)
	}
	require.True(t, slices.IsSorted(names), "%v", names)
	require.Equal(t, names, slices.Compact(slices.Clone(names)))
}

func TestGet(t *testing.T) {
	t.Parallel()
	s, found := source.Get("stripe")
	require.True(t, found)
	require.Equal(t, "Stripe", s.Title)
	_, found = source.Get("Stripe")
	require.False(t, found)
	_, found = source.Get("")
	require.False(t, found)
	source.All()[0].Name = "changed"
	require.NotEqual(t, "changed", source.All()[0].Name)
}

func TestSettingsOfASourceWithoutAny(t *testing.T) {
	t.Parallel()
	all := source.All()
	s := all[slices.IndexFunc(all, func(s source.Source) bool { return len(s.Settings) == 0 })]
	for _, empty := range []string{"", "{}", "null", " {} "} {
		settings, faults := s.ParseSettings(json.RawMessage(empty))
		require.Nil(t, settings)
		require.Empty(t, faults)
	}
	_, faults := s.ParseSettings(json.RawMessage(`{"b":1,"a":2}`))
	require.Len(t, faults, 2)
	require.Equal(t, "a", faults[0].Place)
	_, faults = s.ParseSettings(json.RawMessage(`"text"`))
	require.Len(t, faults, 1)
}

func TestSecretOfAnotherKindIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source, secret string
		good           bool
	}{
		{"stripe", "whsec_abcdefgh", true},
		{"stripe", "sk_live_abcdefghijkl", false},
		{"stripe", "whsec_abc defgh\n", false},
		{"standard", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true},
		{"standard", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true},
		{"standard", "whsec_c2hvcnQ=", false},
		{"standard", "whsec_not base64", false},
		{"standard", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", false},
		{"github", "It's a Secret to Everybody", true},
		{"github", "short", false},
		{"github", "trailing space ", false},
		{"shopify", "shpss-client-secret", true},
	} {
		s, _ := source.Get(c.source)
		require.Equal(t, c.good, s.CheckSecret(c.secret, nil) == nil, "%s %s", c.source, c.secret)
	}
}
