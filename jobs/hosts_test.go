package jobs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/jobs"
	"sluice/jobs/action"
)

var (
	one, two = uuid.New(), uuid.New() // tenants
	key      = uuid.New()
)

// goes makes one attempt at a host that ends in err, and says why it was turned away.
func goes(h jobs.Hosts, host string, tenant uuid.UUID, err error) string {
	leave, reason, _ := h.Enter(context.Background(), host, tenant, key)
	if leave != nil {
		leave(err)
	}
	return reason
}

func TestHostInTroubleIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, code := range []string{action.CodeConnect, action.CodeTimeout, action.CodeStatus5xx, action.CodeBroken} {
			h := jobs.NewHosts(100)
			trouble := &action.Error{Code: code}
			for range 5 {
				require.Empty(t, goes(h, "a.example", one, trouble), code)
			}
			require.Equal(t, "action.breaker_open", goes(h, "a.example", two, nil), "whoever asks")
			require.Empty(t, goes(h, "b.example", one, nil), "another host is another one")

			_, _, wait := h.Enter(context.Background(), "a.example", one, key)
			require.Greater(t, wait, 10*time.Second)
			time.Sleep(wait) //nolint:forbidigo // the clock is synctest's
			probe, reason, _ := h.Enter(context.Background(), "a.example", one, key)
			require.Empty(t, reason, "one may look whether it is back")
			require.Equal(t, "action.breaker_open", goes(h, "a.example", two, nil), "and only one")
			probe(nil)
			require.Empty(t, goes(h, "a.example", two, nil))
		}
	})
}

func TestHostIsNotBlamedForWhatItAnswers(t *testing.T) {
	t.Parallel()
	h := jobs.NewHosts(100)
	for range 100 {
		for _, code := range []string{action.CodeUnauthorized, action.CodeNotFound, action.CodeRefused, action.CodeCanceled, action.CodeBlocked} {
			require.Empty(t, goes(h, "a.example", one, &action.Error{Code: code}), code)
		}
	}
}

func TestHostIsSharedByTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := jobs.NewHosts(4)
		var leave []func(error)
		for range 2 {
			out, reason, _ := h.Enter(t.Context(), "a.example", one, key)
			require.Empty(t, reason)
			leave = append(leave, out)
		}
		before := time.Now()
		_, reason, first := h.Enter(t.Context(), "a.example", one, key)
		require.Equal(t, "action.host_busy", reason, "half of the workers")
		require.Equal(t, 250*time.Millisecond, time.Since(before), "it has waited a moment")
		_, _, second := h.Enter(t.Context(), "a.example", one, key)
		require.Greater(t, second+250*time.Millisecond, first, "each has a turn of its own")
		require.Empty(t, goes(h, "a.example", two, nil), "another tenant has places of its own")

		entered := make(chan func(error))
		go func() {
			out, _, _ := h.Enter(t.Context(), "a.example", one, key)
			entered <- out
		}()
		synctest.Wait()
		leave[0](nil)
		require.NotNil(t, <-entered, "the place goes to who waits for it")
		_, reason, _ = h.Enter(t.Context(), "a.example", one, key)
		require.Equal(t, "action.host_busy", reason, "and to nobody else")
		leave[1](nil)
		require.Empty(t, goes(h, "a.example", one, nil))
	})
}

func TestHostThatAsksForPatienceHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := jobs.NewHosts(100)
		require.Empty(t, goes(h, "a.example", one, &action.Error{Code: action.CodeRateLimited, RetryAfter: 90 * time.Second}))
		_, reason, wait := h.Enter(context.Background(), "a.example", one, key)
		require.Equal(t, "action.rate_limited", reason)
		require.Equal(t, 90*time.Second, wait)
		_, reason, _ = h.Enter(context.Background(), "a.example", one, uuid.New())
		require.Empty(t, reason, "another credential has a limit of its own")
		require.Empty(t, goes(h, "a.example", two, nil))
		time.Sleep(wait) //nolint:forbidigo // the clock is synctest's
		require.Empty(t, goes(h, "a.example", one, nil))
	})
}
