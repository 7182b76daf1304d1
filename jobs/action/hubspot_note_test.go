package action_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

func TestHubSpotNote_Target(t *testing.T) {
	t.Parallel()
	targets(t, `{"kind": "hubspot_note", "credential_id": "crd_1", "body": "{{ output.reply }}"}`, map[string]string{
		`{"subscriptionType": "contact.creation", "objectId": 149502117801}`:                      "contact 149502117801",
		`{"subscriptionType": "deal.propertyChange", "objectId": 33, "propertyValue": "contact"}`: "deal 33",
		`{"subscriptionType": "ticket.creation", "objectId": 34}`:                                 "ticket 34",
		`{"subscriptionType": "company.deletion", "objectId": 35}`:                                "company 35",
		`{"subscriptionType": "object.creation", "objectTypeId": "0-3", "objectId": 36}`:          "deal 36",
		`{"subscriptionType": "object.creation", "objectTypeId": "2-7654", "objectId": 36}`:       "",
		`{"subscriptionType": "product.creation", "objectId": 37}`:                                "",
		`{"subscriptionType": "conversation.creation", "objectId": 38}`:                           "",
		`{"subscriptionType": "contact.associationChange", "fromObjectId": 39}`:                   "",
		`{"subscriptionType": "contact.creation", "objectId": "1/2"}`:                             "",
	})
	faulty(t, "hubspot_note", "object", "0", "1/2", "a")
	faulty(t, "hubspot_note", "object_type", "contacts", "0-4", "Contact", "../x")
}

func TestHubSpotNote_IsLookedForAmongAllNotesOfItsRecord(t *testing.T) {
	t.Parallel()
	s := patient(t, "hubspot_note")
	const others = 620 // more than a page names, and many more than are read at once
	for i := range others {
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, fmt.Sprintf("msg_%d", i), plain))
		require.NoError(t, err)
	}
	send := s.send(t, s.Case.Sample, keyOne, plain)
	finder, _ := s.c.(action.Finder)
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found)
	receipt, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	found, err = finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.NotNil(t, found)
	require.Equal(t, receipt.ID, found.ID)
}

func TestHubSpotNote_LookupThatIsCutOff(t *testing.T) {
	t.Parallel()
	s := patient(t, "hubspot_note")
	send := s.send(t, s.Case.Sample, keyOne, plain)
	finder, _ := s.c.(action.Finder)
	_, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)

	s.Script(
		scripted.VendorStep{Reads: true, Status: 200, Body: `{"results": [{"toObjectId": 1001}]}`},
		scripted.VendorStep{Reads: true, Status: 207, Body: `{"status": "COMPLETE", "results": [], "numErrors": 1}`},
	)
	found, err := finder.Find(t.Context(), send)
	require.Nil(t, found)
	require.Equal(t, action.CodeLookup, failure(t, err).Code, "a note that is not shown may be ours")

	endless := s.send(t, s.Case.Sample, keyTwo, plain)
	endless.Base = answering(t, 200, nil, `{"results": [], "paging": {"next": {"after": "1"}}}`)
	found, err = finder.Find(t.Context(), endless)
	require.Nil(t, found)
	require.Equal(t, action.Refused, failure(t, err).Kind)
}

func TestHubSpotNote_MarkSurvivesAnEditor(t *testing.T) {
	t.Parallel()
	s := patient(t, "hubspot_note")
	send := s.send(t, s.Case.Sample, keyOne, plain)
	finder, _ := s.c.(action.Finder)
	for _, body := range []string{
		`<div style=\"\" dir=\"auto\"><p>Thank you</p>\n<p>[sluice:` + keyOne + `]</p></div>`,
		`Thank you [sluice:` + keyOne + `]&nbsp;<br>`, `[sluice:` + keyOne + `]`,
	} {
		s.Script(
			scripted.VendorStep{Reads: true, Status: 200, Body: `{"results": [{"toObjectId": "7"}]}`},
			scripted.VendorStep{Reads: true, Status: 200, Body: `{"results": [{"id": "7", "properties": {"hs_note_body": "` + body + `", "hs_object_id": null}}]}`},
		)
		found, err := finder.Find(t.Context(), send)
		require.NoError(t, err, body)
		require.NotNil(t, found)
		require.Equal(t, "7", found.ID)
	}
}

func TestHubSpotAccount(t *testing.T) {
	t.Parallel()
	s := patient(t, "hubspot_note")
	account, _ := action.New(devDoor()).Account("hubspot")
	id, err := account.Test(t.Context(), action.Access{Secret: token, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Equal(t, action.Identity{Actor: "54321"}, id, "as sourceId of the events that it causes")
	s.Script(scripted.VendorStep{Status: 404}) // an OAuth token is no private app's
	id, err = account.Test(t.Context(), action.Access{Secret: token, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Empty(t, id.Actor)
	require.NotEmpty(t, id.Note)
}
