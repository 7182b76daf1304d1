package jobs_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

// channelSecret signs what these tests are told.
const channelSecret = "whsec_dGVsbC1tZS13aGVuLWl0LWJlZ2lucy1hbmQtZW5kcw=="

// noticeHouse is a house with somebody who tells notices. What they log, at every level, is kept.
type noticeHouse struct {
	*house

	room jobs.NoticeRoom
	log  *lockedText
}

// lockedText is written by workers and read by a test.
type lockedText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newNoticeHouse makes the house; mail is nil where there is no server.
func newNoticeHouse(t *testing.T, mail *jobs.Mailer) *noticeHouse {
	t.Helper()
	n := &noticeHouse{house: newHouse(t), log: &lockedText{}}
	pool, err := db.Open(context.Background(), db.PoolConfig{URL: n.base.URL, Role: db.WorkerRole, ConnsMax: 8, PlanCacheMode: "force_custom_plan"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	log := slog.New(slog.NewJSONHandler(io.Writer(n.log), &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.room = jobs.NoticeRoom{
		DB: n.base.Worker, River: pool, Poster: n.poster, Mail: mail, Log: log,
		Set: action.New(outbound.New(outbound.Config{AllowLoopback: true, Timeout: 2 * time.Second})),
	}
	return n
}

// tell begins to tell what has a job.
func (n *noticeHouse) tell() {
	n.t.Helper()
	stop, err := n.room.Work(context.WithoutCancel(n.t.Context()))
	require.NoError(n.t, err)
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitMax)
		defer cancel()
		_ = stop(ctx)
	})
}

func (n *noticeHouse) post() { n.t.Helper(); require.NoError(n.t, n.room.Post(n.t.Context())) }

// hurry makes what waits due now.
func (n *noticeHouse) hurry() {
	n.t.Helper()
	_, err := n.base.Owner.Exec(n.t.Context(), `update sluice.alert_notices set due_at = now() where delivered_at is null and given_up_at is null`)
	require.NoError(n.t, err)
}

// channel keeps a channel that goes to a path of the target.
func (n *noticeHouse) channel(kind, path string, kinds ...string) uuid.UUID {
	n.t.Helper()
	return n.channelTo(kind, db.AlertAddress{URL: tenants.NewSecret(n.url + path), Secret: tenants.NewSecret(channelSecret)}, kinds...)
}

func (n *noticeHouse) channelTo(kind string, to db.AlertAddress, kinds ...string) (id uuid.UUID) {
	n.t.Helper()
	n.tx(func(tx db.TenantTx) error {
		c, err := tx.AlertChannelInsert(n.t.Context(), db.AlertChannel{Name: "on call", Kind: kind, Target: "shown", Kinds: kinds}, to)
		id = c.ID
		return err
	})
	return id
}

func (n *noticeHouse) begin(kind, subject, detail string) {
	n.t.Helper()
	n.tx(func(tx db.TenantTx) error { return tx.AlertBegin(n.t.Context(), kind, subject, detail) })
}

func (n *noticeHouse) end(kind, subject string) {
	n.t.Helper()
	n.tx(func(tx db.TenantTx) error { return tx.AlertEnd(n.t.Context(), kind, subject) })
}

// noticeRow is a notice as the table has it.
type noticeRow struct {
	phase              string
	attempt            int
	waits              time.Duration
	delivered, givenUp bool
	fault              string
}

func (n *noticeHouse) notices() (rows []noticeRow) {
	n.t.Helper()
	found, err := n.base.Owner.Query(n.t.Context(), `
		select phase, attempt, (due_at - now())::interval, delivered_at is not null, given_up_at is not null, fault
		from sluice.alert_notices order by created_at, phase, channel_id`)
	require.NoError(n.t, err)
	defer found.Close()
	for found.Next() {
		var r noticeRow
		require.NoError(n.t, found.Scan(&r.phase, &r.attempt, &r.waits, &r.delivered, &r.givenUp, &r.fault))
		rows = append(rows, r)
	}
	require.NoError(n.t, found.Err())
	return rows
}

// settled waits until no notice is under way, and returns them.
func (n *noticeHouse) settled() (rows []noticeRow) {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		var open int
		require.NoError(n.t, n.base.Owner.QueryRow(n.t.Context(), `select count(*) from sluice.alert_notices where posted_at is not null`).Scan(&open))
		rows = n.notices()
		return open == 0
	}, waitMax, 20*time.Millisecond, "%+v", &rows)
	return rows
}

// jobs are how many jobs of notices have not ended.
func (n *noticeHouse) jobs() (count int) {
	n.t.Helper()
	require.NoError(n.t, n.base.Owner.QueryRow(n.t.Context(), `select count(*) from river.river_job where kind = 'notice' and finalized_at is null`).Scan(&count))
	return count
}

// at are the requests to a path.
func (n *noticeHouse) at(path string) (found []scripted.TargetEntry) {
	for _, e := range n.target.Journal() {
		if e.Path == path {
			found = append(found, e)
		}
	}
	return found
}

// signed checks a request as a receiver does that knows the specification of Standard Webhooks and nothing of us.
func signed(t *testing.T, e scripted.TargetEntry) {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(channelSecret, "whsec_"))
	require.NoError(t, err)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(e.Header.Get("Webhook-Id") + "." + e.Header.Get("Webhook-Timestamp") + "."))
	mac.Write(e.Body)
	require.Equal(t, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)), e.Header.Get("Webhook-Signature"))
}

func TestAlertIsToldOnceWhenItBeginsAndOnceWhenItEnds(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/hook")
	n.channel(db.ChannelSlack, "/slack")
	n.tell()
	for range 3 {
		n.begin(db.AlertRejections, "end_x", "A <flood>.")
		n.post()
	}
	n.settled()
	n.end(db.AlertRejections, "end_x")
	n.end(db.AlertRejections, "end_x")
	for range 3 {
		n.post()
		n.settled()
	}
	hooks := n.at("/hook")
	require.Len(t, hooks, 2)
	require.Len(t, n.at("/slack"), 2)
	require.NotEqual(t, hooks[0].Key, hooks[1].Key)
	for i, kind := range []string{"alert.began", "alert.ended"} {
		signed(t, hooks[i])
		require.Regexp(t, `^ntc_[0-9a-f]{32}$`, hooks[i].Key)
		var body struct {
			Type      string
			Timestamp time.Time
			Data      map[string]any
		}
		require.NoError(t, json.Unmarshal(hooks[i].Body, &body))
		require.Equal(t, kind, body.Type)
		require.WithinDuration(t, time.Now(), body.Timestamp, time.Minute)
		require.Equal(t, []any{"rejections", "end_x", "A <flood>."}, []any{body.Data["kind"], body.Data["subject"], body.Data["detail"]})
		require.Equal(t, i == 1, body.Data["ended_at"] != nil)
	}
	for _, e := range n.at("/slack") {
		require.Empty(t, e.Header.Get("Webhook-Signature"), "Slack knows the sender by the address")
	}
	// It begins anew: that is another alert.
	n.begin(db.AlertRejections, "end_x", "Again.")
	n.post()
	n.settled()
	require.Len(t, n.at("/hook"), 3)
}

func TestChannelIsToldOfTheKindsItAskedFor(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/all")
	n.channel(db.ChannelWebhook, "/one", db.AlertRejections)
	n.channel(db.ChannelWebhook, "/other", db.AlertMissedUnreadable)
	n.tell()
	n.begin(db.AlertRejections, "end_x", "Many.")
	n.post()
	n.settled()
	require.Equal(t, []int{1, 1, 0}, []int{len(n.at("/all")), len(n.at("/one")), len(n.at("/other"))})
}

func TestNoticeIsTriedAgainUnderOneIDThenGivenUp(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	id := n.channel(db.ChannelWebhook, "/hook")
	n.target.Script(scripted.TargetStep{Status: 429, RetryAfter: "1800"}, scripted.TargetStep{Cut: true}, scripted.TargetStep{Status: 500})
	n.tell()
	n.begin(db.AlertRejections, "end_x", "Many.")
	var waits []time.Duration
	for range jobs.NoticeTries {
		n.hurry()
		n.post()
		rows := n.settled()
		require.Len(t, rows, 1)
		waits = append(waits, rows[0].waits)
	}
	row := n.notices()[0]
	require.True(t, row.givenUp)
	require.Equal(t, "the target answered 500", row.fault)
	require.InDelta(t, 1800, waits[0].Seconds(), 30, "the channel said when")
	for i, most := range []time.Duration{0, 4 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour} {
		if i > 0 {
			require.LessOrEqual(t, waits[i], most)
			require.Greater(t, waits[i], most/2-2*time.Second)
		}
	}
	require.Eventually(t, func() bool { return n.jobs() == 0 }, waitMax, 20*time.Millisecond)
	n.hurry()
	n.post()
	require.Zero(t, n.jobs(), "what was given up is over")
	requests := n.at("/hook")
	require.Len(t, requests, 8)
	for _, e := range requests {
		require.Equal(t, requests[0].Key, e.Key)
		signed(t, e)
	}
	n.tx(func(tx db.TenantTx) error {
		c, err := tx.AlertChannelGet(t.Context(), id)
		require.Equal(t, "the target answered 500", c.LastFault)
		require.NotNil(t, c.LastAt)
		return err
	})
}

func TestGoneIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelSlack, "/slack")
	n.target.Script(scripted.TargetStep{Status: 410})
	n.tell()
	n.begin(db.AlertRejections, "end_x", "Many.")
	n.post()
	require.True(t, n.settled()[0].givenUp)
	require.Len(t, n.at("/slack"), 1)
}

func TestThatItEndedIsToldAfterThatItBegan(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/hook")
	n.target.Script(scripted.TargetStep{Status: 503}, scripted.TargetStep{})
	n.tell()
	n.begin(db.AlertRejections, "end_x", "Many.")
	n.post()
	n.settled()
	n.end(db.AlertRejections, "end_x")
	n.post()
	n.settled()
	require.Len(t, n.at("/hook"), 1, "the beginning is still to be told")
	n.hurry()
	n.post()
	n.settled()
	n.post()
	n.settled()
	var types []string
	for _, e := range n.at("/hook") {
		var body struct{ Type string }
		require.NoError(t, json.Unmarshal(e.Body, &body))
		types = append(types, body.Type)
	}
	require.Equal(t, []string{"alert.began", "alert.began", "alert.ended"}, types)
}

func TestNoticeWhoseJobWasLostIsToldOnce(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/hook")
	n.begin(db.AlertRejections, "end_x", "Many.")
	n.post()
	_, err := n.base.Owner.Exec(t.Context(), `delete from river.river_job`)
	require.NoError(t, err)
	n.post()
	require.Zero(t, n.jobs(), "for a while its job may only be slow")
	// Three jobs for one try: none was lost, all were slow.
	for range 3 {
		n.hurry()
		n.post()
	}
	require.Equal(t, 3, n.jobs())
	n.tell()
	require.Eventually(t, func() bool { return n.jobs() == 0 }, waitMax, 20*time.Millisecond)
	require.Len(t, n.at("/hook"), 1)
	require.True(t, n.notices()[0].delivered)
}

func TestTryWhoseEndNobodyKnowsIsFollowedByTheNext(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/hook")
	n.begin(db.AlertRejections, "end_x", "Many.")
	// A worker began each try and was killed.
	for range jobs.NoticeTries {
		_, err := n.base.Owner.Exec(t.Context(), `update sluice.alert_notices set attempt = attempt + 1, posted_at = now(), due_at = now() + interval '1 minute'`)
		require.NoError(t, err)
	}
	n.tell()
	n.hurry()
	n.post()
	row := n.settled()[0]
	require.True(t, row.givenUp)
	require.Equal(t, "its last try did not come to an end", row.fault)
	require.Empty(t, n.at("/hook"))
}

func TestDeletedChannelIsToldNothing(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	waiting, under := n.channel(db.ChannelWebhook, "/waiting"), n.channel(db.ChannelWebhook, "/under", db.AlertMissedUnreadable)
	n.begin(db.AlertRejections, "end_x", "Many.")
	n.post()
	require.Equal(t, 1, n.jobs())
	remove := func(id uuid.UUID) {
		n.tx(func(tx db.TenantTx) error { return tx.AlertChannelDelete(t.Context(), id) })
	}
	remove(waiting)
	n.tell()
	require.Eventually(t, func() bool { return n.jobs() == 0 }, waitMax, 20*time.Millisecond)
	require.Empty(t, n.target.Journal())
	// And one that goes while its notice is on its way.
	n.target.Script(scripted.TargetStep{DelayMS: 500, Status: 500})
	n.begin(db.AlertMissedUnreadable, "end_y", "Forbidden.")
	n.post()
	_, err := n.target.Wait(t.Context(), 1)
	require.NoError(t, err)
	remove(under)
	require.Eventually(t, func() bool { return n.jobs() == 0 }, waitMax, 20*time.Millisecond)
	require.Empty(t, n.notices())
	require.Len(t, n.target.Journal(), 1)
}

func TestTenantWithSlowChannelsHasFewNoticesUnderWay(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/hook")
	for i := range 10 {
		n.begin(db.AlertRejections, "end_"+string(rune('a'+i)), "Many.")
	}
	other := uuid.Nil
	require.NoError(t, n.base.DB.System(t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(t.Context(), "quiet", "UTC")
		other = tenant.TenantID
		return err
	}))
	require.NoError(t, n.base.DB.Tenant(t.Context(), other, func(tx db.TenantTx) error {
		if _, err := tx.AlertChannelInsert(t.Context(), db.AlertChannel{Name: "q", Kind: db.ChannelEmail}, db.AlertAddress{}); err != nil {
			return err
		}
		return tx.AlertBegin(t.Context(), db.AlertRejections, "end_q", "One.")
	}))
	n.post()
	n.post()
	require.Equal(t, 4+1, n.jobs())
}

func TestSuspendedTenantIsToldWhenItIsActiveAgain(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/hook")
	n.begin(db.AlertRejections, "end_x", "Many.")
	status := func(s string) {
		_, err := n.base.Owner.Exec(t.Context(), `update sluice.tenants set status = $1 where tenant_id = $2`, s, n.tenant)
		require.NoError(t, err)
	}
	status("suspended")
	n.tell()
	n.post()
	require.Eventually(t, func() bool { return n.jobs() == 0 }, waitMax, 20*time.Millisecond)
	require.Empty(t, n.target.Journal())
	status("active")
	n.hurry()
	n.post()
	require.True(t, n.settled()[0].delivered)
}

// TestNothingSecretOfAChannelIsWrittenDown looks through the logs at every level, River's tables and ours.
func TestNothingSecretOfAChannelIsWrittenDown(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelWebhook, "/c4n4ry?token=c4n4ry")
	n.channel(db.ChannelSlack, "/services/c4n4ry")
	n.channelTo(db.ChannelWebhook, db.AlertAddress{URL: tenants.NewSecret("http://127.0.0.1:1/c4n4ry"), Secret: tenants.NewSecret(channelSecret)})
	n.channelTo(db.ChannelSlack, db.AlertAddress{URL: tenants.NewSecret("https://10.0.0.1/c4n4ry")})
	n.channelTo(db.ChannelEmail, db.AlertAddress{Email: tenants.NewSecret("c4n4ry@example.com")})
	n.target.Script(scripted.TargetStep{Status: 400, Body: "c4n4ry"})
	n.tell()
	n.begin(db.AlertRejections, "end_x", "Many.")
	n.post()
	n.hurry()
	n.post()
	rows := n.settled()
	require.Len(t, rows, 5)
	var kept string
	require.NoError(t, n.base.Owner.QueryRow(t.Context(), `
		select (select string_agg(j::text, ' ') from river.river_job j) || (select string_agg(c::text, ' ') from sluice.alert_channels c)
		    || (select string_agg(n::text, ' ') from sluice.alert_notices n)`).Scan(&kept))
	key := strings.TrimPrefix(channelSecret, "whsec_")
	for _, text := range []string{kept, n.log.String()} {
		require.Contains(t, text, "no SMTP server is configured")
		require.Contains(t, text, "the address is not allowed")
		require.NotContains(t, text, "c4n4ry")
		require.NotContains(t, text, key)
	}
}

func TestSlackReadsWordsOfStrangersAsText(t *testing.T) {
	t.Parallel()
	n := newNoticeHouse(t, nil)
	n.channel(db.ChannelSlack, "/slack")
	n.tell()
	n.begin(db.AlertRejections, "<!channel>", "<https://evil.example|Log in> & <@U1> @here https://evil.example www.evil.example\r\n*bold*\u202e"+strings.Repeat("x", 5000))
	n.post()
	n.settled()
	require.Len(t, n.at("/slack"), 1)
	body := n.at("/slack")[0].Body
	var message struct {
		Text   string
		Blocks []struct {
			Text struct {
				Type, Text string
				Verbatim   bool
			}
		}
		UnfurlLinks *bool `json:"unfurl_links"`
	}
	require.NoError(t, json.Unmarshal(body, &message))
	require.True(t, message.Blocks[0].Text.Verbatim)
	require.Equal(t, message.Text, message.Blocks[0].Text.Text)
	require.Less(t, len(message.Text), 3000, "what Slack takes in one block")
	require.NotNil(t, message.UnfurlLinks)
	require.NotContains(t, message.Text, "<")
	require.NotContains(t, message.Text, ">")
	require.NotContains(t, message.Text, "://")
	require.NotContains(t, message.Text, "@here")
	require.NotContains(t, message.Text, "www.evil")
	require.NotContains(t, message.Text, "\u202e")
	require.Contains(t, message.Text, "&lt;!channel&gt;")
	require.Contains(t, message.Text, " &amp; ")
	require.Len(t, strings.Split(message.Text, "\n"), 3, "a stranger's line end begins no line of ours")
}
