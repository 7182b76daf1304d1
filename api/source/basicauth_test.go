package source_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestBasicNeedsUserAndPassword(t *testing.T) {
	t.Parallel()
	s := get(t, "pipedrive")
	const secret = "crm:correct horse: battery"
	plain := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, c := range []struct{ title, value, reason string }{
		{"Right", "Basic " + plain(secret), ""},
		{"SchemeInAnotherCase", "bAsIc " + plain(secret), ""},
		{"OtherUser", "Basic " + plain("CRM:correct horse: battery"), source.ReasonSignatureMismatch},
		{"OtherPassword", "Basic " + plain("crm:correct horse: batterx"), source.ReasonSignatureMismatch},
		{"ColonElsewhere", "Basic " + plain("crm:correct: horse battery"), source.ReasonSignatureMismatch},
		{"PasswordCut", "Basic " + plain("crm:correct horse: batter"), source.ReasonSignatureMismatch},
		{"PasswordOnly", "Basic " + plain(":correct horse: battery"), source.ReasonSignatureMismatch},
		{"UserOnly", "Basic " + plain("crm:"), source.ReasonSignatureMismatch},
		{"Nothing", "Basic " + plain(":"), source.ReasonSignatureMismatch},
		{"NoColon", "Basic " + plain("crm"), source.ReasonSignatureMalformed},
		{"NoCredentials", "Basic", source.ReasonSignatureMalformed},
		{"EmptyCredentials", "Basic ", source.ReasonSignatureMalformed},
		{"OtherScheme", "Bearer " + plain(secret), source.ReasonSignatureMalformed},
		{"NotEncoded", "Basic " + secret, source.ReasonSignatureMalformed},
		{"TwoSpaces", "Basic  " + plain(secret), source.ReasonSignatureMalformed},
		{"AndMore", "Basic " + plain(secret) + ", Bearer x", source.ReasonSignatureMalformed},
		{"LooseEncoding", "Basic " + strings.TrimRight(plain(secret), "="), source.ReasonSignatureMalformed},
		{"Absent", "", source.ReasonSignatureMissing},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			matched, err := s.Verify(source.Request{Header: headers("Authorization", c.value), ReceivedAt: noon}, []string{"crm", "other:password", secret}, nil)
			if c.reason != "" {
				requireReason(t, err, c.reason)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 2, matched)
		})
	}
}

// A stored secret without a colon is no user and password, whatever a sender writes.
func TestBasicSecretWithoutColonMatchesNothing(t *testing.T) {
	t.Parallel()
	for value, reason := range map[string]string{
		"Y3Jt": source.ReasonSignatureMalformed, "OmNybQ==": source.ReasonSecretMissing, "Y3JtOg==": source.ReasonSecretMissing, // crm, :crm and crm:
	} {
		_, err := get(t, "pipedrive").Verify(source.Request{Header: headers("Authorization", "Basic "+value)}, []string{"crm"}, nil)
		requireReason(t, err, reason)
	}
}

func TestBasicSecretIsChecked(t *testing.T) {
	t.Parallel()
	s := get(t, "pipedrive")
	made, err := s.NewSecret()
	require.NoError(t, err)
	for secret, good := range map[string]bool{
		made: true, "crm:password": true, "crm:pass:word": true, "crm:short": false, "password": false, ":password": false, "crm:": false,
		"averylonguser:short": false, "crm:pass\nword": false,
	} {
		require.Equal(t, good, s.CheckSecret(secret, nil) == nil, secret)
	}
	require.Error(t, s.CheckSecret("crm:password"+" ", nil))
}
