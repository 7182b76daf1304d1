package tenants_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/tenants"
)

var prefixes = []string{
	tenants.ActionPrefix, tenants.AlertPrefix, tenants.AuditPrefix, tenants.AutomationPrefix, tenants.CallPrefix, tenants.ChannelPrefix, tenants.CredentialPrefix, tenants.EndpointPrefix, tenants.EntryPrefix,
	tenants.EventPrefix, tenants.KeyPrefix, tenants.NoticePrefix, tenants.OperatorPrefix, tenants.RaisePrefix, tenants.ReplayPrefix, tenants.RunPrefix, tenants.SecretPrefix, tenants.TenantPrefix,
}

func TestIDRoundTrip(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("019378a1-0c5e-7d2f-8abc-0123456789ab")
	require.Equal(t, "evt_019378a10c5e7d2f8abc0123456789ab", tenants.FormatID(tenants.EventPrefix, id))
	for _, prefix := range prefixes {
		for _, id := range []uuid.UUID{id, {}, uuid.Max, tenants.NewID()} {
			got, ok := tenants.ParseID(prefix, tenants.FormatID(prefix, id))
			require.True(t, ok)
			require.Equal(t, id, got)
		}
	}
}

func TestParseIDTakesOneSpelling(t *testing.T) {
	t.Parallel()
	const digits = "019378a10c5e7d2f8abc0123456789ab"
	for name, text := range map[string]string{
		"another prefix":        "run_" + digits,
		"digits in upper case":  "evt_" + strings.ToUpper(digits),
		"empty":                 "",
		"longer":                "evt_" + digits + "0",
		"longer by a byte":      "evt_" + digits + "00",
		"no digits":             "evt_",
		"no prefix":             digits,
		"no underscore":         "evt" + digits,
		"not hex":               "evt_" + digits[:31] + "g",
		"not ASCII":             "evt_" + digits[:30] + "é",
		"prefix in upper case":  "EVT_" + digits,
		"shorter":               "evt_" + digits[:31],
		"shorter by a byte":     "evt_" + digits[:30],
		"space":                 "evt_" + digits[:31] + " ",
		"twice the prefix":      "evt_evt_" + digits,
		"with hyphens, as uuid": "evt_019378a1-0c5e-7d2f-8abc-0123456789ab",
	} {
		id, ok := tenants.ParseID(tenants.EventPrefix, text)
		require.False(t, ok, name)
		require.Zero(t, id, name)
	}
}

func TestPrefixesAreThreeLettersAndDiffer(t *testing.T) {
	t.Parallel()
	for _, prefix := range prefixes {
		require.Regexp(t, `^[a-z]{3}$`, prefix)
	}
	sorted := slices.Sorted(slices.Values(prefixes))
	require.Len(t, slices.Compact(sorted), len(prefixes))
}

func TestNewIDsSortByTheTimeTheyWereMade(t *testing.T) {
	t.Parallel()
	var made []string
	for range 1000 {
		id := tenants.NewID()
		require.Equal(t, uuid.Version(7), id.Version())
		made = append(made, tenants.FormatID(tenants.RunPrefix, id))
	}
	require.True(t, slices.IsSorted(made))
	require.Len(t, slices.Compact(made), 1000)
}
