package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// Score is what people said of an automation's outputs: of those of one version, and of all others that behave as it does, on events of its endpoint.
type Score struct {
	AutomationID string `json:"automation_id"`
	Version      int    `json:"version"`
	ScoreCounts

	Last          int            `json:"last" doc:"how many of the last verdicts the pass rate is of, at most"`
	Counted       int            `json:"counted" doc:"how many there are of these"`
	PassRate      *float64       `json:"pass_rate,omitempty" doc:"which part of them approved the output as it was; left out where there is none"`
	PassRateLower float64        `json:"pass_rate_lower" doc:"the lower bound of the pass rate, with 95 % confidence (Wilson)"`
	PassRateUpper float64        `json:"pass_rate_upper" doc:"the upper bound"`
	Bar           *Bar           `json:"bar,omitempty" doc:"what the version asks for to go live (promote); left out where it asks for nothing"`
	ByVersion     []VersionScore `json:"by_version" doc:"every version that has verdicts, newest first"`
}

// ScoreCounts are verdicts, counted.
type ScoreCounts struct {
	Reviews           int64   `json:"reviews" doc:"verdicts of people: approved_unchanged, edited and rejected"`
	ApprovedUnchanged int64   `json:"approved_unchanged"`
	Edited            int64   `json:"edited"`
	MeanChanged       float64 `json:"mean_changed" doc:"how much of the edited ones was changed, 0 to 1"`
	Rejected          int64   `json:"rejected"`
	Expired           int64   `json:"expired" doc:"runs that nobody decided on in time; they count in nothing else"`
}

// VersionScore is the score of one version alone.
type VersionScore struct {
	Version       int    `json:"version"`
	Mode          string `json:"mode" enum:"shadow,review,live"`
	SameBehaviour bool   `json:"same_behaviour" doc:"it decides and writes as the version that was asked for, so that its verdicts count for that one"`
	ScoreCounts
}

// Bar is how far an automation is from going live.
type Bar struct {
	Reviews  int     `json:"reviews" doc:"of so many verdicts"`
	PassRate float64 `json:"pass_rate" doc:"so large a part must approve the output as it was"`
	Met      bool    `json:"met"`
	Missing  int     `json:"missing" doc:"how many more approvals in a row it takes"`
}

func toBar(p automations.PromoteSpec, verdicts []bool) *Bar {
	missing := p.Missing(verdicts)
	return &Bar{Reviews: p.Reviews, PassRate: p.PassRate, Met: missing == 0, Missing: missing}
}

func toScoreCounts(s db.Score) ScoreCounts {
	return ScoreCounts{
		Reviews: s.Approved + s.Edited + s.Rejected, ApprovedUnchanged: s.Approved, Edited: s.Edited, MeanChanged: s.EditedMean, Rejected: s.Rejected,
		Expired: s.Expired,
	}
}

// plus adds up two counts.
func (c ScoreCounts) plus(d ScoreCounts) ScoreCounts {
	sum := ScoreCounts{
		Reviews: c.Reviews + d.Reviews, ApprovedUnchanged: c.ApprovedUnchanged + d.ApprovedUnchanged, Edited: c.Edited + d.Edited,
		Rejected: c.Rejected + d.Rejected, Expired: c.Expired + d.Expired,
	}
	if sum.Edited > 0 {
		sum.MeanChanged = (c.MeanChanged*float64(c.Edited) + d.MeanChanged*float64(d.Edited)) / float64(sum.Edited)
	}
	return sum
}

type scoreInput struct {
	Caller

	ID      string `path:"id" doc:"aut_..."`
	Version int    `query:"version" minimum:"0" maximum:"1000000000" doc:"the version in service if left out"`
	Last    int    `query:"last" minimum:"0" maximum:"1000" doc:"how many of the last verdicts the pass rate is of; promote.reviews if left out, or 100 where there is no bar"`
}

type scoreOutput struct{ Body Score }

// scoreLast is how many verdicts a pass rate is of where nothing is said.
const scoreLast = 100

func (a *API) registerScores() {
	register(a, viewerRole, huma.Operation{
		OperationID: "get-automation-score", Method: http.MethodGet, Path: "/v1/automations/{id}/score", Tags: []string{"Automations"},
		Summary: "Read what people said of an automation's outputs, and whether it may go live",
	}, a.automationScore)
}

func (a *API) automationScore(ctx context.Context, in *scoreInput) (*scoreOutput, error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &scoreOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		row, err := tx.AutomationGet(ctx, id)
		if err != nil {
			return err
		}
		spec := row.Spec
		if in.Version == 0 {
			in.Version = row.Version
		}
		if in.Version != row.Version {
			v, err := tx.AutomationVersionGet(ctx, id, in.Version)
			if err != nil {
				return err
			}
			spec = v.Spec
		}
		out.Body, err = scoreRead(ctx, tx, row, in.Version, in.Last, barOf(spec))
		return err
	})
	return out, err
}

// scoreRead reads a version's score; bar is nil where it asks for nothing.
func scoreRead(ctx context.Context, tx db.TenantTx, a db.Automation, version, last int, bar *automations.PromoteSpec) (Score, error) {
	out := Score{AutomationID: tenants.FormatID(tenants.AutomationPrefix, a.ID), Version: version, Last: last, ByVersion: []VersionScore{}}
	reviews := 0
	if bar != nil {
		reviews = bar.Reviews
	}
	if out.Last == 0 && bar != nil {
		out.Last = reviews
	} else if out.Last == 0 {
		out.Last = scoreLast
	}
	rows, err := tx.ScoreList(ctx, a, version)
	if err != nil {
		return out, err
	}
	for _, row := range rows {
		one := VersionScore{Version: row.Version, Mode: row.Mode, SameBehaviour: row.SameBehaviour, ScoreCounts: toScoreCounts(row)}
		out.ByVersion = append(out.ByVersion, one)
		if one.SameBehaviour {
			out.ScoreCounts = out.plus(one.ScoreCounts)
		}
	}
	verdicts, err := tx.VerdictList(ctx, db.VerdictAsk{AutomationID: a.ID, EndpointID: a.EndpointID, Version: version, Limit: max(out.Last, reviews)})
	if err != nil {
		return out, err
	}
	if bar != nil {
		out.Bar = toBar(*bar, verdicts)
	}
	verdicts = verdicts[:min(len(verdicts), out.Last)]
	passed, rate := automations.PassRate(verdicts)
	if out.Counted = len(verdicts); out.Counted > 0 {
		out.PassRate = &rate
	}
	out.PassRateLower, out.PassRateUpper = automations.Wilson(passed, out.Counted)
	return out, nil
}

// barOf is the bar that a stored automation carries; nil for none.
func barOf(spec json.RawMessage) *automations.PromoteSpec {
	var said struct{ Promote *automations.PromoteSpec }
	if json.Unmarshal(spec, &said) != nil {
		return nil
	}
	return said.Promote
}

// mayGoLive refuses to put a spec in service as live where what it writes has not met each of the bars: its own, and that of the version which it
// replaces, since a bar that falls in the very change which it stands against would be none. id is uuid.Nil of an automation that is only being made.
func mayGoLive(ctx context.Context, tx db.TenantTx, id uuid.UUID, v automationValue, replaced json.RawMessage) error {
	if v.spec.Mode != automations.ModeLive {
		return nil
	}
	behaviour, err := tx.Behaviour(ctx, v.stored)
	if err != nil {
		return err
	}
	for _, bar := range []*automations.PromoteSpec{v.spec.Promote, barOf(replaced)} {
		if bar == nil {
			continue
		}
		verdicts, err := tx.VerdictList(ctx, db.VerdictAsk{AutomationID: id, EndpointID: v.endpointID, Behaviour: behaviour, Limit: bar.Reviews})
		if err != nil {
			return err
		}
		if missing := bar.Missing(verdicts); missing > 0 {
			return errBarNotMet(*bar, verdicts, missing)
		}
	}
	return nil
}

func errBarNotMet(bar automations.PromoteSpec, verdicts []bool, missing int) error {
	const percent = 100
	passed, _ := automations.PassRate(verdicts)
	return conflict("automation.bar_not_met", fmt.Sprintf(
		"It may not go live yet: of the last %d verdicts on what behaves as it does, %g %% must approve the output as it was (promote). There are %d, of which %d do; "+
			"%d more approvals in a row are missing. Put it into review (mode review), or try it beside the version in service (POST /v1/automations/{id}/trial).",
		bar.Reviews, percent*bar.PassRate, len(verdicts), passed, missing))
}
