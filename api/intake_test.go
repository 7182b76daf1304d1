package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-github/v92/github"
	"github.com/google/uuid"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	stripe "github.com/stripe/stripe-go/v84/webhook"

	"sluice/api"
	"sluice/api/source"
	"sluice/db"
)

// door is an endpoint of a tenant, with an automation that takes every event.
type door struct {
	*bundle
	key, id, address, secret string
}

func newDoor(t *testing.T, sourceName, secret string, changes ...func(*api.Deps)) *door {
	t.Helper()
	b := setup(t, changes...)
	made := b.call(b.operator, http.MethodPost, "/v1/tenants", map[string]any{"name": "acme"}).is(http.StatusCreated).object()
	d := &door{bundle: b, key: made["key"].(map[string]any)["secret"].(string), secret: secret}
	endpoint := b.call(d.key, http.MethodPost, "/v1/endpoints", map[string]any{"name": "inbox", "source": sourceName, "secret": secret}).is(http.StatusCreated).object()
	d.id = endpoint["id"].(string)
	d.address = b.url + strings.TrimPrefix(endpoint["url"].(string), publicURL)
	b.call(d.key, http.MethodPost, "/v1/automations", map[string]any{
		"name": "all", "endpoint_id": d.id, "model": "scripted/echo-1", "prompt": map[string]any{"user": "{{ event.type }}"},
		"action": map[string]any{"kind": "none"},
	}).is(http.StatusCreated)
	return d
}

// answer is what the door says.
type answer struct {
	status    int
	header    http.Header
	EventID   string `json:"event_id"`
	Duplicate bool   `json:"duplicate"`
	Code      string `json:"code"`
}

func knock(ctx context.Context, address string, header http.Header, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: response.StatusCode, header: response.Header}
	return a, json.Unmarshal(text, &a)
}

func (d *door) knock(header http.Header, body []byte) answer {
	d.t.Helper()
	a, err := knock(d.t.Context(), d.address, header, body)
	require.NoError(d.t, err)
	return a
}

// sign signs as the source does.
func (d *door) sign(sourceName, id string, body []byte, at time.Time, extra http.Header) http.Header {
	d.t.Helper()
	s, _ := source.Get(sourceName)
	signed, err := s.Sign(source.SignInput{Method: http.MethodPost, URL: d.address, Header: extra, Body: body, Secret: d.secret, ID: id, At: at})
	require.NoError(d.t, err)
	return signed.Header
}

func (d *door) count(sql string) int {
	d.t.Helper()
	var n int
	require.NoError(d.t, d.Owner.QueryRow(d.t.Context(), sql).Scan(&n))
	return n
}

const standardSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestIntakeTakesWhatTheVendorsLibrariesSign delivers through the real door what others than ourselves have signed.
func TestIntakeTakesWhatTheVendorsLibrariesSign(t *testing.T) {
	t.Parallel()
	t.Run("stripe-go", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, "stripe", "whsec_test_secret_of_stripe")
		body := []byte(`{"id":"evt_1","object":"event","type":"charge.failed","created":1735689600,"data":{"object":{"id":"ch_1","object":"charge"}}}`)
		signed := stripe.GenerateTestSignedPayload(&stripe.UnsignedPayload{Payload: body, Secret: d.secret, Timestamp: time.Now()})
		a := d.knock(http.Header{"Stripe-Signature": {signed.Header}, "Content-Type": {"application/json"}}, body)
		require.Equal(t, http.StatusOK, a.status)
		event := d.call(d.key, http.MethodGet, "/v1/events/"+a.EventID, nil).is(http.StatusOK).object()
		require.Equal(t, "charge.failed", event["type"])
		require.Equal(t, "evt_1", event["source_event_id"])
		require.Equal(t, body, d.call(d.key, http.MethodGet, "/v1/events/"+a.EventID+"/payload", nil).is(http.StatusOK).body, "byte for byte")
	})
	t.Run("standard-webhooks", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, "standard", standardSecret)
		hook, err := webhooks.NewWebhook(standardSecret)
		require.NoError(t, err)
		body, now := []byte(`{"type":"contact.created","data":{"id":"c1"}}`), time.Now()
		signature, err := hook.Sign("msg_1", now, body)
		require.NoError(t, err)
		for i, prefix := range []string{"webhook-", "svix-"} {
			header := http.Header{}
			header.Set(prefix+"id", "msg_1")
			header.Set(prefix+"timestamp", fmt.Sprint(now.Unix()))
			header.Set(prefix+"signature", signature)
			a := d.knock(header, body)
			require.Equal(t, http.StatusOK, a.status, a.Code)
			require.Equal(t, i == 1, a.Duplicate)
		}
	})
	t.Run("go-github", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, "github", "a-secret-for-github")
		body := []byte(`{"action":"opened","issue":{"id":7,"number":1,"title":"x"}}`)
		header := d.sign("github", uuid.NewString(), body, time.Now(), http.Header{"X-Github-Event": {"issues"}})
		header.Set("Content-Type", "application/json")
		request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		request.Header = header
		_, err := github.ValidatePayload(request, []byte(d.secret))
		require.NoError(t, err, "go-github takes it")
		require.Equal(t, http.StatusOK, d.knock(header, body).status, "and so does the door")
	})
}

func TestIntakeAnswersADuplicateWithTheFirstEvent(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "github", "a-secret-for-github")
	body := []byte(`{"action":"opened","issue":{"id":7,"updated_at":"2026-01-02T03:04:05Z"}}`)
	send := func(id string, body []byte) answer {
		return d.knock(d.sign("github", id, body, time.Now(), http.Header{"X-Github-Event": {"issues"}}), body)
	}
	first := send("11111111-1111-1111-1111-111111111111", body)
	require.Equal(t, http.StatusOK, first.status)
	require.False(t, first.Duplicate)
	require.Equal(t, answer{status: 200, EventID: first.EventID, Duplicate: true}, bare(send("11111111-1111-1111-1111-111111111111", body)))
	require.Equal(t, answer{status: 200, EventID: first.EventID, Duplicate: true}, bare(send("22222222-2222-2222-2222-222222222222", body)),
		"GitHub's id is not signed: the body's hash stands behind it")
	require.False(t, send("22222222-2222-2222-2222-222222222222", []byte(`{"action":"opened","issue":{"id":8}}`)).Duplicate)
	require.Equal(t, 2, d.count(`select count(*) from sluice.events`))
	require.Equal(t, 2, d.count(`select count(*) from sluice.runs`))
	require.Equal(t, 2, d.count(`select count(*) from river.river_job`))
}

func bare(a answer) answer { a.header = nil; return a }

// TestIntakeKeepsAFloodOfOneEventOnce is F4: two API processes, one event, many senders at once.
func TestIntakeKeepsAFloodOfOneEventOnce(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret)
	second := newAPI(t, d.DB, d.log)
	server := httptest.NewServer(second.Handler())
	t.Cleanup(func() { server.Close(); second.Close(context.Background()) })
	body := []byte(`{"type":"contact.created"}`)
	header := d.sign("standard", "msg_flood", body, time.Now(), nil)
	const senders = 40
	answers := make([]answer, senders)
	var group sync.WaitGroup
	for i := range senders {
		address := d.address
		if i%2 == 1 {
			address = server.URL + strings.TrimPrefix(d.address, d.url)
		}
		group.Go(func() {
			var err error
			if answers[i], err = knock(t.Context(), address, header.Clone(), body); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	fresh := 0
	for _, a := range answers {
		require.Equal(t, http.StatusOK, a.status)
		require.Equal(t, answers[0].EventID, a.EventID)
		if !a.Duplicate {
			fresh++
		}
	}
	require.Equal(t, 1, fresh)
	require.Equal(t, 1, d.count(`select count(*) from river.river_job`))
}

func TestIntakeRefuses(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", standardSecret)
	body := []byte(`{"type":"contact.created"}`)
	now := time.Now()
	signed := func(at time.Time) http.Header { return d.sign("standard", "msg_1", body, at, nil) }
	without := signed(now)
	without.Del("webhook-signature")
	forged := signed(now)
	forged.Set("webhook-signature", "v1,"+strings.Repeat("A", 43)+"=")
	cases := map[string]struct {
		header http.Header
		body   []byte
		status int
		code   string
	}{
		"Tampered":     {signed(now), []byte(`{"type":"contact.deleted"}`), http.StatusUnauthorized, "signature.mismatch"},
		"Forged":       {forged, body, http.StatusUnauthorized, "signature.mismatch"},
		"Unsigned":     {without, body, http.StatusUnauthorized, "signature.missing"},
		"Stale":        {signed(now.Add(-6 * time.Minute)), body, http.StatusUnauthorized, "timestamp.stale"},
		"FromTomorrow": {signed(now.Add(6 * time.Minute)), body, http.StatusUnauthorized, "timestamp.future"},
		"TooLarge":     {signed(now), bytes.Repeat([]byte("x"), 26<<20), http.StatusRequestEntityTooLarge, "body.too_large"},
	}
	for name, c := range cases {
		a := d.knock(c.header, c.body)
		require.Equal(t, c.status, a.status, name)
		require.Equal(t, c.code, a.Code, name)
	}
	require.Zero(t, d.count(`select count(*) from sluice.events`))
	for _, address := range []string{d.address[:len(d.address)-1] + "~", d.url + "/in/x", d.url + "/in/" + strings.Repeat("a", 5000)} {
		a, err := knock(t.Context(), address, signed(now), body)
		require.NoError(t, err)
		require.Equal(t, http.StatusNotFound, a.status)
	}
	d.call(d.key, http.MethodPatch, "/v1/endpoints/"+d.id, map[string]any{"enabled": false}).is(http.StatusOK)
	require.Equal(t, http.StatusNotFound, d.knock(signed(now), body).status)
	require.Equal(t, http.StatusMethodNotAllowed, d.call("", http.MethodGet, strings.TrimPrefix(d.address, d.url), nil).status)
}

// TestAFloodOfForgeriesCostsACounter: one row for an endpoint, a reason and a minute, whatever comes, and nothing in it that proves something.
func TestAFloodOfForgeriesCostsACounter(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "github", "a-secret-for-github")
	body := []byte(`{"action":"opened","note":"canary-of-the-body"}`)
	header := http.Header{"X-Github-Event": {"issues"}, "X-Hub-Signature-256": {"sha256=" + strings.Repeat("c", 64)}, "Authorization": {"Bearer canary-of-a-header"}}
	const forgeries = 200
	for range forgeries {
		require.Equal(t, http.StatusUnauthorized, d.knock(header.Clone(), body).status)
	}
	require.Eventually(t, func() bool {
		return d.count(`select coalesce(sum(count), 0)::int from sluice.rejections`) == forgeries
	}, 20*time.Second, 50*time.Millisecond)
	require.LessOrEqual(t, d.count(`select count(*) from sluice.rejections`), 2, "a minute may have turned")
	var sample string
	require.NoError(t, d.Owner.QueryRow(t.Context(), `select sample::text from sluice.rejections limit 1`).Scan(&sample))
	for _, secret := range []string{"canary", strings.Repeat("c", 64), "authorization"} {
		require.NotContains(t, sample, secret)
	}
	require.Contains(t, sample, "x-github-event")
}

// TestIntakeSaysWithin2SecondsThatTheDatabaseIsAway: refused connections, and the worse case of a server that takes them and is silent.
func TestIntakeSaysWithin2SecondsThatTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	sealer, err := db.NewSealer(make([]byte, db.MasterKeyLen))
	require.NoError(t, err)
	for name, address := range map[string]string{"Refused": "127.0.0.1:1", "Silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, err := db.Open(t.Context(), db.PoolConfig{URL: "postgres://x:y@" + address + "/x?sslmode=disable", Role: db.AppRole, ConnsMax: 2})
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			face := newAPI(t, db.New(db.Pools{App: pool, System: pool, Door: pool}, sealer), io.Discard)
			server := httptest.NewServer(face.Handler())
			t.Cleanup(server.Close)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			a, err := knock(ctx, server.URL+"/in/"+strings.Repeat("a", 32), http.Header{}, []byte(`{}`))
			require.NoError(t, err, "an answer within 2 s")
			require.Equal(t, http.StatusServiceUnavailable, a.status)
			require.NotEmpty(t, a.header.Get("Retry-After"))
		})
	}
}

// cutter is a way to Postgres that loses the answer of a commit.
type cutter struct {
	listener net.Listener
	server   string
	armed    atomic.Bool
	// forward says whether the commit that is cut reaches the server.
	forward bool
	cut     atomic.Int64
	// refusing says that no new connection is let through; those that are there go on.
	refusing atomic.Bool
}

func newCutter(t *testing.T, server string, forward bool) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{listener: listener, server: server, forward: forward}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if c.refusing.Load() {
				_ = client.Close()
				continue
			}
			go c.carry(client)
		}
	}()
	return c
}

func (c *cutter) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		return
	}
	defer server.Close()
	var losing atomic.Bool
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if losing.Load() || err != nil {
				_ = client.Close() // the answer of the commit, or the end
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		if bytes.Contains(buffer[:n], []byte("commit")) && c.armed.CompareAndSwap(true, false) {
			c.cut.Add(1)
			if !c.forward {
				return
			}
			losing.Store(true)
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
		if losing.Load() {
			<-answered
			return
		}
	}
}

// TestIntakeReadsAgainWhenItDoesNotKnowWhetherItCommitted is F3: never a 2xx for what is not stored, never a 503 for what is.
func TestIntakeReadsAgainWhenItDoesNotKnowWhetherItCommitted(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]bool{"ItStands": true, "ItDoesNot": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t, "standard", standardSecret)
			config := d.App.Config().ConnConfig
			way := newCutter(t, net.JoinHostPort(config.Host, fmt.Sprint(config.Port)), stored)
			through := strings.Replace(d.URL, net.JoinHostPort(config.Host, fmt.Sprint(config.Port)), way.listener.Addr().String(), 1)
			require.NotEqual(t, d.URL, through)
			pool, err := db.Open(t.Context(), db.PoolConfig{URL: through, Role: db.DoorRole, ConnsMax: 2})
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			sealer, err := db.NewSealer(d.MasterKey)
			require.NoError(t, err)
			face := newAPI(t, db.New(db.Pools{App: d.App, System: d.System, Door: pool}, sealer), d.log)
			server := httptest.NewServer(face.Handler())
			t.Cleanup(server.Close)
			body := []byte(`{"type":"contact.created"}`)
			header := d.sign("standard", "msg_1", body, time.Now(), nil)
			way.armed.Store(true)
			a, err := knock(t.Context(), server.URL+strings.TrimPrefix(d.address, d.url), header, body)
			require.NoError(t, err)
			require.EqualValues(t, 1, way.cut.Load())
			kept := d.count(`select count(*) from sluice.events`)
			if stored {
				require.Equal(t, http.StatusOK, a.status)
				require.False(t, a.Duplicate)
				require.Equal(t, 1, kept)
				return
			}
			require.Equal(t, http.StatusServiceUnavailable, a.status)
			require.Zero(t, kept)
		})
	}
}
