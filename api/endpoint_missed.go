package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

// EndpointMissed is what the source sent and what did not arrive.
type EndpointMissed struct {
	CheckedAt *time.Time `json:"checked_at" doc:"when the source's deliveries were last looked through; null if never"`
	Fault     string     `json:"fault" doc:"why they could not be, the last time; empty if they could"`
	Found     int64      `json:"found" doc:"events that had not arrived when they were looked for"`
	Asked     int64      `json:"asked" doc:"those that the source was asked to send again"`
	Arrived   int64      `json:"arrived" doc:"those that arrived then"`
}

// missedSetting is the setting with which a source is asked for what did not arrive.
const missedSetting = "redeliver_hook"

// toEndpointMissed is nil for an endpoint whose settings ask for nothing.
func toEndpointMissed(settings map[string]any, m db.Missed) *EndpointMissed {
	if hook, _ := settings[missedSetting].(string); hook == "" {
		return nil
	}
	out := &EndpointMissed{Fault: m.Fault, Found: m.Found, Asked: m.Asked, Arrived: m.Arrived}
	if !m.CheckedAt.IsZero() {
		at := m.CheckedAt.UTC()
		out.CheckedAt = &at
	}
	return out
}

// missedOf reads how endpoints stand, by their ids.
func missedOf(ctx context.Context, tx db.TenantTx, ids ...uuid.UUID) (map[uuid.UUID]db.Missed, error) {
	rows, err := tx.MissedListOf(ctx, ids)
	out := make(map[uuid.UUID]db.Missed, len(rows))
	for _, m := range rows {
		out[m.EndpointID] = m
	}
	return out, err
}

// needsOf are the credentials that settings refer to.
func needsOf(s source.Source, settings source.Settings) []source.Need {
	if s.Needs == nil || settings == nil {
		return nil
	}
	return s.Needs(settings)
}

// needsCheck refuses credentials that are not there or of another kind, and lets no one but an admin have a credential sent to a host that is not the
// source's own: an editor, who cannot read a credential, could have it sent to himself. What was there before is not asked about again.
func (a *API) needsCheck(ctx context.Context, tx db.TenantTx, caller Caller, needs, before []source.Need) error {
	check := &automationChecker{api: a, tx: tx}
	for _, need := range needs {
		if err := check.credential(ctx, "settings."+need.Place, need.ID, need.Kind); err != nil {
			return err
		}
		if need.Stranger == "" {
			continue
		}
		if err := a.deps.Actions.CheckURL("https://" + need.Stranger); err != nil {
			check.fault("settings."+need.StrangerPlace, err.Error())
		} else if !caller.Role.May(tenants.Admin) && !slices.Contains(before, need) {
			check.fault("settings."+need.StrangerPlace, fmt.Sprintf(
				"the credential is sent to %s, which is not the source's own host: that takes a key of the role admin", need.Stranger))
		}
	}
	return invalid(check.faults)
}
