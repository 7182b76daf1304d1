package source_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/api/source"
)

// A source that delivers one event again signs it anew, at another time. It must be the same event by every name, for what
// an id is compared with is stored, and what is stored is not told twice.
func TestRetryNamesTheSameEvents(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s subject, sample source.Sample) {
		rapid.Check(t, func(rt *rapid.T) {
			id := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9_-]{0,40}`).Draw(rt, "id")
			happened := noon.Add(time.Duration(rapid.Int64Range(-1e9, 1e9).Draw(rt, "happened")) * time.Second)
			body := sample.Body(id, happened)
			first := s.at(t, sample, body, id, happened.Add(time.Second))
			longest := int64(30 * 24 * 3600)
			if s.published {
				longest = int64(s.Window(s.settings).Past/time.Second) - 1
			}
			wait := time.Duration(rapid.Int64Range(1, longest).Draw(rt, "wait")) * time.Second
			again := s.at(t, sample, body, id, happened.Add(time.Second+wait))
			require.Equal(t, first, again)
		})
	})
}

// at signs a body at a time, has it verified, and gives the names of the events in it.
func (s subject) at(t *testing.T, sample source.Sample, body []byte, id string, signed time.Time) []source.Event {
	t.Helper()
	key := s.keys[0]
	made, err := s.Sign(source.SignInput{
		Method: "POST", URL: publicURL, Header: sample.Header, Body: body, Secret: key.Sign, ID: id, At: signed, Settings: s.settings,
	})
	require.NoError(t, err)
	r := source.Request{
		Method: "POST", URL: publicURL, Header: made.Header, Body: made.Body, ReceivedAt: signed, Certificate: key.Certificate, Roots: key.Roots,
	}
	if s.proxied != nil {
		r.Proxy = s.proxied(key.Verify)
	}
	_, err = s.Verify(r, s.secrets(), s.settings)
	require.NoError(t, err)
	events, err := s.Events(r, s.settings)
	require.NoError(t, err)
	return named(events)
}

// kin are the sources that share one proof to the byte, so that one secret given to both makes the deliveries of one hold at
// the other. It is a property of the schemes; to have them listed shows one that comes to share a proof by mistake.
var kin = []string{
	"basic and pipedrive",
	"basic and servicenow",
	"bearer and servicenow",
	"bitbucket and jira",
	"gitlab and standard",
	"hmac and servicenow",
	"mtls_header and salesforce",
	"pipedrive and servicenow",
}

// No source accepts what another has signed: not with secrets of its own, and, the kin apart, not even with the same secret.
func TestNoSourceAcceptsWhatAnotherSigned(t *testing.T) {
	t.Parallel()
	all := subjects(t)
	accepted := map[string]string{}
	for _, signer := range all {
		for _, sample := range signer.Samples {
			r := signer.deliver(t, sample, "evt_0001", signer.keys[0])
			for _, other := range all {
				if other.Name == signer.Name {
					continue
				}
				secret := signer.keys[0].Verify
				own := slices.DeleteFunc(other.secrets(), func(s string) bool { return s == secret })
				_, err := other.Verify(r, own, other.settings)
				require.Error(t, err, "%s signed %s and %s took it", signer.title, sample.Type, other.title)
				if other.SecretFrom == source.SecretNone || other.CheckSecret(secret, other.settings) != nil {
					continue
				}
				if _, err = other.Verify(r, []string{secret}, other.settings); err == nil {
					pair := []string{signer.Name, other.Name}
					slices.Sort(pair)
					accepted[strings.Join(pair, " and ")] = signer.title + " signed " + sample.Type + " and " + other.title + " took it"
				}
			}
		}
	}
	require.Equal(t, kin, slices.Sorted(maps.Keys(accepted)), "%v", accepted)
}
