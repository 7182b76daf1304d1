package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api"
	"sluice/api/source"
	"sluice/api/source/sourcetest"
	"sluice/db"
)

const created = `{"type":"contact.created","data":{"id":"1"}}`

// send delivers one event of the source standard under an id.
func (d *door) send(id string) answer {
	d.t.Helper()
	return d.knock(d.sign("standard", id, []byte(created), time.Now(), nil), []byte(created))
}

// hold keeps the key of an id in a transaction of its own: whoever stores that id waits until release.
func (d *door) hold(id string) (release func()) {
	d.t.Helper()
	tx, err := d.Owner.Begin(d.t.Context())
	require.NoError(d.t, err)
	_, err = tx.Exec(d.t.Context(), `insert into sluice.event_keys (tenant_id, endpoint_id, kind, key, event_id)
		select tenant_id, id, 'id', $1, gen_random_uuid() from sluice.endpoints`, id)
	require.NoError(d.t, err)
	release = sync.OnceFunc(func() { require.NoError(d.t, tx.Rollback(context.WithoutCancel(d.t.Context()))) })
	d.t.Cleanup(release) // also where the test ends before
	return release
}

// held waits until this many sessions wait for a lock.
func (d *door) held(n int) {
	d.t.Helper()
	require.Eventually(d.t, func() bool {
		return d.count(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == n
	}, 10*time.Second, 5*time.Millisecond)
}

// among sends in the background, and gives the answers when all are there.
func (d *door) among(ids ...string) func() []answer {
	answers := make([]answer, len(ids))
	var group sync.WaitGroup
	for i, id := range ids {
		header := d.sign("standard", id, []byte(created), time.Now(), nil)
		group.Go(func() { answers[i], _ = knock(d.t.Context(), d.address, header, []byte(created)) })
	}
	return func() []answer { group.Wait(); return answers }
}

func one(deps *api.Deps) { deps.IntakeFlushers = 1 }

// What comes while a commit is on its way shares the next one, and everybody is answered for his own event.
func TestIntakeGroupsWhatComesMeanwhile(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret, one)
	require.Equal(t, http.StatusOK, d.send("before").status)
	release := d.hold("first")
	first := d.among("first")
	d.held(1)
	ids := []string{"a", "b", "c", "d", "e", "f", "g", "h", "a"}
	rest := d.among(ids...)
	require.Eventually(t, func() bool { return d.api.IntakeWaiting() == len(ids) }, 10*time.Second, time.Millisecond)
	release()
	require.Equal(t, http.StatusOK, first()[0].status)
	byID, duplicates := map[string]string{}, 0
	for i, a := range rest() {
		require.Equal(t, http.StatusOK, a.status)
		if a.Duplicate {
			duplicates++
		}
		if known, ok := byID[ids[i]]; ok {
			require.Equal(t, known, a.EventID, "one event under one id")
			continue
		}
		byID[ids[i]] = a.EventID
		require.Equal(t, ids[i], d.call(d.key, http.MethodGet, "/v1/events/"+a.EventID, nil).is(http.StatusOK).object()["source_event_id"])
	}
	require.Equal(t, 1, duplicates)
	require.Len(t, byID, 8)
	require.Equal(t, 1, d.count(`select count(distinct xmin::text) from sluice.events where source_event_id in ('a','b','c','d','e','f','g','h')`), "one transaction for all")
	require.Equal(t, 10, d.count(`select count(*) from river.river_job`))
}

// A batch takes no harm from one delivery that cannot be stored.
func TestIntakeIsolatesWhatCannotBeStored(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret, one)
	doomed := *d
	made := d.call(d.key, http.MethodPost, "/v1/endpoints", map[string]any{"name": "doomed", "source": "standard", "secret": standardSecret}).is(http.StatusCreated).object()
	doomed.address = d.url + strings.TrimPrefix(made["url"].(string), publicURL)
	require.Eventually(t, func() bool { // until both are held in memory
		require.Equal(t, http.StatusOK, d.send("warm").status)
		require.Equal(t, http.StatusOK, doomed.send("warm").status)
		return d.api.IntakeHeld() == 2
	}, 10*time.Second, 5*time.Millisecond)
	release := d.hold("first")
	first := d.among("first")
	d.held(1)
	// The endpoint goes without the door being told: its events have nothing to refer to.
	_, err := d.Owner.Exec(t.Context(), `begin; set local session_replication_role = replica; delete from sluice.endpoints where name = 'doomed'; commit`)
	require.NoError(t, err)
	good, bad := d.among("a", "b", "c", "d", "e"), doomed.among("x")
	require.Eventually(t, func() bool { return d.api.IntakeWaiting() == 6 }, 10*time.Second, time.Millisecond)
	release()
	require.Equal(t, http.StatusOK, first()[0].status)
	for _, a := range good() {
		require.Equal(t, http.StatusOK, a.status)
		require.False(t, a.Duplicate)
	}
	require.Equal(t, http.StatusServiceUnavailable, bad()[0].status)
	require.Equal(t, 5, d.count(`select count(*) from sluice.events where source_event_id in ('a','b','c','d','e')`))
}

func TestIntakeSaysThatItIsBusy(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret, one, func(deps *api.Deps) { deps.IntakeQueue = 1 })
	release := d.hold("first")
	first := d.among("first")
	d.held(1)
	second := d.among("second")
	require.Eventually(t, func() bool { return d.api.IntakeWaiting() == 1 }, 10*time.Second, time.Millisecond)
	a := d.send("third")
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Equal(t, "intake.busy", a.Code)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	release()
	require.Equal(t, http.StatusOK, first()[0].status)
	require.Equal(t, http.StatusOK, second()[0].status)
	require.Equal(t, 0, d.count(`select count(*) from sluice.events where source_event_id = 'third'`))
}

// Where commits take so long that a turn would come late, others are told to come again, though there is room: else all would wait for nothing.
func TestIntakeSaysThatItIsBusyWhereWaitsAreLong(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ahead := time.Duration(0)
	d := newDoor(t, "standard", standardSecret, one, func(deps *api.Deps) {
		deps.IntakeBatch = 1
		deps.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	})
	release, releaseNext := d.hold("first"), d.hold("second")
	first := d.among("first")
	d.held(1)
	second := d.among("second")
	require.Eventually(t, func() bool { return d.api.IntakeWaiting() == 1 }, 10*time.Second, time.Millisecond)
	rest := d.among("third", "and", "some", "more", "others")
	require.Eventually(t, func() bool { return d.api.IntakeWaiting() == 6 }, 10*time.Second, time.Millisecond)
	mu.Lock()
	ahead = time.Second
	mu.Unlock()
	release()
	require.Equal(t, http.StatusOK, first()[0].status)
	d.held(1) // the second has its turn, and the others wait
	a := d.send("fourth")
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Equal(t, "intake.busy", a.Code)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	releaseNext()
	second()
	rest() // these may have waited too long on a slow machine
	require.Eventually(t, func() bool { return d.send("fifth").status == http.StatusOK }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, 0, d.count(`select count(*) from sluice.events where source_event_id = 'fourth'`))
}

// Who waits too long is told so within 2 s; what was on its way may be stored all the same, and is a duplicate then.
func TestIntakeWaitsForACommitWithinABound(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret, one)
	release := d.hold("slow")
	begun := time.Now()
	a := d.send("slow")
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Less(t, time.Since(begun), 2*time.Second)
	release()
	require.Eventually(t, func() bool { return d.count(`select count(*) from sluice.events`) == 1 }, 10*time.Second, 10*time.Millisecond)
	a = d.send("slow")
	require.Equal(t, http.StatusOK, a.status)
	require.True(t, a.Duplicate)
	require.Equal(t, 1, d.count(`select count(*) from river.river_job`))
}

// Another process changes an endpoint, a secret, an automation or a tenant: this one is told, and does not go by what it holds.
func TestIntakeIsToldOfChanges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sql  string
		want func(d *door, a answer) bool
	}{
		"Endpoint": {`update sluice.endpoints set enabled = false`, func(_ *door, a answer) bool { return a.status == http.StatusNotFound }},
		"Secret":   {`update sluice.endpoint_secrets set expires_at = now()`, func(_ *door, a answer) bool { return a.status == http.StatusUnauthorized }},
		"Tenant":   {`update sluice.tenants set status = 'erased'`, func(_ *door, a answer) bool { return a.status == http.StatusNotFound }},
		"Automation": {`update sluice.automations set enabled = false`, func(d *door, a answer) bool {
			d.t.Helper()
			return a.status == http.StatusOK && len(d.call(d.key, http.MethodGet, "/v1/runs?event_id="+a.EventID, nil).is(http.StatusOK).rows()) == 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t, "standard", standardSecret)
			d.t = t
			require.Eventually(t, func() bool { return d.send("warm").status == http.StatusOK && d.api.IntakeHeld() == 1 }, 10*time.Second, 5*time.Millisecond)
			_, err := d.Owner.Exec(t.Context(), c.sql)
			require.NoError(t, err)
			n := 0
			require.Eventually(t, func() bool { n++; return c.want(d, d.send("after-"+string(rune('a'+n%26))+time.Now().String())) }, 5*time.Second, time.Millisecond)
		})
	}
}

// While nobody tells of changes, nothing is held: the connection is cut and cannot be made again, and what changes meanwhile counts at once.
func TestIntakeHoldsNothingWhileItIsNotTold(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret)
	config := d.App.Config().ConnConfig
	server := net.JoinHostPort(config.Host, fmt.Sprint(config.Port))
	way := newCutter(t, server, true)
	pool, err := db.Open(t.Context(), db.PoolConfig{URL: strings.Replace(d.URL, server, way.listener.Addr().String(), 1), Role: db.SystemRole, ConnsMax: 1})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	sealer, err := db.NewSealer(d.MasterKey)
	require.NoError(t, err)
	other := newAPI(t, db.New(db.Pools{App: d.App, System: pool, Door: d.Door}, sealer), d.log)
	face := httptest.NewServer(other.Handler())
	t.Cleanup(func() { face.Close(); other.Close(context.Background()) })
	d.address = face.URL + strings.TrimPrefix(d.address, d.url)
	warm := func() bool { return d.send("warm").status == http.StatusOK && other.IntakeHeld() == 1 }
	require.Eventually(t, warm, 10*time.Second, 5*time.Millisecond)

	way.refusing.Store(true)
	_, err = d.Owner.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'sluice endpoints watch'`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(d.log.String(), "changes of endpoints are not told") }, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, http.StatusOK, d.send("one").status)
	_, err = d.Owner.Exec(t.Context(), `update sluice.endpoints set enabled = false`)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, d.send("two").status, "at once")
	_, err = d.Owner.Exec(t.Context(), `update sluice.endpoints set enabled = true`)
	require.NoError(t, err)
	way.refusing.Store(false)
	require.Eventually(t, warm, 10*time.Second, 5*time.Millisecond, "and it begins to hold again")
}

// A secret that has ended proves nothing, though the endpoint is held in memory.
func TestIntakeHoldsSecretsToTheirEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ahead := time.Duration(0)
	d := newDoor(t, "github", "a-secret-of-github", func(deps *api.Deps) {
		deps.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	})
	d.call(d.key, http.MethodPost, "/v1/endpoints/"+d.id+"/secrets", map[string]any{"overlap": "5s"}).is(http.StatusCreated)
	body := []byte(`{"zen":"x"}`)
	header := d.sign("github", "1", body, time.Now(), http.Header{"X-Github-Event": {"ping"}})
	require.Equal(t, http.StatusOK, d.knock(header, body).status)
	mu.Lock()
	ahead = 6 * time.Second
	mu.Unlock()
	require.Equal(t, http.StatusUnauthorized, d.knock(header, body).status)
}

func TestIntakeAnswersTheSourcesOwnQuestions(t *testing.T) {
	t.Parallel()
	t.Run("Slack", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, "slack", "a-signing-secret-of-slack")
		body := []byte(`{"type":"url_verification","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}`)
		header := d.sign("slack", "", body, time.Now(), nil)
		a := d.knock(header, body)
		require.Equal(t, http.StatusOK, a.status)
		require.Equal(t, http.StatusUnauthorized, d.knock(http.Header{}, body).status, "only for who knows the secret")
		require.Zero(t, d.count(`select count(*) from sluice.events`))
	})
	t.Run("MicrosoftGraph", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, "microsoft_graph", "a-client-state-of-graph")
		response, err := http.Post(d.address+"?validationToken="+url.QueryEscape("Validation: <Testing> client"), "text/plain", http.NoBody)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Equal(t, "Validation: <Testing> client", string(text))
		require.Contains(t, response.Header.Get("Content-Type"), "text/plain")
		require.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"))
	})
	t.Run("Head", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, "intercom", "a-client-secret-of-intercom")
		for address, status := range map[string]int{d.address: http.StatusOK, d.url + "/in/" + strings.Repeat("a", 32): http.StatusNotFound} {
			response, err := http.Head(address)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, status, response.StatusCode)
		}
	})
}

// A certificate is fetched once for many deliveries, from where the source allows alone; without it nothing is judged.
func TestIntakeFetchesCertificates(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	var fault error
	d := newDoor(t, "github", "unused-secret", func(deps *api.Deps) {
		deps.Fetch = func(_ context.Context, url string) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, url)
			return []byte("not a certificate"), fault
		}
	})
	sns, _ := source.Get("aws_sns")
	connection := sourcetest.Connect(t, sns)
	made := d.call(d.key, http.MethodPost, "/v1/endpoints", map[string]any{"name": "topic", "source": "aws_sns", "settings": connection.Settings}).is(http.StatusCreated).object()
	address := d.url + strings.TrimPrefix(made["url"].(string), publicURL)
	key, err := sns.Trial()
	require.NoError(t, err)
	raw, err := json.Marshal(connection.Settings)
	require.NoError(t, err)
	settings, faults := sns.ParseSettings(raw)
	require.Empty(t, faults)
	signed, err := sns.Sign(source.SignInput{Method: http.MethodPost, URL: address, Settings: settings, Header: sns.Samples[0].Header, Body: sns.Samples[0].Body("1", time.Now()), Secret: key.Sign, ID: "1", At: time.Now()})
	require.NoError(t, err)
	for range 3 {
		a, err := knock(t.Context(), address, signed.Header, signed.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusUnauthorized, a.status)
	}
	mu.Lock()
	require.Len(t, asked, 1)
	require.True(t, strings.HasPrefix(asked[0], "https://sns."), asked[0])
	certificate := asked[0]
	mu.Unlock()
	a, err := knock(t.Context(), address, signed.Header, []byte(strings.ReplaceAll(string(signed.Body), "amazonaws.com/Simple", "amazonaws.com.evil.example/Simple")))
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, a.status)
	mu.Lock()
	require.Len(t, asked, 1, "nothing is fetched from elsewhere")
	fault = errors.New("no route")
	mu.Unlock()
	other := strings.ReplaceAll(string(signed.Body), certificate, strings.ReplaceAll(certificate, certificate[len(certificate)-6:], "f0.pem"))
	a, err = knock(t.Context(), address, signed.Header, []byte(other))
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Equal(t, "source.unreachable", a.Code)
}

// Many events in one request: one answer for all, and a verdict for each.
func TestIntakeTakesManyEventsOfOneRequest(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "sendgrid", "")
	sendgrid, _ := source.Get("sendgrid")
	key, err := sendgrid.Trial()
	require.NoError(t, err)
	d.call(d.key, http.MethodPost, "/v1/endpoints/"+d.id+"/secrets", map[string]any{"secret": key.Verify}).is(http.StatusCreated)
	deliver := func(body string) []intakeVerdict {
		signed, err := sendgrid.Sign(source.SignInput{Method: http.MethodPost, URL: d.address, Body: []byte(body), Secret: key.Sign, At: time.Now()})
		require.NoError(t, err)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.address, bytes.NewReader(signed.Body))
		require.NoError(t, err)
		request.Header = signed.Header
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode)
		var out struct{ Events []intakeVerdict }
		require.NoError(t, json.NewDecoder(response.Body).Decode(&out))
		return out.Events
	}
	item := func(id string) string {
		return `{"email":"a@example.com","timestamp":1735689600,"event":"bounce","sg_event_id":"` + id + `","sg_message_id":"m.` + id + `"}`
	}
	first := deliver(`[` + item("1") + `,` + item("2") + `]`)
	require.Len(t, first, 2)
	again := deliver(`[` + item("2") + `,` + item("3") + `]`)
	require.Equal(t, first[1].EventID, again[0].EventID)
	require.True(t, again[0].Duplicate)
	require.False(t, again[1].Duplicate)
	payload := d.call(d.key, http.MethodGet, "/v1/events/"+again[1].EventID+"/payload", nil).is(http.StatusOK)
	require.Equal(t, `[`+item("2")+`,`+item("3")+`]`, string(payload.body), "the bytes of the whole delivery")
	require.Equal(t, 3, d.count(`select count(*) from sluice.runs`))
}

type intakeVerdict struct {
	EventID   string `json:"event_id"`
	Duplicate bool   `json:"duplicate"`
}

// A static token in a header of the settings' own is nowhere kept.
func TestIntakeKeepsNoProof(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "github", "unused-secret")
	const token = "canary-of-a-static-token"
	made := d.call(d.key, http.MethodPost, "/v1/endpoints", map[string]any{
		"name": "gate", "source": "bearer", "secret": token, "settings": map[string]any{"header": "X-Gate", "id": "payload.id"},
	}).is(http.StatusCreated).object()
	address := d.url + strings.TrimPrefix(made["url"].(string), publicURL)
	a, err := knock(t.Context(), address, http.Header{"X-Gate": {token}}, []byte(`{"id":"1"}`))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, a.status)
	a, err = knock(t.Context(), address, http.Header{"X-Gate": {token + "-forged"}}, []byte(`{"id":"1"}`))
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, a.status)
	require.Eventually(t, func() bool { return d.count(`select count(*) from sluice.rejections`) == 1 }, 10*time.Second, 10*time.Millisecond)
	var kept string
	require.NoError(t, d.Owner.QueryRow(t.Context(), `select (select string_agg(headers::text, '') from sluice.event_payloads) || (select string_agg(sample::text, '') from sluice.rejections)`).Scan(&kept))
	require.NotContains(t, kept, "canary")
	require.NotContains(t, d.log.String(), "canary")
}

// A raw body that is larger than what passes freely waits for room, and an honest length too large is refused before it is read.
func TestIntakeRefusesALargeBodyUnread(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.address, neverRead{t})
	require.NoError(t, err)
	request.ContentLength = 2 << 20
	request.Header.Set("Expect", "100-continue")
	response, err := (&http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second}}).Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusRequestEntityTooLarge, response.StatusCode)
}

type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) {
	n.t.Error("the body was asked for")
	return 0, io.EOF
}

// What proves the next delivery, or opens the source's own doors, is nowhere kept: neither in the payload nor in the raw body that a viewer reads.
func TestIntakeKeepsNoSecretOfABody(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "github", "unused-secret")
	session := "00D-canary-of-a-session"
	for name, spoil := range map[string]func(body string) string{
		"microsoft_graph": func(body string) string { return body },
		"salesforce": func(body string) string {
			require.Contains(t, body, "<ActionId>")
			return strings.Replace(body, "<ActionId>", "<SessionId>"+session+"</SessionId><ActionId>", 1)
		},
	} {
		s, _ := source.Get(name)
		connection := sourcetest.Connect(t, s)
		body := map[string]any{"name": name, "source": name, "secret": connection.Secret}
		if connection.Settings != nil {
			body["settings"] = connection.Settings
		}
		made := d.call(d.key, http.MethodPost, "/v1/endpoints", body).is(http.StatusCreated).object()
		address := d.url + strings.TrimPrefix(made["url"].(string), publicURL)
		raw, err := json.Marshal(connection.Settings)
		require.NoError(t, err)
		settings, faults := s.ParseSettings(raw)
		require.Empty(t, faults)
		signed, err := s.Sign(source.SignInput{Method: http.MethodPost, URL: address, Settings: settings, Header: s.Samples[0].Header, Body: s.Samples[0].Body("1", time.Now()), Secret: connection.Sign, ID: "1", At: time.Now()})
		require.NoError(t, err)
		if s.ProxyHeader != nil {
			signed.Header.Set(sourcetest.ClientCertHeader, connection.Secret)
		}
		_, _ = knock(t.Context(), address, signed.Header, []byte(spoil(string(signed.Body)))) // these are not answered in JSON
		var kept string
		require.NoError(t, d.Owner.QueryRow(t.Context(), `select convert_from(p.body, 'utf8') || coalesce(convert_from(p.document, 'utf8'), '')
			from sluice.event_payloads p join sluice.events e on e.id = p.event_id where e.source = $1 limit 1`, name).Scan(&kept))
		require.Contains(t, kept, "[secret]", name)
		require.NotContains(t, kept, connection.Secret, name)
		require.NotContains(t, kept, session, name)
	}
}

// TestIntakeLeavesRoomForOthers: a tenant whose large bodies are announced and do not come keeps out its own, and nobody else's.
func TestIntakeLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	const large = 25 << 20
	d := newDoor(t, "github", "a-secret-of-github")
	host := strings.TrimPrefix(d.url, "http://")
	conns := make([]net.Conn, 0, 2)
	for range cap(conns) {
		conn, err := net.Dial("tcp", host)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", strings.TrimPrefix(d.address, d.url), large)
		require.NoError(t, err)
		begin := make([]byte, len("HTTP/1.1 100"))
		_, err = io.ReadFull(conn, begin) // the body is asked for: its room is taken
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 100", string(begin))
		conns = append(conns, conn)
	}
	body := []byte(`{"zen":"` + strings.Repeat("x", 1<<20) + `"}`)
	ping := http.Header{"X-Github-Event": {"ping"}}
	mine := d.knock(d.sign("github", "1", body, time.Now(), ping), body)
	require.Equal(t, http.StatusServiceUnavailable, mine.status)
	require.Equal(t, "intake.busy", mine.Code)
	require.NotEmpty(t, mine.header.Get("Retry-After"))
	small := []byte(`{"zen":"x"}`)
	require.Equal(t, http.StatusOK, d.knock(d.sign("github", "2", small, time.Now(), ping), small).status, "a small body needs no room")

	made := d.call(d.operator, http.MethodPost, "/v1/tenants", map[string]any{"name": "other"}).is(http.StatusCreated)
	endpoint := d.call(made.text("key.secret"), http.MethodPost, "/v1/endpoints", map[string]any{"name": "e", "source": "github", "secret": d.secret}).is(http.StatusCreated)
	other := *d
	other.address = d.url + strings.TrimPrefix(endpoint.text("url"), publicURL)
	require.Equal(t, http.StatusOK, other.knock(other.sign("github", "3", body, time.Now(), ping), body).status, "nobody else is kept out")

	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool {
		return d.knock(d.sign("github", "4", body, time.Now(), ping), body).status == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
}

// TestIntakeReadsBodiesOfNoLength: chunks are read to their end at every size around those where more room is taken, and one byte too many is refused.
func TestIntakeReadsBodiesOfNoLength(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret)
	const free, most = 64 << 10, 1 << 20
	for i, size := range []int{0, 20, 8 << 10, free - 1, free, free + 1, 2 * free, 2*free + 1, most - 1, most, most + 1} {
		body := bytes.Repeat([]byte(" "), size)
		copy(body, `{}`)
		id := fmt.Sprintf("chunked-%d", i)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.address, io.MultiReader(bytes.NewReader(body)))
		require.NoError(t, err)
		request.Header, request.ContentLength = d.sign("standard", id, body, time.Now(), nil), -1
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		switch {
		case size == 0:
			require.Equal(t, http.StatusBadRequest, response.StatusCode)
		case size > most:
			require.Equal(t, http.StatusRequestEntityTooLarge, response.StatusCode)
		default:
			require.Equal(t, http.StatusOK, response.StatusCode, "%d bytes", size)
			require.Equal(t, size, d.count(`select length(p.body) from sluice.event_payloads p join sluice.events e on e.id = p.event_id where e.source_event_id = '`+id+`'`))
			require.Equal(t, http.StatusOK, d.knock(d.sign("standard", id, body, time.Now(), nil), body).status, "and with its length it is the same")
		}
	}
}
