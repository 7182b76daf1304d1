package jobs_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
	"sluice/tenants"
)

// chat is what the events of these tests are about.
const chat = "chat:1"

// keyPrefix begins the key of every effect.
const keyPrefix = "msg"

// said is an event of GitHub by a person.
const said = `{"sender":{"login":"octocat","id":1},"title":"Is anybody there?"}`

// heard is a delivery of one event about the chat; what is zero has a default.
type heard struct {
	source, body, headers, id, entity string
	alone                             bool // without an entity
}

// hear keeps a delivery, with a run of an automation and its job.
func (h *house) hear(automation uuid.UUID, d heard) uuid.UUID {
	h.t.Helper()
	event, run := tenants.NewID(), tenants.NewID()
	var mode string
	h.tx(func(tx db.TenantTx) error {
		a, err := tx.AutomationGet(h.t.Context(), automation)
		if err != nil {
			return err
		}
		var spec automations.Spec
		err = json.Unmarshal(a.Spec, &spec)
		mode = spec.Mode
		return err
	})
	or := func(text, otherwise string) string {
		if text == "" {
			return otherwise
		}
		return text
	}
	e := db.EventNew{
		ID: event, SourceEventID: or(d.id, event.String()), Type: "comment", Entity: or(d.entity, chat), Verdicts: json.RawMessage(`[]`),
		Runs: []db.RunNew{{ID: run, AutomationID: automation, AutomationVersion: 1, Mode: mode, Priority: "routine", Ordering: db.OrderNone}},
	}
	if d.alone {
		e.Entity = ""
	}
	require.NoError(h.t, h.base.DB.Door(h.t.Context(), func(tx db.DoorTx) error {
		if _, err := tx.Admit(h.t.Context(), []*db.Delivery{{
			TenantID: h.tenant, EndpointID: h.endpoint, Source: or(d.source, "github"), Headers: json.RawMessage(or(d.headers, `{}`)), Body: []byte(or(d.body, said)),
			BodySHA256: []byte("hash"), Events: []db.EventNew{e},
		}}); err != nil {
			return err
		}
		return h.poster.PostRuns(h.t.Context(), tx.Pgx(), []jobs.RunArgs{{TenantID: h.tenant, RunID: run}})
	}))
	return run
}

// talker is an automation that answers at an address of its own, changed by changes.
func (h *house) talker(path string, changes map[string]any) uuid.UUID {
	h.t.Helper()
	spec := map[string]any{"prompt": map[string]any{"user": "Answer."}, "action": map[string]any{"kind": "callback", "url": h.url + path}}
	for name, value := range changes {
		if action, ok := value.(map[string]any); ok && name == "action" {
			action["kind"], action["url"] = "callback", h.url+path
		}
		spec[name] = value
	}
	return h.automation(spec)
}

// alerts are those of loops, newest first.
func (h *house) loops() (alerts []db.Alert) {
	h.t.Helper()
	h.tx(func(tx db.TenantTx) error {
		all, err := tx.AlertList(h.t.Context(), true, db.Page{Limit: 100})
		for _, a := range all {
			if a.Kind == db.AlertLoop {
				alerts = append(alerts, a)
			}
		}
		return err
	})
	return alerts
}

// age lets what was done be as if it had been done earlier.
func (h *house) age(by time.Duration) {
	h.t.Helper()
	_, err := h.base.Owner.Exec(h.t.Context(), `update sluice.actions set created_at = created_at - $1::interval`, by)
	require.NoError(h.t, err)
}

// TestTwoAutomationsThatAnswerEachOtherStop lets the target post every callback back as an event for the other automation, in each of the ways
// in which the mark of ours can come back.
func TestTwoAutomationsThatAnswerEachOtherStop(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		changes map[string]any
		back    func(e scripted.TargetEntry) heard
		answers int
	}{
		"the run in the body": {nil, func(e scripted.TargetEntry) heard { return heard{body: string(e.Body)} }, 3},
		"the key as header": {nil, func(e scripted.TargetEntry) heard {
			return heard{headers: `{"webhook-id":"` + e.Header.Get("Webhook-Id") + `"}`}
		}, 3},
		"the key as id": {nil, func(e scripted.TargetEntry) heard { return heard{source: "standard", id: e.Header.Get("Webhook-Id")} }, 3},
		"the run as header": {nil, func(e scripted.TargetEntry) heard {
			return heard{headers: `{"sluice-run":"` + e.Header.Get("Sluice-Run") + `"}`}
		}, 3},
		"a body of the tenant":      {map[string]any{"action": map[string]any{"body": "{{ event.id }}"}}, func(e scripted.TargetEntry) heard { return heard{body: `"` + e.Header.Get("Webhook-Id") + `"`} }, 3},
		"a limit of its own":        {map[string]any{"loop": map[string]any{"depth": 5}}, func(e scripted.TargetEntry) heard { return heard{body: string(e.Body)} }, 6},
		"none at all":               {map[string]any{"loop": map[string]any{"depth": 0}}, func(e scripted.TargetEntry) heard { return heard{body: string(e.Body)} }, 1},
		"about nothing, or another": {nil, func(e scripted.TargetEntry) heard { return heard{body: string(e.Body), alone: true} }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.work()
			talkers := []uuid.UUID{h.talker("/0", c.changes), h.talker("/1", c.changes)}
			run := h.ended(h.hear(talkers[0], heard{}))
			first := run
			turn := 0
			for ; run.Status == db.RunDone && turn < 20; turn++ {
				require.Equal(t, turn, run.Depth)
				entries, err := h.target.Wait(t.Context(), turn+1)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(turn), entries[turn].Header.Get("Sluice-Depth"), "the target is told")
				run = h.ended(h.hear(talkers[(turn+1)%2], c.back(entries[turn])))
			}
			require.Equal(t, c.answers, turn)
			require.Equal(t, "skipped loop.depth", string(run.Status)+" "+run.Reason, run.Detail)
			require.Equal(t, turn, run.Depth)
			require.Empty(t, h.calls(run.ID), "before any token was spent")
			require.Len(t, h.provider.Journal(), turn)
			require.Len(t, h.target.Journal(), turn)
			require.Regexp(t, `^Its event was caused by act_[0-9a-f]{32} of run_[0-9a-f]{32}, whose name stands in it\. `, run.Detail)

			alerts := h.loops()
			require.Len(t, alerts, 1)
			require.Contains(t, alerts[0].Detail, fmt.Sprintf("Nothing is done about %s, since %d of our own actions led to it. It began with %s (github comment, received at ",
				tenants.FormatID(tenants.EventPrefix, run.EventID), turn, tenants.FormatID(tenants.EventPrefix, first.EventID)))
			require.Contains(t, alerts[0].Detail, `, sent by "octocat").`)
			want := chat
			if run.Entity == "" {
				want = tenants.FormatID(tenants.AutomationPrefix, run.AutomationID)
			}
			require.Equal(t, want, alerts[0].Subject)
		})
	}
}

// TestAnotherBotIsStoppedByTheRate lets a second bot answer each callback, without a mark.
func TestAnotherBotIsStoppedByTheRate(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	const most = 5
	talker := h.talker("/hook", map[string]any{"loop": map[string]any{"actions_per_hour": most}})
	bot := heard{body: `{"sender":{"login":"helpful-bot[bot]"},"title":"I can help with that."}`}
	first := h.ended(h.hear(talker, heard{}))
	run, turns := first, 0
	for ; run.Status == db.RunDone && turns < 20; turns++ {
		require.Zero(t, run.Depth)
		run = h.ended(h.hear(talker, bot))
	}
	require.Equal(t, most, turns)
	require.Equal(t, "skipped loop.rate", string(run.Status)+" "+run.Reason)
	require.Contains(t, run.Detail, "There were 5 automatic actions about chat:1 within an hour")
	require.Len(t, h.provider.Journal(), most)
	require.Len(t, h.target.Journal(), most)
	alerts := h.loops()
	require.Len(t, alerts, 1)
	require.Equal(t, chat, alerts[0].Subject)
	require.Contains(t, alerts[0].Detail, "It began with "+tenants.FormatID(tenants.EventPrefix, first.EventID)+" (github comment")
	require.Contains(t, alerts[0].Detail, `sent by "octocat"`)

	other := bot
	other.entity = "chat:2"
	require.Equal(t, db.RunDone, h.ended(h.hear(talker, other)).Status, "another entity")
	other.alone = true
	require.Equal(t, db.RunDone, h.ended(h.hear(talker, other)).Status, "no entity")
	shadow := h.talker("/hook", map[string]any{"mode": "shadow", "loop": map[string]any{"actions_per_hour": 1}})
	require.Equal(t, db.RunDone, h.ended(h.hear(shadow, bot)).Status, "nothing of it leaves")
	quiet := h.automation(map[string]any{"prompt": map[string]any{"user": "Answer."}, "action": map[string]any{"kind": "none"}, "loop": map[string]any{"actions_per_hour": 1}})
	require.Equal(t, db.RunDone, h.ended(h.hear(quiet, bot)).Status, "it makes no effect")
	require.Equal(t, db.RunSkipped, h.ended(h.hear(talker, bot)).Status)
	h.age(time.Hour)
	require.Equal(t, db.RunDone, h.ended(h.hear(talker, bot)).Status, "an hour later")
	require.Len(t, h.loops(), 1, "told once")
}

// TestRunsThatAreClaimedTogetherCount: what is about to be done counts, too.
func TestRunsThatAreClaimedTogetherCount(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.talker("/hook", map[string]any{"loop": map[string]any{"actions_per_hour": 3}})
	var compiled *automations.Compiled
	h.tx(func(tx db.TenantTx) error {
		v, err := tx.AutomationVersionGet(t.Context(), id, 1)
		if err != nil {
			return err
		}
		compiled, err = jobs.NewCompiled().Of(v)
		return err
	})
	entities := []string{"chat:1", "chat:1", "chat:2", "chat:1", "", "chat:1", "chat:2", "", "", "", "chat:2"}
	key := tenants.FormatID(keyPrefix, tenants.NewID())
	runs := make([]uuid.UUID, len(entities))
	for i := range runs {
		d := heard{}
		if i > 6 {
			d.id = fmt.Sprint(i, " ", key)
		}
		runs[i] = h.hear(id, d)
	}
	var got []string
	h.tx(func(tx db.TenantTx) error {
		// One action stands there already.
		if err := tx.ActionInsert(t.Context(), db.Action{
			ID: tenants.NewID(), RunID: runs[0], Kind: "callback", Key: key, Effect: json.RawMessage(`{}`), State: db.ActionConfirmed, Entity: "chat:1",
		}); err != nil {
			return err
		}
		steps, err := jobs.LoopedTogether(t.Context(), tx, compiled, runs, entities...)
		for i, step := range steps {
			if step != nil {
				got = append(got, fmt.Sprint(i, " ", step.Reason))
			}
		}
		return err
	})
	require.Equal(t, []string{"3 loop.rate", "5 loop.rate"}, got)
	for i, run := range runs {
		h.tx(func(tx db.TenantTx) error {
			r, err := tx.RunGet(t.Context(), run)
			require.Equal(t, i > 6, r.Depth == 1, "run %d", i)
			return err
		})
	}
	require.Len(t, h.loops(), 1)
}

func TestAStrangersMarkIsWorthOneStep(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	talker, strict := h.talker("/a", nil), h.talker("/b", map[string]any{"loop": map[string]any{"depth": 0}})
	h.ended(h.hear(talker, heard{}))
	entries, err := h.target.Wait(t.Context(), 1)
	require.NoError(t, err)
	ours := entries[0].Header.Get("Webhook-Id")

	// Whoever says that he stands at the depth 99 of a chain is not believed.
	forged := `{"title":"sluice-depth: 99 ` + keyPrefix + `_` + strings.Repeat("ab", 16) + ` ` + tenants.FormatID(tenants.RunPrefix, tenants.NewID()) + `","data":{"depth":99}}`
	for _, automation := range []uuid.UUID{talker, strict} {
		run := h.ended(h.hear(automation, heard{body: forged, headers: `{"sluice-depth":"99"}`}))
		require.Equal(t, "done 0", fmt.Sprint(run.Status, " ", run.Depth))
	}
	// One who copies a mark of ours, however often, makes one step of it, and does not bring it further.
	copied := heard{body: `{"title":"` + strings.Repeat(ours+" ", 100) + `"}`}
	for range 3 {
		run := h.ended(h.hear(talker, copied))
		require.Equal(t, "done 1", fmt.Sprint(run.Status, " ", run.Depth))
	}
	run := h.ended(h.hear(strict, copied))
	require.Equal(t, "skipped loop.depth 1", fmt.Sprint(run.Status, " ", run.Reason, " ", run.Depth))

	// Nor is one tenant's mark worth anything to another.
	other := newTenant(h)
	run = other.ended(other.hear(other.talker("/c", map[string]any{"loop": map[string]any{"depth": 0}}), copied))
	require.Equal(t, "done 0", fmt.Sprint(run.Status, " ", run.Depth))
}

// newTenant is another tenant of a house.
func newTenant(h *house) *house {
	h.t.Helper()
	other := *h
	require.NoError(h.t, h.base.DB.System(h.t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(h.t.Context(), "other", "UTC")
		other.tenant = tenant.TenantID
		return err
	}))
	other.tx(func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(h.t.Context(), "inbox", "standard", json.RawMessage(`{}`))
		other.endpoint = e.ID
		return err
	})
	return &other
}

func TestOurOwnActorIsKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		actor, sender string
		want          []string // what becomes of events that the sender sends one after another
	}{
		"by name":           {"Acme-Bot[bot]", `"login":"acme-bot[bot]"`, []string{"done 1", "done 2", "skipped 3"}},
		"by id":             {"41", `"login":"renamed","id":41`, []string{"done 1", "done 2", "skipped 3"}},
		"of the source":     {"github:41", `"login":"renamed","id":41`, []string{"done 1", "done 2", "skipped 3"}},
		"of another source": {"gitlab:41", `"login":"renamed","id":41`, []string{"done 0", "done 0", "done 0"}},
		"somebody else":     {"acme-bot", `"login":"acme-bot-2"`, []string{"done 0", "done 0", "done 0"}},
		"nobody":            {"", `"login":""`, []string{"done 0", "done 0", "done 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.work()
			h.tx(func(tx db.TenantTx) error {
				_, err := tx.CredentialUpdate(t.Context(), h.callback, db.CredentialChange{Actor: &c.actor}, 0)
				return err
			})
			talker := h.talker("/hook", nil)
			var got []string
			var run db.Run
			for range c.want {
				run = h.ended(h.hear(talker, heard{body: `{"sender":{` + c.sender + `}}`}))
				got = append(got, fmt.Sprint(run.Status, " ", run.Depth))
			}
			require.Equal(t, c.want, got)
			if run.Status == db.RunSkipped {
				require.Contains(t, run.Detail, "who is the actor of "+tenants.FormatID(tenants.CredentialPrefix, h.callback)+"; our last action about the same entity was act_")
				require.Len(t, h.loops(), 1)
			}
		})
	}
}

// TestTheDeeperCauseCounts: an old mark, quoted in each event of a ticket, does not hide that our own actor goes on.
func TestTheDeeperCauseCounts(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	actor := "acme-bot"
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.CredentialUpdate(t.Context(), h.callback, db.CredentialChange{Actor: &actor}, 0)
		return err
	})
	talker := h.talker("/hook", nil)
	h.ended(h.hear(talker, heard{}))
	entries, err := h.target.Wait(t.Context(), 1)
	require.NoError(t, err)
	quoting := heard{body: `{"sender":{"login":"acme-bot"},"issue":{"body":"` + entries[0].Header.Get("Webhook-Id") + `"}}`}
	for depth, status := range []db.RunStatus{db.RunDone, db.RunDone, db.RunSkipped} {
		run := h.ended(h.hear(talker, quoting))
		require.Equal(t, status, run.Status)
		require.Equal(t, depth+1, run.Depth)
	}
}
