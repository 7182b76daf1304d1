package scripted_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// Help desks refuse what the services themselves would refuse, so that a connector that sends it is found out.
func TestVendors_HelpDesksAreStrict(t *testing.T) {
	t.Parallel()
	bearer := map[string]string{"Authorization": "Bearer secret"}
	zendesk := scripted.NewZendesk("secret", time.Now, "7")
	intercom := scripted.NewIntercom("secret", time.Now, "7")
	hubspot := scripted.NewHubSpot("secret", time.Now, "0-1/7")
	pagerduty := scripted.NewPagerDuty("bot@acme.example:secret", time.Now, "PGR0VU2")
	const note = `{"properties": {"hs_timestamp": "2026-03-04T05:06:07.000Z", "hs_note_body": "x"}, "associations":
		[{"to": {"id": "7"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 202}]}]}`
	pager := func(changed ...string) map[string]string {
		h := map[string]string{"Authorization": "Token token=secret", "Accept": "application/vnd.pagerduty+json;version=2", "From": "bot@acme.example"}
		for i := 0; i < len(changed); i += 2 {
			h[changed[i]] = changed[i+1]
		}
		return h
	}
	for name, c := range map[string]struct {
		v            *scripted.Vendor
		method, path string
		header       map[string]string
		body         string
		status       int
	}{
		"zendesk, good":             {zendesk, "PUT", "/api/v2/tickets/7", bearer, `{"ticket": {"comment": {"body": "x"}}}`, 200},
		"zendesk, a bare token":     {zendesk, "PUT", "/api/v2/tickets/7", map[string]string{"Authorization": "secret"}, `{"ticket": {"comment": {"body": "x"}}}`, 401},
		"zendesk, unknown ticket":   {zendesk, "PUT", "/api/v2/tickets/8", bearer, `{"ticket": {"comment": {"body": "x"}}}`, 404},
		"zendesk, empty":            {zendesk, "PUT", "/api/v2/tickets/7", bearer, `{"ticket": {"comment": {"body": ""}}}`, 422},
		"zendesk, no ticket":        {zendesk, "PUT", "/api/v2/tickets/7", bearer, `{"comment": {"body": "x"}}`, 400},
		"zendesk, too long":         {zendesk, "PUT", "/api/v2/tickets/7", bearer, `{"ticket": {"comment": {"body": "` + strings.Repeat("x", 65537) + `"}}}`, 422},
		"zendesk, much metadata":    {zendesk, "PUT", "/api/v2/tickets/7", bearer, `{"ticket": {"comment": {"body": "x"}, "metadata": {"a": "` + strings.Repeat("x", 1024) + `"}}}`, 422},
		"zendesk, large page":       {zendesk, "GET", "/api/v2/tickets/7/audits?page%5Bsize%5D=101", bearer, ``, 400},
		"intercom, good":            {intercom, "POST", "/conversations/7/reply", bearer, `{"type": "admin", "message_type": "note", "admin_id": "991267459", "body": "x"}`, 200},
		"intercom, another admin":   {intercom, "POST", "/conversations/7/reply", bearer, `{"type": "admin", "message_type": "note", "admin_id": "1", "body": "x"}`, 403},
		"intercom, another kind":    {intercom, "POST", "/conversations/7/reply", bearer, `{"type": "admin", "message_type": "x", "admin_id": "991267459", "body": "x"}`, 400},
		"intercom, unknown":         {intercom, "POST", "/conversations/8/reply", bearer, `{"type": "admin", "message_type": "note", "admin_id": "991267459", "body": "x"}`, 404},
		"hubspot, good":             {hubspot, "POST", "/crm/v3/objects/notes", bearer, note, 201},
		"hubspot, no time":          {hubspot, "POST", "/crm/v3/objects/notes", bearer, strings.Replace(note, "hs_timestamp", "hubspot_owner_id", 1), 400},
		"hubspot, read only":        {hubspot, "POST", "/crm/v3/objects/notes", bearer, strings.Replace(note, `"hs_note_body"`, `"hs_unique_creation_key"`, 1), 400},
		"hubspot, of another kind":  {hubspot, "POST", "/crm/v3/objects/notes", bearer, strings.Replace(note, ": 202", ": 190", 1), 400},
		"hubspot, unknown record":   {hubspot, "POST", "/crm/v3/objects/notes", bearer, strings.Replace(note, `"id": "7"`, `"id": "8"`, 1), 400},
		"hubspot, unknown note":     {hubspot, "PATCH", "/crm/v3/objects/notes/1", bearer, `{"properties": {"hs_note_body": "y"}}`, 404},
		"hubspot, no properties":    {hubspot, "POST", "/crm/v3/objects/notes/batch/read", bearer, `{"inputs": [{"id": "1"}]}`, 400},
		"hubspot, some not there":   {hubspot, "POST", "/crm/v3/objects/notes/batch/read", bearer, `{"inputs": [{"id": "1"}], "properties": [], "propertiesWithHistory": []}`, 207},
		"pagerduty, good":           {pagerduty, "POST", "/incidents/PGR0VU2/notes", pager(), `{"note": {"content": "x"}}`, 200},
		"pagerduty, bearer":         {pagerduty, "POST", "/incidents/PGR0VU2/notes", pager("Authorization", "Bearer secret"), `{"note": {"content": "x"}}`, 401},
		"pagerduty, nobody":         {pagerduty, "POST", "/incidents/PGR0VU2/notes", pager("From", ""), `{"note": {"content": "x"}}`, 400},
		"pagerduty, old version":    {pagerduty, "POST", "/incidents/PGR0VU2/notes", pager("Accept", "application/json"), `{"note": {"content": "x"}}`, 406},
		"pagerduty, empty":          {pagerduty, "POST", "/incidents/PGR0VU2/notes", pager(), `{"note": {"content": " "}}`, 400},
		"pagerduty, unknown":        {pagerduty, "POST", "/incidents/PGR0VU3/notes", pager(), `{"note": {"content": "x"}}`, 404},
		"pagerduty, not of a user":  {pagerduty, "GET", "/users/me", pager(), ``, 400},
		"pagerduty, no note of its": {pagerduty, "PUT", "/incidents/PGR0VU2/notes/1", pager(), `{"note": {"content": "x"}}`, 404},
	} {
		base, err := c.v.Listen("127.0.0.1:0")
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(t.Context(), c.method, base+c.path, strings.NewReader(c.body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		for header, value := range c.header {
			req.Header.Set(header, value)
		}
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, c.status, res.StatusCode, name)
	}
	for _, v := range []*scripted.Vendor{zendesk, intercom, hubspot, pagerduty} {
		require.Len(t, v.Effects(), 1, "%s keeps what it took, and nothing else", v.Name())
		require.NoError(t, v.Close())
	}
}
