package tenants_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/tenants"
)

func TestRoleMay(t *testing.T) {
	t.Parallel()
	needed := []tenants.Role{tenants.Viewer, tenants.Editor, tenants.Admin, "", "owner", "Viewer"}
	for role, may := range map[tenants.Role][]bool{
		tenants.Viewer: {true, false, false, false, false, false},
		tenants.Editor: {true, true, false, false, false, false},
		tenants.Admin:  {true, true, true, false, false, false},
		"":             {false, false, false, false, false, false},
		"owner":        {false, false, false, false, false, false},
		"Viewer":       {false, false, false, false, false, false},
	} {
		for i, want := range may {
			require.Equal(t, want, role.May(needed[i]), "%q where %q is needed", role, needed[i])
		}
		require.Equal(t, may[0], role.Valid(), "%q", role)
	}
}

func TestAPrincipalOfNobodyMayNothing(t *testing.T) {
	t.Parallel()
	var nobody tenants.Principal
	require.False(t, nobody.Operator)
	require.False(t, nobody.Role.May(tenants.Viewer))
	require.Zero(t, nobody.TenantID)
}

func TestParseTimeZone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"} {
		zone, ok := tenants.ParseTimeZone(name)
		require.True(t, ok, name)
		require.Equal(t, name, zone.String())
	}
	berlin, _ := tenants.ParseTimeZone("Europe/Berlin")
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	require.Equal(t, 14, noon.In(berlin).Hour(), "summer time is in it")
	for _, name := range []string{"", "Local", "Europe/Nowhere", "../../etc/localtime", "/etc/localtime", "UTC ", "+02:00", "Europe/Berlin\x00", `Europe\Berlin`} {
		zone, ok := tenants.ParseTimeZone(name)
		require.False(t, ok, name)
		require.Nil(t, zone, name)
	}
}
