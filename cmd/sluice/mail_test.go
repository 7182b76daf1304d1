package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

func TestMailIsConfigured(t *testing.T) {
	t.Parallel()
	door := outbound.New(outbound.Config{})
	e := complete()
	for _, command := range []string{"work", "dev"} {
		c, faults := configured(t, e, command)
		require.Empty(t, faults)
		mailer, err := mailerOf(c, door)
		require.NoError(t, err)
		require.Nil(t, mailer, "%s without a server", command)
	}
	e["SLUICE_SMTP_URL"] = "smtp://relay:c4n4ry@mail.example.com:587"
	c, faults := configured(t, e, "work")
	require.Empty(t, faults)
	_, err := mailerOf(c, door)
	require.ErrorContains(t, err, "SLUICE_SMTP_FROM")
	e["SLUICE_SMTP_FROM"] = "Sluice <alerts@example.com>"
	c, faults = configured(t, e, "work")
	require.Empty(t, faults)
	mailer, err := mailerOf(c, door)
	require.NoError(t, err)
	require.NotNil(t, mailer)

	e["SLUICE_SMTP_URL"], e["SLUICE_SMTP_FROM"] = "mail://relay:c4n4ry@mail.example.com", "nobody"
	_, faults = configured(t, e, "work")
	require.ElementsMatch(t, []string{
		"--smtp-url (SLUICE_SMTP_URL): expected smtp://user:password@host:587 or smtps://user:password@host:465",
		`--smtp-from (SLUICE_SMTP_FROM): expected an address of e-mail, with or without a name, such as Sluice <alerts@example.com>, got "nobody"`,
	}, faults)
	_, faults = configured(t, e, "serve")
	require.Empty(t, faults, "only who works sends mail")
}
