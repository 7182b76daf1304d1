package jobs_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/action/actiontest"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

// A crash is a way in which an attempt at an effect goes wrong.
type crash struct {
	name string
	// steps is what the service is scripted to do, where the worker is alive.
	steps []scripted.VendorStep
	// dies is what the worker did before it was killed, for the others: nothing of it was written down but that the effect is in flight.
	dies func(t *testing.T, c action.Connector, s action.Send)
}

// aborted is the step of a service that is asked at a wrong time: the effect is surely not made, and is to be tried much later.
var aborted = scripted.VendorStep{Status: 429, RetryAfter: "3600"}

var crashes = []crash{
	{name: "killed before it is sent", dies: func(*testing.T, action.Connector, action.Send) {}},
	{name: "killed after it is sent", dies: func(t *testing.T, c action.Connector, s action.Send) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Do(ctx, s)
		require.Error(t, err, "the service acts, and the answer is lost")
	}},
	{name: "killed before it is confirmed", dies: func(t *testing.T, c action.Connector, s action.Send) {
		_, err := c.Do(t.Context(), s)
		require.NoError(t, err)
	}},
	{name: "500 after acting", steps: []scripted.VendorStep{{Status: 500, Act: true}}},
	{name: "cut after acting", steps: []scripted.VendorStep{{Cut: true, Act: true}}},
	{name: "no answer after acting", steps: []scripted.VendorStep{{Hang: true, Act: true}}},
	{name: "500 without acting", steps: []scripted.VendorStep{{Status: 500}}},
	{name: "well"},
}

// trial is one connector in one crash.
type trial struct {
	kind  string
	crash crash
	target
	run uuid.UUID
}

// A target is what a connector writes to, and keeps count.
type target struct {
	sample, account, secret, base string
	script                        func(steps ...scripted.VendorStep)
	made                          func() int
}

// targets makes one of every kind, by its name. Those that are no vendor's API stand here; the others are those of actiontest.
func targets() map[string]func(t *testing.T) target {
	all := map[string]func(t *testing.T) target{
		"callback": func(t *testing.T) target {
			return hookTarget(t, "callback", `{"kind": "callback", "url": "URL", "credential_id": "crd_1"}`)
		},
		"http": func(t *testing.T) target {
			return hookTarget(t, "http", `{"kind": "http", "url": "URL", "credential_id": "crd_1", "json": "{\"a\": \"BODY\"}"}`)
		},
		"http idempotent": func(t *testing.T) target {
			return hookTarget(t, "http", `{"kind": "http", "url": "URL", "credential_id": "crd_1", "idempotent": true, "body": "BODY"}`)
		},
		"email": mailTarget,
	}
	for kind, c := range actiontest.Cases {
		all[kind] = func(t *testing.T) target { return vendorTarget(t, kind, c) }
	}
	return all
}

func vendorTarget(t *testing.T, kind string, c actiontest.Case) target {
	t.Helper()
	connector, ok := action.New(outbound.New(outbound.Config{})).Get(kind)
	require.True(t, ok)
	v := c.Vendor(time.Now)
	address, err := v.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = v.Close() })
	return target{
		sample: c.Sample, account: connector.Spec().Account, secret: c.Secret, base: address + c.Root, script: v.Script, made: func() int { return len(v.Effects()) },
	}
}

func hookTarget(t *testing.T, account, sample string) target {
	t.Helper()
	hook, err := scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	address, err := hook.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hook.Close() })
	out := target{sample: strings.ReplaceAll(sample, "URL", address+"/hook"), account: account, secret: secret}
	if account == "http" {
		out.secret, out.base = "Bearer "+actiontest.Token, address
	}
	out.script = func(steps ...scripted.VendorStep) {
		var mine []scripted.TargetStep
		for _, s := range steps {
			mine = append(mine, scripted.TargetStep{Status: s.Status, Act: s.Act, Hang: s.Hang, Cut: s.Cut, RetryAfter: s.RetryAfter})
		}
		hook.Script(append(mine, scripted.TargetStep{})...)
	}
	out.made = func() (n int) {
		for _, e := range hook.Journal() {
			if e.Acted {
				n++
			}
		}
		return n
	}
	return out
}

func mailTarget(t *testing.T) target {
	t.Helper()
	box := scripted.NewMailbox(scripted.MailConfig{User: "relay", Password: "password", Now: time.Now})
	address, err := box.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = box.Close() })
	return target{
		sample:  `{"kind": "email", "credential_id": "crd_1", "from": "support@acme.example", "to": "ann@example.com", "subject": "Your order", "body": "BODY"}`,
		account: "smtp", secret: "relay:password", base: "smtp://" + address, made: func() int { return len(box.Journal()) },
		script: func(steps ...scripted.VendorStep) {
			box.Script("MAIL")
			box.Script("END")
			for _, s := range steps {
				switch {
				case s.Hang:
					box.Script("END", scripted.MailHang)
				case s.Act:
					box.Script("END", scripted.MailCut)
				case s.RetryAfter != "":
					box.Script("MAIL", slices.Repeat([]string{"450 4.3.0 later"}, 20)...)
				default:
					box.Script("MAIL", "450 4.3.0 later")
				}
			}
		},
	}
}

// TestEveryEffectIsMadeOnceOrUnknown plays every crash with every connector, and asks the services what was made.
func TestEveryEffectIsMadeOnceOrUnknown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok", Answer: `{"reply":"` + words + `"}`}))
	var trials []*trial
	every := targets()
	for _, kind := range action.New(outbound.New(outbound.Config{})).Kinds() {
		if kind != action.KindNone {
			require.Contains(t, every, kind, "every connector is killed")
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(every)) {
		for _, c := range crashes {
			trials = append(trials, h.trial(t, kind, c, every[kind](t)))
		}
	}
	first := h.work(quickActions)
	for _, one := range trials {
		if one.crash.dies != nil {
			h.until(one.run, func(r db.Run) bool { return r.Status == db.RunActing && r.Until != nil })
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	require.NoError(t, first.Stop(ctx))
	for _, one := range trials {
		h.die(t, one)
	}
	// Two at once, of which each is told of every effect.
	h.work(quickActions)
	h.work(quickActions)
	for _, one := range trials {
		h.check(t, one)
	}
	require.Len(t, h.provider.Journal(), len(trials), "no model is asked twice since an effect went wrong")
}

func quickActions(s *settings) {
	s.actionTimeout, s.settle, s.lease = time.Second, 300*time.Millisecond, 3*time.Second
}

const words = "Thank you, we look into it."

// trial makes a service, a credential and an automation for it, and an event.
func (h *house) trial(t *testing.T, kind string, c crash, to target) *trial {
	t.Helper()
	one := &trial{kind: kind, crash: c, target: to}
	one.script(c.steps...)
	if c.dies != nil {
		one.script(aborted)
	}
	var credential uuid.UUID
	h.tx(func(tx db.TenantTx) error {
		made, err := tx.CredentialInsertAt(t.Context(), one.account, one.account, one.base, tenants.NewSecret(one.secret))
		credential = made.ID
		return err
	})
	sample := strings.ReplaceAll(one.sample, "crd_1", tenants.FormatID(tenants.CredentialPrefix, credential))
	automation := h.automation(map[string]any{"action": json.RawMessage(strings.ReplaceAll(sample, "BODY", "{{ output.reply }}"))})
	one.run = h.event(automation, `{"title":"a"}`)
	return one
}

// die leaves an effect as a worker does that was killed.
func (h *house) die(t *testing.T, one *trial) {
	t.Helper()
	if one.crash.dies == nil {
		return
	}
	var held []db.ActionHeld
	h.tx(func(tx db.TenantTx) error {
		ids, err := tx.ActionsHasten(t.Context(), one.run)
		require.NoError(t, err)
		held, err = tx.ActionsClaim(t.Context(), ids, time.Millisecond)
		return err
	})
	require.Len(t, held, 1, one.kind)
	var effect action.Effect
	require.NoError(t, json.Unmarshal(held[0].Effect, &effect))
	connector, ok := action.New(outbound.New(outbound.Config{AllowLoopback: true, Timeout: 2 * time.Second})).Get(effect.Kind)
	require.True(t, ok)
	one.script() // it is well again
	if one.crash.name == "killed after it is sent" {
		one.script(scripted.VendorStep{Cut: true, Act: true})
	}
	one.crash.dies(t, connector, action.Send{
		Access: action.Access{Secret: one.secret, Base: one.base}, Key: held[0].Key, Effect: effect, At: time.Now(), Attempt: 1, Since: time.Now(),
	})
	h.tx(func(tx db.TenantTx) error {
		return h.poster.PostActions(t.Context(), tx.Pgx(), []jobs.ActionArgs{{TenantID: h.tenant, ActionID: held[0].ID}, {TenantID: h.tenant, ActionID: held[0].ID}})
	})
}

// check asks the service what it has.
func (h *house) check(t *testing.T, one *trial) {
	t.Helper()
	name := one.kind + ": " + one.crash.name
	run := h.ended(one.run)
	var acted db.Action
	h.tx(func(tx db.TenantTx) error {
		actions, err := tx.ActionList(t.Context(), one.run)
		require.Len(t, actions, 1, name)
		acted = actions[0]
		return err
	})
	var effect action.Effect
	require.NoError(t, json.Unmarshal(acted.Effect, &effect))
	made := one.made()
	if effect.Once == action.OnceNever && (one.crash.dies != nil || len(one.crash.steps) > 0 && one.crash.steps[0].Act) {
		require.Equal(t, db.RunDead, run.Status, "%s: nobody can tell", name)
	}
	require.LessOrEqual(t, made, 1, name)
	doubtful := one.crash.dies != nil || len(one.crash.steps) > 0
	if effect.Once == action.OnceNever && doubtful && run.Status != db.RunDone {
		require.Equal(t, []any{db.RunDead, "action.unknown", db.ActionUnknown}, []any{run.Status, run.Reason, acted.State}, "%s: %s", name, run.Detail)
		return
	}
	require.Equal(t, []any{db.RunDone, db.ActionConfirmed, 1}, []any{run.Status, acted.State, made}, "%s: %s %s", name, run.Reason, run.Detail)
	var receipt action.Receipt
	require.NoError(t, json.Unmarshal(acted.Receipt, &receipt), name)
	if effect.Once == action.OnceMark {
		require.NotEmpty(t, receipt.ID, name)
	}
}
