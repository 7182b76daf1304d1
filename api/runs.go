package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/tenants"
)

// Run is one automation applied to one event, without what it did.
type Run struct {
	ID                string     `json:"id" example:"run_01980000000070008000000000000000"`
	EventID           string     `json:"event_id"`
	EndpointID        string     `json:"endpoint_id"`
	AutomationID      string     `json:"automation_id"`
	AutomationVersion int        `json:"automation_version"`
	Mode              string     `json:"mode" enum:"shadow,review,live"`
	Priority          string     `json:"priority" enum:"urgent,routine"`
	Status            string     `json:"status" enum:"queued,running,waiting,held,in_review,acting,done,skipped,dead,cancelled"`
	Reason            string     `json:"reason,omitempty" doc:"why it stands there, for a program"`
	Detail            string     `json:"detail,omitempty" doc:"why it stands there, for a person"`
	Until             *time.Time `json:"until,omitempty" doc:"when it goes on"`
	Attempt           int        `json:"attempt"`
	AttemptsMax       int        `json:"attempts_max"`
	CostUSD           string     `json:"cost_usd" example:"0.000412"`
	Order             string     `json:"order,omitempty" enum:"latest,serial" doc:"how it stands to the runs of the same entity; left out where it stands on its own"`
	TokensSaved       int64      `json:"tokens_saved,omitempty" doc:"what was not spent on it, an estimate, since a newer event made it superfluous"`
	Depth             int        `json:"depth,omitempty" doc:"how many of our own actions stand in the chain that led to its event"`
	CreatedAt         time.Time  `json:"created_at"`
	StartedAt         *time.Time `json:"started_at,omitempty"`
	FinishedAt        *time.Time `json:"finished_at,omitempty"`
	UpdatedAt         time.Time  `json:"updated_at"`
}

// RunFull is a run with all that it did.
type RunFull struct {
	Run

	Output   any      `json:"output,omitempty" doc:"what the model answered, as the automation takes it"`
	Calls    []Call   `json:"calls"`
	Actions  []Action `json:"actions"`
	Review   *Review  `json:"review,omitempty" doc:"the verdict of a person, or of the time that was over"`
	CausedBy *Cause   `json:"caused_by,omitempty" doc:"which of our own actions caused its event, where that is known"`
}

// Cause is an action of ours that caused an event.
type Cause struct {
	ActionID string `json:"action_id" example:"act_01980000000070008000000000000000"`
	RunID    string `json:"run_id" example:"run_01980000000070008000000000000000"`
}

// Call is one request to a model.
type Call struct {
	ID                 string     `json:"id"`
	State              string     `json:"state" enum:"intended,sent,received,failed,orphaned"`
	Provider           string     `json:"provider"`
	ModelAsked         string     `json:"model_asked"`
	ModelServed        string     `json:"model_served,omitempty"`
	InputUncached      int64      `json:"input_uncached"`
	InputCacheRead     int64      `json:"input_cache_read"`
	InputCacheWrite5m  int64      `json:"input_cache_write_5m"`
	InputCacheWrite1h  int64      `json:"input_cache_write_1h"`
	OutputVisible      int64      `json:"output_visible"`
	OutputReasoning    int64      `json:"output_reasoning"`
	CostUSD            string     `json:"cost_usd"`
	Finish             string     `json:"finish,omitempty" doc:"why the model stopped"`
	UsageFault         string     `json:"usage_fault,omitempty" doc:"what was odd about the usage that was reported"`
	ErrorKind          string     `json:"error_kind,omitempty"`
	ErrorStatus        int        `json:"error_status,omitempty" doc:"the provider's HTTP status"`
	ProviderResponseID string     `json:"provider_response_id,omitempty"`
	CreatedAt          time.Time  `json:"created_at"`
	SentAt             *time.Time `json:"sent_at,omitempty"`
	EndedAt            *time.Time `json:"ended_at,omitempty"`
}

// Action is one effect outside.
type Action struct {
	ID          string `json:"id"`
	Kind        string `json:"kind"`
	State       string `json:"state" enum:"proposed,intended,in_flight,confirmed,failed,unknown,withheld"`
	Reason      string `json:"reason,omitempty"`
	Detail      string `json:"detail,omitempty"`
	Target      string `json:"target,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Body        string `json:"body,omitempty" doc:"what is sent, in review would be, or in shadow mode would have been; at most 16 KiB of it"`
	BodyCut     bool   `json:"body_cut,omitempty" doc:"the body is longer than shown"`
	Signed      bool   `json:"signed,omitempty"`

	Fields map[string]string `json:"fields,omitempty" doc:"what else is sent, or says where: a subject, whether customers see it, a method"`
	Once   string            `json:"once,omitempty" enum:"key,mark,never" doc:"how it is kept from being made twice: by a key that its target knows, by a mark that is looked for, or not at all"`
	Update bool              `json:"update,omitempty" doc:"it changes the last one on the same target, where there is one"`

	Receipt     *Receipt        `json:"receipt,omitempty"`
	Attempt     int             `json:"attempt"`
	AttemptsMax int             `json:"attempts_max"`
	Until       *time.Time      `json:"until,omitempty" doc:"when it is tried again"`
	Attempts    []ActionAttempt `json:"attempts"`
	CreatedAt   time.Time       `json:"created_at"`
	EndedAt     *time.Time      `json:"ended_at,omitempty"`
}

// Receipt is what the target answered to an effect that it took.
type Receipt struct {
	Status int    `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	URL    string `json:"url,omitempty"`
	Note   string `json:"note,omitempty"`
}

// ActionAttempt is one try at an effect.
type ActionAttempt struct {
	Attempt int        `json:"attempt"`
	SentAt  time.Time  `json:"sent_at"`
	EndedAt *time.Time `json:"ended_at,omitempty"`
	Status  int        `json:"status,omitempty" doc:"the target's HTTP status"`
	Reason  string     `json:"reason,omitempty"`
	Detail  string     `json:"detail,omitempty"`
}

func toRun(r db.Run) Run {
	return Run{
		ID: tenants.FormatID(tenants.RunPrefix, r.ID), EventID: tenants.FormatID(tenants.EventPrefix, r.EventID),
		EndpointID: tenants.FormatID(tenants.EndpointPrefix, r.EndpointID), AutomationID: tenants.FormatID(tenants.AutomationPrefix, r.AutomationID),
		AutomationVersion: r.AutomationVersion, Mode: r.Mode, Priority: r.Priority, Status: string(r.Status), Reason: r.Reason, Detail: r.Detail,
		Until: utc(r.Until), Attempt: r.Attempt, AttemptsMax: r.AttemptsMax, CostUSD: usdOf(r.CostPico), TokensSaved: r.TokensSaved, Order: strings.TrimPrefix(r.Ordering, db.OrderNone),
		Depth:     r.Depth,
		CreatedAt: r.CreatedAt.UTC(), StartedAt: utc(r.StartedAt), FinishedAt: utc(r.FinishedAt), UpdatedAt: r.UpdatedAt.UTC(),
	}
}

func toCall(c db.Call) Call {
	return Call{
		ID: tenants.FormatID(tenants.CallPrefix, c.ID), State: c.State, Provider: c.Provider, ModelAsked: c.ModelAsked, ModelServed: c.ModelServed,
		InputUncached: c.InputUncached, InputCacheRead: c.InputCacheRead, InputCacheWrite5m: c.InputCacheWrite5m, InputCacheWrite1h: c.InputCacheWrite1h,
		OutputVisible: c.OutputVisible, OutputReasoning: c.OutputReasoning, CostUSD: usdOf(c.CostPico), Finish: c.Finish, UsageFault: c.UsageFault,
		ErrorKind: c.ErrorKind, ErrorStatus: c.ErrorStatus, ProviderResponseID: c.ResponseID, CreatedAt: c.CreatedAt.UTC(), SentAt: utc(c.SentAt),
		EndedAt: utc(c.EndedAt),
	}
}

// effectShownMax bounds how much of an effect's body is shown, in bytes.
const effectShownMax = 16 << 10

func toAction(a db.Action, attempts []db.ActionAttempt) Action {
	out := Action{
		ID: tenants.FormatID(tenants.ActionPrefix, a.ID), Kind: a.Kind, State: a.State, Reason: a.Reason, Detail: a.Detail, Target: a.Target,
		Attempt: a.Attempt, AttemptsMax: a.AttemptsMax, Until: utc(a.Until), Attempts: []ActionAttempt{}, CreatedAt: a.CreatedAt.UTC(), EndedAt: utc(a.EndedAt),
	}
	var effect action.Effect
	if json.Unmarshal(a.Effect, &effect) == nil {
		out.ContentType, out.Signed, out.Fields, out.Once, out.Update = effect.ContentType, effect.Signed, effect.Args, string(effect.Once), effect.Update
		out.Body, out.BodyCut = shownBody(effect.Body)
	}
	var receipt Receipt
	if len(a.Receipt) > 0 && json.Unmarshal(a.Receipt, &receipt) == nil {
		out.Receipt = &receipt
	}
	for _, t := range attempts {
		if t.ActionID == a.ID {
			out.Attempts = append(out.Attempts, ActionAttempt{
				Attempt: t.Attempt, SentAt: t.SentAt.UTC(), EndedAt: utc(t.EndedAt), Status: t.Status, Reason: t.Reason, Detail: t.Detail,
			})
		}
	}
	return out
}

// shownBody is a body as text, cut between two characters.
func shownBody(body []byte) (text string, cut bool) {
	if len(body) > effectShownMax {
		end := effectShownMax
		for end > effectShownMax-utf8.UTFMax && !utf8.RuneStart(body[end]) {
			end--
		}
		body, cut = body[:end], true
	}
	return string(body), cut
}

type runListInput struct {
	Caller
	Page

	RunWanted
}

type runInput struct {
	Caller

	ID string `path:"id" doc:"run_..."`
}

type runOutput struct{ Body Run }

type runFullOutput struct{ Body RunFull }

func (a *API) registerRuns() {
	register(a, viewerRole, huma.Operation{
		OperationID: "list-runs", Method: http.MethodGet, Path: "/v1/runs", Tags: []string{"Runs"}, Summary: "List runs",
		Description: "status=dead is the dead-letter list; GET /v1/runs/counts says what is in it.",
	}, a.runList)
	a.registerRunCounts()
	a.registerRunsMany()
	register(a, viewerRole, huma.Operation{
		OperationID: "get-run", Method: http.MethodGet, Path: "/v1/runs/{id}", Tags: []string{"Runs"}, Summary: "Read a run, with its calls and its actions",
	}, a.runGet)
	register(a, editorRole, huma.Operation{
		OperationID: "retry-run", Method: http.MethodPost, Path: "/v1/runs/{id}/retry", Tags: []string{"Runs"}, Summary: "Set a dead run going again, or one that waits at once",
		Description: "A run whose outcome stands and whose effect failed tries only the effect again: no model is paid twice. Else: 409 run.not_retryable.",
	}, a.runRetry)
	register(a, editorRole, huma.Operation{
		OperationID: "cancel-run", Method: http.MethodPost, Path: "/v1/runs/{id}/cancel", Tags: []string{"Runs"}, Summary: "End a run that has not ended",
		Description: "An effect that is being sent at this moment may still arrive. A dead run of an endpoint of serial order can be cancelled too, " +
			"so that the next one of its entity goes on. A run that has ended: 409 run.ended.",
	}, a.runCancel)
}

func (a *API) runList(ctx context.Context, in *runListInput) (*listed[Run], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	filter, possible := in.filter()
	var rows []db.Run
	if possible {
		err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
			rows, err = tx.RunList(ctx, filter, page)
			return err
		})
	}
	return pageOf(rows, in.Limit, toRun, func(r db.Run) string { return byID(r.ID) }), err
}

// causedBy reads which of our actions caused a run's event; nil for none, or none that is known.
func causedBy(ctx context.Context, tx db.TenantTx, r db.Run) (*Cause, error) {
	if r.Depth == 0 {
		return nil, nil //nolint:nilnil // most events are caused by somebody else
	}
	cause, err := tx.LoopCause(ctx, r.ID)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil //nolint:nilnil // only the actor is known
	} else if err != nil {
		return nil, err
	}
	return &Cause{ActionID: tenants.FormatID(tenants.ActionPrefix, cause.ActionID), RunID: tenants.FormatID(tenants.RunPrefix, cause.RunID)}, nil
}

// runRead reads all that a run did.
func runRead(ctx context.Context, tx db.TenantTx, r db.Run) (RunFull, error) {
	out := RunFull{Run: toRun(r), Calls: []Call{}, Actions: []Action{}}
	if len(r.Output) > 0 {
		if err := json.Unmarshal(r.Output, &out.Output); err != nil {
			return out, err
		}
	}
	calls, err := tx.CallList(ctx, r.ID)
	if err != nil {
		return out, err
	}
	for _, c := range calls {
		out.Calls = append(out.Calls, toCall(c))
	}
	if out.Review, err = reviewOf(ctx, tx, r.ID); err != nil {
		return out, err
	}
	if out.CausedBy, err = causedBy(ctx, tx, r); err != nil {
		return out, err
	}
	actions, err := tx.ActionList(ctx, r.ID)
	if err != nil || len(actions) == 0 {
		return out, err
	}
	attempts, err := tx.ActionAttempts(ctx, r.ID)
	for _, one := range actions {
		out.Actions = append(out.Actions, toAction(one, attempts))
	}
	return out, err
}

func (a *API) runGet(ctx context.Context, in *runInput) (*runFullOutput, error) {
	id, err := pathID(tenants.RunPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &runFullOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		r, err := tx.RunGet(ctx, id)
		if err != nil {
			return err
		}
		out.Body, err = runRead(ctx, tx, r)
		return err
	})
	return out, err
}

const (
	reasonRetried   = "retried"
	reasonCancelled = "cancelled.person"
)

func (a *API) runRetry(ctx context.Context, in *runInput) (*runOutput, error) {
	return a.runChange(ctx, in, a.retry)
}

// retry sets a run going again, in the caller's transaction.
func (a *API) retry(ctx context.Context, tx db.TenantTx, r db.Run) error {
	switch r.Status { //nolint:exhaustive // the others are in the default
	case db.RunDead:
		return a.retryDead(ctx, tx, r)
	case db.RunWaiting:
		if r.Reason == db.ReasonBehind {
			return conflict("run.not_retryable", "It has not begun: it waits for its turn. Retry or cancel what it waits for.")
		}
		if err := tx.RunRetry(ctx, r.ID, db.RunQueued, []db.RunStatus{db.RunWaiting}, reasonRetried, "A person did not want to wait."); err != nil {
			return err
		}
		return a.deps.Poster.PostRuns(ctx, tx.Pgx(), []jobs.RunArgs{{TenantID: tx.TenantID, RunID: r.ID}})
	case db.RunActing:
		return a.retryActing(ctx, tx, r)
	default:
		return conflict("run.not_retryable", "Only a run that is dead, waiting or acting can be retried; this one is "+string(r.Status)+".")
	}
}

// retryActing lets an effect be tried at once that waits for its next try.
func (a *API) retryActing(ctx context.Context, tx db.TenantTx, r db.Run) error {
	ids, err := tx.ActionsHasten(ctx, r.ID)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return conflict("run.not_retryable", "Its effect is being sent at this moment.")
	}
	posted := make([]jobs.ActionArgs, len(ids))
	for i, id := range ids {
		posted[i] = jobs.ActionArgs{TenantID: tx.TenantID, ActionID: id}
	}
	return a.deps.Poster.PostActions(ctx, tx.Pgx(), posted)
}

// retryDead sets a dead run going again where it died: at its effect if that failed, else from the beginning. An effect that may have arrived
// is left alone, since nobody but the target can tell.
func (a *API) retryDead(ctx context.Context, tx db.TenantTx, r db.Run) error {
	dead := []db.RunStatus{db.RunDead}
	actions, err := tx.ActionList(ctx, r.ID)
	if err != nil {
		return err
	}
	unknown := slices.IndexFunc(actions, func(one db.Action) bool { return one.State == db.ActionUnknown })
	var failed []jobs.ActionArgs
	for _, one := range actions {
		if one.State == db.ActionFailed {
			failed = append(failed, jobs.ActionArgs{TenantID: tx.TenantID, ActionID: one.ID})
		}
	}
	switch {
	case len(failed) > 0:
		if err := tx.RunRetry(ctx, r.ID, db.RunActing, dead, reasonRetried, "A person retries the effect; the outcome stands."); err != nil {
			return err
		}
		for _, one := range failed {
			if err := tx.ActionRetry(ctx, one.ActionID, jobs.ActionAttemptsMore); errors.Is(err, db.ErrConflict) {
				return conflict("run.not_retryable", "Another run has made this very effect meanwhile, or may have: it is not made twice.")
			} else if err != nil {
				return err
			}
		}
		return a.deps.Poster.PostActions(ctx, tx.Pgx(), failed)
	case unknown >= 0:
		if jobs.EffectCanBeSought(actions[unknown]) {
			return a.effectAgain(ctx, tx, r, actions[unknown], "A person retries the effect: its target is asked for it first.", tx.ActionLook)
		}
		return conflict("run.not_retryable", "Its effect was sent, and nobody can tell whether it arrived. Look at the target, and say which it is: POST /v1/runs/{id}/resolve.")
	case len(actions) > 0:
		return conflict("run.not_retryable", "Its outcome stands, and its effect did not fail.")
	}
	if err := tx.RunRetry(ctx, r.ID, db.RunQueued, dead, reasonRetried, "A person retries the run."); err != nil {
		return err
	}
	return a.deps.Poster.PostRuns(ctx, tx.Pgx(), []jobs.RunArgs{{TenantID: tx.TenantID, RunID: r.ID}})
}

func (a *API) runCancel(ctx context.Context, in *runInput) (*runOutput, error) {
	return a.runChange(ctx, in, a.cancel)
}

// cancel ends a run, in the caller's transaction.
func (a *API) cancel(ctx context.Context, tx db.TenantTx, r db.Run) error {
	const detail = "A person cancelled the run."
	if err := tx.RunCancel(ctx, r.ID, reasonCancelled, detail); err != nil {
		if errors.Is(err, db.ErrConflict) {
			return conflict("run.ended", "The run has ended already.")
		}
		return err
	}
	if err := tx.ActionsCancel(ctx, r.ID, detail); err != nil {
		return err
	}
	return a.deps.Poster.HandOver(ctx, tx, r)
}

// changing is one of retry and cancel.
type changing func(ctx context.Context, tx db.TenantTx, r db.Run) error

// runChange changes a run in one transaction, and answers it as it stands then.
func (a *API) runChange(ctx context.Context, in *runInput, change changing) (*runOutput, error) {
	id, err := pathID(tenants.RunPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &runOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		if err := changeOne(ctx, tx, id, change); err != nil {
			return err
		}
		r, err := tx.RunGet(ctx, id)
		out.Body = toRun(r)
		return err
	})
	return out, err
}

// changeOne changes a run in the caller's transaction.
func changeOne(ctx context.Context, tx db.TenantTx, id uuid.UUID, change changing) error {
	r, err := tx.RunGet(ctx, id)
	if err != nil {
		return err
	}
	if err := change(ctx, tx, r); err != nil {
		if errors.Is(err, db.ErrConflict) {
			return conflict("run.moved", "The run went on at this very moment. Read it again.")
		}
		return err
	}
	return nil
}

// runsOf reads the runs of an event, newest first.
func runsOf(ctx context.Context, tx db.TenantTx, eventID uuid.UUID) ([]db.Run, error) {
	return tx.RunList(ctx, db.RunFilter{EventID: &eventID}, db.Page{Limit: pageRowsMax})
}
