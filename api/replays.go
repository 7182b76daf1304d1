package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// Replay is work that was asked for on events that were stored before.
type Replay struct {
	ID           string `json:"id" example:"rpl_01980000000070008000000000000000"`
	Kind         string `json:"kind" enum:"replay,backtest"`
	Mode         string `json:"mode" enum:"run,from_action,shadow"`
	Status       string `json:"status" enum:"running,done,cancelled,stopped"`
	Reason       string `json:"reason,omitempty"`
	Detail       string `json:"detail,omitempty"`
	AutomationID string `json:"automation_id,omitempty" doc:"of a backtest"`
	Version      int    `json:"version,omitempty" doc:"the draft of a backtest, as a version of its automation"`

	Force      bool    `json:"force"`
	PerSecond  float64 `json:"per_second"`
	MaxCostUSD string  `json:"max_cost_usd,omitempty"`

	Items       int    `json:"items"`
	EstimateUSD string `json:"estimate_usd" doc:"by what earlier runs of the same automations have cost; without any, the worst case"`
	WorstUSD    string `json:"worst_usd" doc:"what would be reserved for it"`

	CreatedBy  string     `json:"created_by,omitempty" doc:"the key that asked for it"`
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`

	Progress *ReplayProgress `json:"progress,omitempty"`
}

func (Replay) version() int { return 1 }

// ReplayProgress is how a replay stands.
type ReplayProgress struct {
	Pending int            `json:"pending"`
	Started int            `json:"started"`
	Skipped map[string]int `json:"skipped" doc:"by reason"`
	Runs    map[string]int `json:"runs" doc:"what those that have started are, by status"`
	CostUSD string         `json:"cost_usd" doc:"of the runs it made"`

	Compared *ReplayCompared `json:"compared,omitempty" doc:"of a backtest: the draft beside what stands"`
}

// ReplayCompared are the sums of a backtest.
type ReplayCompared struct {
	OldCostUSD        string `json:"old_cost_usd"`
	NewCostUSD        string `json:"new_cost_usd"`
	OldSchemaFailures int    `json:"old_schema_failures"`
	NewSchemaFailures int    `json:"new_schema_failures"`
	Same              int    `json:"same" doc:"items whose old and new outputs are the same"`
}

// ReplayItem is one automation on one event.
type ReplayItem struct {
	Position     int         `json:"position"`
	EventID      string      `json:"event_id"`
	AutomationID string      `json:"automation_id"`
	State        string      `json:"state" enum:"pending,started,skipped"`
	Reason       string      `json:"reason,omitempty" doc:"why it was skipped"`
	Detail       string      `json:"detail,omitempty"`
	Old          *ReplayedAs `json:"old,omitempty" doc:"the run that it repeats, or is compared with"`
	New          *ReplayedAs `json:"new,omitempty" doc:"the run that it became; the same one where only its effect is made"`
	Changed      bool        `json:"changed" doc:"both have an output, and they differ"`
}

// ReplayedAs is a run of an item.
type ReplayedAs struct {
	RunID   string `json:"run_id"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Output  any    `json:"output,omitempty"`
	CostUSD string `json:"cost_usd"`
}

func toReplay(p db.Replay) Replay {
	out := Replay{
		ID: tenants.FormatID(tenants.ReplayPrefix, p.ID), Kind: p.Kind, Mode: p.Mode, Status: p.Status, Reason: p.Reason, Detail: p.Detail, Force: p.Forced,
		PerSecond: p.PerSecond, Items: p.Items, EstimateUSD: usdOf(p.EstimatePico), WorstUSD: usdOf(p.WorstPico), CreatedAt: p.CreatedAt.UTC(), FinishedAt: utc(p.FinishedAt),
	}
	if p.MaxCostPico != nil {
		out.MaxCostUSD = usdOf(*p.MaxCostPico)
	}
	if p.AutomationID != nil && p.AutomationVersion != nil {
		out.AutomationID, out.Version = tenants.FormatID(tenants.AutomationPrefix, *p.AutomationID), *p.AutomationVersion
	}
	if p.CreatedBy != nil {
		out.CreatedBy = tenants.FormatID(tenants.KeyPrefix, *p.CreatedBy)
	}
	return out
}

func toReplayProgress(p db.Replay, counts []db.ReplayCount) *ReplayProgress {
	out := &ReplayProgress{Skipped: map[string]int{}, Runs: map[string]int{}}
	compared := &ReplayCompared{}
	var newCost, oldCost int64
	for _, c := range counts {
		switch c.State {
		case db.ItemPending:
			out.Pending += c.Items
		case db.ItemSkipped:
			out.Skipped[c.Reason] += c.Items
		default:
			out.Started += c.Items
			out.Runs[c.Status] += c.Items
		}
		if c.StatusReason == "output.schema" {
			compared.NewSchemaFailures += c.Items
		}
		newCost, oldCost = newCost+c.NewCost, oldCost+c.OldCost
		compared.OldSchemaFailures += c.OldSchema
		compared.Same += c.Same
	}
	out.CostUSD = usdOf(newCost)
	if p.Kind == db.KindBacktest {
		compared.OldCostUSD, compared.NewCostUSD = usdOf(oldCost), usdOf(newCost)
		out.Compared = compared
	}
	return out
}

func toReplayItem(i db.ReplayItemSeen) ReplayItem {
	out := ReplayItem{
		Position: i.Position, EventID: tenants.FormatID(tenants.EventPrefix, i.EventID), AutomationID: tenants.FormatID(tenants.AutomationPrefix, i.AutomationID),
		State: i.State, Reason: i.Reason, Detail: i.Detail,
	}
	if i.RunID != nil {
		out.Old = &ReplayedAs{tenants.FormatID(tenants.RunPrefix, *i.RunID), i.OldStatus, i.OldReason, anyOf(i.OldOutput), usdOf(i.OldCostPico)}
	}
	if i.NewRunID != nil {
		out.New = &ReplayedAs{tenants.FormatID(tenants.RunPrefix, *i.NewRunID), i.NewStatus, i.NewReason, anyOf(i.NewOutput), usdOf(i.NewCostPico)}
	}
	out.Changed = len(i.OldOutput) > 0 && len(i.NewOutput) > 0 && !reflect.DeepEqual(out.Old.Output, out.New.Output)
	return out
}

// ReplayRunFilter is which runs are replayed.
type ReplayRunFilter struct {
	Status       string     `json:"status,omitempty" enum:"done,skipped,dead,cancelled"`
	Reason       string     `json:"reason,omitempty" maxLength:"100" doc:"a * at its end stands for any rest, as in action.*"`
	AutomationID string     `json:"automation_id,omitempty"`
	EndpointID   string     `json:"endpoint_id,omitempty"`
	Type         string     `json:"type,omitempty" maxLength:"512" doc:"of the event"`
	Entity       string     `json:"entity,omitempty" maxLength:"1024"`
	Since        *time.Time `json:"since,omitempty" doc:"made from this time on"`
	Until        *time.Time `json:"until,omitempty" doc:"made before this time"`
}

// ReplayEventFilter is which events are replayed.
type ReplayEventFilter struct {
	EndpointID string     `json:"endpoint_id,omitempty"`
	Type       string     `json:"type,omitempty" maxLength:"512"`
	Entity     string     `json:"entity,omitempty" maxLength:"1024"`
	Since      *time.Time `json:"since,omitempty" doc:"received from this time on"`
	Until      *time.Time `json:"until,omitempty" doc:"received before this time"`
}

// ReplayAsked is what is asked for.
type ReplayAsked struct {
	ID          string             `json:"id,omitempty" doc:"an id of your own choice, rpl_ and 32 hex digits: asked for twice, it is done once" example:"rpl_01980000000070008000000000000000"`
	Runs        []string           `json:"runs,omitempty" maxItems:"10000" doc:"runs to replay; this, or one of the next three"`
	Filter      *ReplayRunFilter   `json:"filter,omitempty" doc:"runs to replay: those that all of this holds for"`
	Events      []string           `json:"events,omitempty" maxItems:"10000" doc:"events to replay, for every automation of their endpoint whose when matches now"`
	EventFilter *ReplayEventFilter `json:"event_filter,omitempty" doc:"events to replay: those that all of this holds for"`

	AutomationID string  `json:"automation_id,omitempty" doc:"of events: this automation alone"`
	Mode         string  `json:"mode" enum:"run,from_action,shadow" doc:"run: a new run at the automation's version of now, with all that follows. from_action: the effect of the outcome that was kept, and no model is asked. shadow: a new run of which nothing leaves"`
	DryRun       bool    `json:"dry_run,omitempty" doc:"only the count and the price"`
	Force        bool    `json:"force,omitempty" doc:"makes effects again that were made before, or may have been"`
	PerSecond    float64 `json:"per_second,omitempty" minimum:"0.01" maximum:"100" doc:"items that begin in a second; 5 if left out"`
	MaxCostUSD   string  `json:"max_cost_usd,omitempty" doc:"it stops where its runs have cost that much" example:"1.50"`
}

// ReplayPrice is what a replay would be.
type ReplayPrice struct {
	DryRun      bool           `json:"dry_run"`
	Count       int            `json:"count" doc:"items: automations on events. At most: what is to be skipped, such as an event that the automation does not want, is known when its turn comes"`
	By          map[string]int `json:"by" doc:"items by automation"`
	EstimateUSD string         `json:"estimate_usd"`
	WorstUSD    string         `json:"worst_usd"`
	Sampled     int            `json:"sampled" doc:"how many items the price was found of; the others are taken to be like them"`
}

// ReplayAnswer is a replay, or its price.
type ReplayAnswer struct {
	*ReplayPrice
	Replay *Replay `json:"replay,omitempty" doc:"left out for a dry run"`
}

func (ReplayAnswer) version() int { return 1 }

const (
	// replayItemsMax bounds the items of one replay.
	replayItemsMax = 10_000
	// replayPerSecond is the pace where nothing is said.
	replayPerSecond = 5
)

type replayCreateInput struct {
	Caller
	Creating

	Body ReplayAsked
}

type replayListInput struct {
	Caller
	Page
}

type replayInput struct {
	Caller

	ID string `path:"id" doc:"rpl_..."`
}

type replayItemsInput struct {
	Caller
	Page

	ID string `path:"id" doc:"rpl_..."`
}

type replayOutput struct{ Body Replay }

func (a *API) registerReplays() {
	tags := []string{"Replays"}
	register(a, editorRole, huma.Operation{
		OperationID: "create-replay", Method: http.MethodPost, Path: "/v1/replays", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Do runs or events again",
		Description: "Ask with dry_run first: it answers the count and the price, and writes nothing. At most 10,000 items. Fresh events go first. An effect that was made, or may " +
			"have been, is not made again without force; nothing of a run in shadow mode is ever sent. The same id twice is one replay; another request under it: 409 replay.different.",
	}, a.replayCreate)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-replays", Method: http.MethodGet, Path: "/v1/replays", Tags: tags, Summary: "List replays and backtests",
	}, a.replayList)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-replay", Method: http.MethodGet, Path: "/v1/replays/{id}", Tags: tags, Summary: "Read a replay, and how far it is",
	}, a.replayGet)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-replay-items", Method: http.MethodGet, Path: "/v1/replays/{id}/items", Tags: tags,
		Summary: "List the items of a replay in their order, with their old and new outputs",
	}, a.replayItems)
	register(a, editorRole, huma.Operation{
		OperationID: "cancel-replay", Method: http.MethodPost, Path: "/v1/replays/{id}/cancel", Tags: tags, Summary: "End a replay that has not ended",
		Description: "What has not begun is skipped, and runs that nobody works on yet are cancelled. What is under way comes to its end.",
	}, a.replayCancel)
}

// replayPlan is what is to be done.
type replayPlan struct {
	items []db.ReplayItem
	price ReplayPrice
	worst int64
	mean  int64
	most  *int64
}

func (a *API) replayCreate(ctx context.Context, in *replayCreateInput) (*made[ReplayAnswer], error) {
	asked, err := json.Marshal(in.Body)
	if err != nil {
		return nil, fmt.Errorf("keep what is asked for: %w", err)
	}
	return create(ctx, a, in.Caller, in.Creating, in.Body, func(tx db.TenantTx) (ReplayAnswer, error) {
		id := tenants.NewID()
		if in.Body.ID != "" {
			var ok bool
			if id, ok = tenants.ParseID(tenants.ReplayPrefix, in.Body.ID); !ok {
				return ReplayAnswer{}, invalidAt("body.id", "expected rpl_ and 32 hex digits, in lower case")
			}
			if there, err := tx.ReplayGet(ctx, id); err == nil {
				return a.replayTwice(ctx, tx, there, asked)
			} else if !errors.Is(err, db.ErrNotFound) {
				return ReplayAnswer{}, err
			}
		}
		plan, err := a.replayPlan(ctx, tx, in.Body)
		if err != nil || in.Body.DryRun {
			plan.price.DryRun = true
			return ReplayAnswer{ReplayPrice: &plan.price}, err
		}
		err = tx.ReplayInsert(ctx, db.Replay{
			ID: id, Kind: db.KindReplay, Mode: in.Body.Mode, Asked: asked, Forced: in.Body.Force, PerSecond: cmp.Or(in.Body.PerSecond, replayPerSecond),
			MaxCostPico: plan.most, EstimatePico: plan.mean, WorstPico: plan.worst, CreatedBy: &in.KeyID,
		}, plan.items)
		if errors.Is(err, db.ErrConflict) {
			// The same was asked for at the same moment, and came first.
			there, err := tx.ReplayGet(ctx, id)
			if err != nil {
				return ReplayAnswer{}, err
			}
			return a.replayTwice(ctx, tx, there, asked)
		} else if err != nil {
			return ReplayAnswer{}, err
		}
		return a.replayAnswer(ctx, tx, id)
	})
}

// replayTwice answers a replay that is there, if it was asked for in the same way.
func (a *API) replayTwice(ctx context.Context, tx db.TenantTx, there db.Replay, asked json.RawMessage) (ReplayAnswer, error) {
	var before, now any
	if json.Unmarshal(there.Asked, &before) != nil || json.Unmarshal(asked, &now) != nil || !reflect.DeepEqual(before, now) {
		return ReplayAnswer{}, conflict("replay.different", "There is a replay of this id, and it was asked for otherwise. Take another id.")
	}
	return a.replayAnswer(ctx, tx, there.ID)
}

func (a *API) replayAnswer(ctx context.Context, tx db.TenantTx, id uuid.UUID) (ReplayAnswer, error) {
	p, err := tx.ReplayGet(ctx, id)
	if err != nil {
		return ReplayAnswer{}, err
	}
	counts, err := tx.ReplayCounts(ctx, id)
	shown := toReplay(p)
	shown.Progress = toReplayProgress(p, counts)
	return ReplayAnswer{Replay: &shown}, err
}

// replayPlan finds the items and their price.
func (a *API) replayPlan(ctx context.Context, tx db.TenantTx, asked ReplayAsked) (replayPlan, error) {
	var plan replayPlan
	if asked.MaxCostUSD != "" {
		most, err := automations.ParseUSD(asked.MaxCostUSD)
		if err != nil {
			return plan, invalidAt("body.max_cost_usd", err.Error())
		}
		plan.most = &most
	}
	var err error
	if plan.items, err = a.replayFind(ctx, tx, asked); err != nil {
		return plan, err
	}
	price := ReplayPrice{Count: len(plan.items), By: map[string]int{}}
	if asked.Mode == db.ReplayFromAction {
		for _, i := range plan.items {
			price.By[tenants.FormatID(tenants.AutomationPrefix, i.AutomationID)]++
		}
		price.EstimateUSD, price.WorstUSD, price.Sampled = usdOf(0), usdOf(0), len(plan.items)
		plan.price = price
		return plan, nil
	}
	return plan, a.replayCost(ctx, tx, &plan, price, nil, true)
}

// replayCost prices the items, automation by automation: at its version of now, or as draft says; alike as for jobs.PriceItems.
func (a *API) replayCost(ctx context.Context, tx db.TenantTx, plan *replayPlan, price ReplayPrice, draft *automations.Compiled, alike bool) error {
	byAutomation := map[uuid.UUID][]db.ReplayItem{}
	for _, i := range plan.items {
		byAutomation[i.AutomationID] = append(byAutomation[i.AutomationID], i)
	}
	for id, items := range byAutomation {
		price.By[tenants.FormatID(tenants.AutomationPrefix, id)] = len(items)
		compiled := draft
		if compiled == nil {
			var err error
			if compiled, err = a.compiledNow(ctx, tx, id); err != nil {
				return err
			}
		}
		if compiled == nil {
			continue // it is skipped when its turn comes, and says so
		}
		p, err := jobs.PriceItems(ctx, tx, compiled, items, alike)
		if err != nil {
			return err
		}
		plan.mean, plan.worst, price.Sampled = plan.mean+p.Estimate, plan.worst+p.Worst, price.Sampled+p.Sampled
	}
	price.EstimateUSD, price.WorstUSD = usd(big.NewInt(plan.mean)), usd(big.NewInt(plan.worst))
	plan.price = price
	return nil
}

func (a *API) replayList(ctx context.Context, in *replayListInput) (*listed[Replay], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Replay
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.ReplayList(ctx, page)
		return err
	})
	return pageOf(rows, in.Limit, toReplay, func(p db.Replay) string { return byID(p.ID) }), err
}

func (a *API) replayGet(ctx context.Context, in *replayInput) (*replayOutput, error) {
	id, err := pathID(tenants.ReplayPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &replayOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		answer, err := a.replayAnswer(ctx, tx, id)
		if err == nil {
			out.Body = *answer.Replay
		}
		return err
	})
	return out, err
}

func (a *API) replayItems(ctx context.Context, in *replayItemsInput) (*listed[ReplayItem], error) {
	id, err := pathID(tenants.ReplayPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	after := 0
	if text, err := in.text(); err != nil {
		return nil, err
	} else if text != "" {
		if after, err = strconv.Atoi(text); err != nil || after < 1 || after > replayItemsMax {
			return nil, invalidAt("query.cursor", errCursor)
		}
	}
	var rows []db.ReplayItemSeen
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		if _, err := tx.ReplayGet(ctx, id); err != nil {
			return err
		}
		var err error
		rows, err = tx.ReplayItemList(ctx, id, after, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pageOf(rows, in.Limit, toReplayItem, func(i db.ReplayItemSeen) string { return strconv.Itoa(i.Position) }), nil
}

func (a *API) replayCancel(ctx context.Context, in *replayInput) (*replayOutput, error) {
	id, err := pathID(tenants.ReplayPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &replayOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		if _, err := tx.ReplayGet(ctx, id); err != nil {
			return err
		}
		const reason, detail = "cancelled.person", "A person cancelled the replay."
		if err := tx.ReplayEnd(ctx, id, db.ReplayCancelled, reason, detail); errors.Is(err, db.ErrStale) {
			return conflict("replay.ended", "The replay has ended already.")
		} else if err != nil {
			return err
		}
		open, err := tx.ReplayRunsOpen(ctx, id)
		if err != nil {
			return err
		}
		for _, r := range open {
			if err := tx.RunCancel(ctx, r.ID, reason, detail); err != nil && !errors.Is(err, db.ErrConflict) {
				return err
			}
			if err := a.deps.Poster.HandOver(ctx, tx, r); err != nil {
				return err
			}
		}
		answer, err := a.replayAnswer(ctx, tx, id)
		if err == nil {
			out.Body = *answer.Replay
		}
		return err
	})
	return out, err
}
