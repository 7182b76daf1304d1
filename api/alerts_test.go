package api_test

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
)

// countWait bounds the wait for counts that are written a few times a second.
const countWait = 30 * time.Second

// refusals is how many refused deliveries of an endpoint are written down, over all minutes.
func (d *door) refusals() (rows, count int) {
	d.t.Helper()
	for _, r := range d.call(d.key, "GET", "/v1/rejections?endpoint_id="+d.id, nil).is(200).rows() {
		n, _ := r["count"].(float64)
		rows, count = rows+1, count+int(n)
	}
	return rows, count
}

// forge sends deliveries that nobody signed, and waits until they are counted.
func (d *door) forge(n int) {
	d.t.Helper()
	_, before := d.refusals()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < n; i += 8 {
				header := http.Header{"Webhook-Id": {"msg_" + strconv.Itoa(i)}, "Webhook-Timestamp": {strconv.FormatInt(time.Now().Unix(), 10)}, "Webhook-Signature": {"v1,AAAA"}}
				if a, err := knock(d.t.Context(), d.address, header, []byte(`{}`)); err != nil || a.status != http.StatusUnauthorized {
					d.t.Errorf("a forgery was answered %d, %v", a.status, err)
				}
			}
		})
	}
	all.Wait()
	require.Eventually(d.t, func() bool { _, count := d.refusals(); return count == before+n }, countWait, 50*time.Millisecond)
}

func TestFloodOfForgeriesIsToldOnce(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "standard", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	d.forge(20)
	require.Empty(t, d.call(d.key, "GET", "/v1/alerts", nil).is(200).rows(), "a few are not a flood")
	d.forge(1000)
	rows, _ := d.refusals()
	require.LessOrEqual(t, rows, 4, "a row for a reason and a minute")
	open := d.call(d.key, "GET", "/v1/alerts?open=true", nil).is(200).rows()
	require.Len(t, open, 1)
	require.Regexp(t, `^alt_[0-9a-f]{32}$`, open[0]["id"])
	require.Equal(t, "rejections", open[0]["kind"])
	require.Equal(t, d.id, open[0]["subject"])
	require.Regexp(t, `^\d+ deliveries were refused within a minute, since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, most of them for signature\.[a-z]+\.$`, open[0]["detail"])
	require.NotContains(t, open[0]["detail"], d.secret)
	require.Nil(t, open[0]["ended_at"])

	// The row is written to once a minute at most, however many come: this one's version stays while another flood is counted.
	version := func() (at string) {
		require.NoError(t, d.Owner.QueryRow(t.Context(), `select ctid || ' ' || xmin || ' ' || xmax from sluice.alerts`).Scan(&at))
		return at
	}
	_, err := d.Owner.Exec(t.Context(), `update sluice.alerts set last_at = now()`)
	require.NoError(t, err)
	before := version()
	d.forge(200)
	require.Equal(t, before, version())
	// After a minute it says what is seen by then.
	_, err = d.Owner.Exec(t.Context(), `update sluice.alerts set last_at = now() - interval '61 seconds', detail = 'old'`)
	require.NoError(t, err)
	d.forge(200)
	later := d.call(d.key, "GET", "/v1/alerts", nil).is(200).rows()
	require.Len(t, later, 1)
	require.NotEqual(t, "old", later[0]["detail"])

	// Quiet for ten minutes, it ends; the next flood is another one.
	end := func(last string) int64 {
		var ended int64
		_, err := d.Owner.Exec(t.Context(), `update sluice.alerts set last_at = now() - $1::interval`, last)
		require.NoError(t, err)
		require.NoError(t, d.DB.System(t.Context(), func(tx db.SystemTx) (err error) {
			ended, err = tx.AlertsEnd(t.Context(), db.AlertRejections, 10*time.Minute)
			return err
		}))
		return ended
	}
	require.Zero(t, end("9 minutes"))
	require.Equal(t, int64(1), end("11 minutes"))
	require.Empty(t, d.call(d.key, "GET", "/v1/alerts?open=true", nil).is(200).rows())
	d.forge(200)
	page := d.call(d.key, "GET", "/v1/alerts?limit=1", nil).is(200)
	require.Nil(t, page.rows()[0]["ended_at"])
	next := d.call(d.key, "GET", "/v1/alerts?limit=1&cursor="+page.text("next_cursor"), nil).is(200)
	require.NotNil(t, next.rows()[0]["ended_at"])
	require.Empty(t, next.text("next_cursor"))

	// Nobody else's.
	require.Empty(t, d.call(d.tenant().viewer, "GET", "/v1/alerts", nil).is(200).rows())
	d.call("", "GET", "/v1/alerts", nil).refused(401, "key.invalid")
}
