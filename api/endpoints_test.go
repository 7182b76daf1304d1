package api_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
	"sluice/api/source/sourcetest"
)

func TestEveryKindOfSourceCanBeConnectedAndTried(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	for _, s := range source.All() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			connection := sourcetest.Connect(t, s)
			body := map[string]any{"name": "in", "source": s.Name}
			if connection.Settings != nil {
				body["settings"] = connection.Settings
			}
			made := b.call(of.editor, "POST", "/v1/endpoints", body).is(201)
			path := "/v1/endpoints/" + made.text("id")
			require.Contains(t, made.text("setup"), made.text("url"))
			switch {
			case s.SecretFrom == source.SecretNone:
				require.Empty(t, made.text("secret"))
				b.call(of.editor, "POST", path+"/secrets", map[string]any{}).refused(409, "secret.none")
			case made.text("secret") == "":
				require.Equal(t, source.SecretFromSource, s.SecretFrom)
				require.Contains(t, b.call(of.editor, "POST", path+"/secrets", map[string]any{}).refused(422, "input.invalid").faults(), "body.secret")
				if s.Trial == nil {
					b.call(of.editor, "POST", path+"/test", nil).refused(409, "secret.missing")
				}
				given := b.call(of.editor, "POST", path+"/secrets", map[string]any{"secret": connection.Secret}).is(201)
				require.Empty(t, given.text("secret"))
			default:
				require.NotContains(t, made.text("setup"), made.text("secret"))
			}
			accepted := 200
			if s.Accepted != nil {
				accepted = s.Accepted.Status
			}
			for _, sample := range s.Samples {
				tried := b.call(of.editor, "POST", path+"/test", map[string]any{"sample": sample.Type}).is(200)
				require.InDelta(t, accepted, tried.get("status"), 0, "%s", tried.body)
				event := b.call(of.viewer, "GET", "/v1/events/"+tried.text("event_id"), nil).is(200)
				require.Equal(t, true, event.get("test"))
				require.Equal(t, s.Name, event.text("source"))
			}
			require.Contains(t, b.call(of.editor, "POST", path+"/test", map[string]any{"sample": "odd"}).refused(422, "input.invalid").faults(), "body.sample")
		})
	}
}

func TestSecretsRotate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	path := "/v1/endpoints/" + b.endpoint(of).text("id")
	ends := func(h heard, i int) any { return h.get("secrets").([]any)[i].(map[string]any)["expires_at"] }
	next := b.call(of.editor, "POST", path+"/secrets", map[string]any{"overlap": "2h"}).is(201)
	require.Regexp(t, `^whsec_`, next.text("secret"))
	require.Len(t, next.get("secrets"), 2)
	require.Nil(t, ends(next, 0))
	at, err := time.Parse(time.RFC3339, ends(next, 1).(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(2*time.Hour), at, time.Minute)
	inSeconds := b.call(of.editor, "POST", path+"/secrets", map[string]any{"overlap": 3600}).is(201)
	require.Len(t, inSeconds.get("secrets"), 3)
	for range 2 {
		b.call(of.editor, "POST", path+"/secrets", map[string]any{}).is(201)
	}
	b.call(of.editor, "POST", path+"/secrets", map[string]any{}).refused(409, "secret.too_many")
	require.Len(t, b.call(of.editor, "POST", path+"/secrets", map[string]any{"overlap": "0s"}).is(201).get("secrets"), 1)
	require.Len(t, b.call(of.viewer, "GET", "/v1/endpoints", nil).is(200).rows()[0]["secrets"], 1)
	for _, bad := range []any{"1 day", "721h", "-1s", -1, 1e300, true, []int{1}} {
		require.Contains(t, b.call(of.editor, "POST", path+"/secrets", map[string]any{"overlap": bad}).refused(422, "input.invalid").faults(), "body.overlap")
	}
	require.Contains(t, b.call(of.editor, "POST", path+"/secrets", map[string]any{"secret": "short"}).refused(422, "input.invalid").faults(), "body.secret")
}

func TestEndpointsChange(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	made := b.call(of.editor, "POST", "/v1/endpoints", map[string]any{
		"name": "in", "source": "hmac", "secret": "not-hex-but-long-enough", "settings": map[string]any{"signature_header": "X-Sig"},
	}).is(201)
	path := "/v1/endpoints/" + made.text("id")
	settings := func(encoding string) map[string]any {
		return map[string]any{"settings": map[string]any{"signature_header": "X-Other", "secret_encoding": encoding}}
	}
	require.Contains(t, b.call(of.editor, "PATCH", path, settings("hex")).refused(422, "input.invalid").faults(), "body.settings")
	require.Equal(t, "X-Other", b.call(of.editor, "PATCH", path, settings("raw")).is(200).text("settings.signature_header"))
	require.Equal(t, false, b.call(of.editor, "PATCH", path, map[string]any{"enabled": false}).is(200).get("enabled"))
	require.InDelta(t, 404, b.call(of.editor, "POST", path+"/test", nil).is(200).get("status"), 0)
	automation := b.automation(of, made.text("id")).text("id")
	b.call(of.editor, "DELETE", path, nil).is(204)
	b.call(of.viewer, "GET", path, nil).refused(404, "not_found")
	b.call(of.viewer, "GET", "/v1/automations/"+automation, nil).refused(404, "not_found")
	b.call(of.editor, "DELETE", path, nil).refused(404, "not_found")
}
