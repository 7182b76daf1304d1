package jobs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/tenants"
)

// What came of one call that a provider's export and the books do not say the same of.
const (
	// ReconcileAdjusted: the books had an estimate; adjust entries bring them to what the provider says.
	ReconcileAdjusted = "adjusted"
	// ReconcileDiffers: the books have what the provider had said, or nothing, and now it says otherwise. A person decides.
	ReconcileDiffers = "differs"
	// ReconcileMissing: the books have a cost for a call that the export does not name, though it names calls before and after it.
	ReconcileMissing = "missing"
	// ReconcileUnderWay: the export names a call that has not ended here.
	ReconcileUnderWay = "under way"
	// ReconcileUnpriced: there is no price for what the provider says was used.
	ReconcileUnpriced = "unpriced"
	// ReconcileUnknown: the export names a call with an id of our form that is not in the books, or was erased with its tenant.
	ReconcileUnknown = "unknown"
)

// Reconciled is one call that is not the same in both.
type Reconciled struct {
	Outcome  string
	TenantID uuid.UUID // zero where it is not known
	CallID   uuid.UUID
	State    string
	// Booked and Billed are the tokens of all buckets, here and there; the costs are in pico-USD.
	Booked, Billed         db.Tokens
	BookedPico, BilledPico int64
}

// Reconciliation is a provider's export held against the books.
type Reconciliation struct {
	// Lines of the export; Foreign are those whose request is none of ours; Same are the calls on which both agree.
	Lines, Foreign, Same int
	Calls                []Reconciled
}

// Agrees says whether the books are now as the provider has them.
func (r Reconciliation) Agrees(dry bool) bool {
	return !slices.ContainsFunc(r.Calls, func(c Reconciled) bool { return dry || c.Outcome != ReconcileAdjusted })
}

// ReconcileOptions say what may be written.
type ReconcileOptions struct {
	// DryRun writes nothing.
	DryRun bool
	// All takes the provider's word for every call, and not for estimates alone.
	All bool
	// Note is kept with the entries that are posted.
	Note string
}

// exportLineMax bounds a line of an export; exportLinesMax what is held in memory at once.
const (
	exportLineMax  = 1 << 20
	exportLinesMax = 5_000_000
)

// exportBuckets are the disjoint buckets as an export names them; nil is a bucket that is not there.
type exportBuckets struct {
	InputUncached     *int64 `json:"input_uncached"`
	InputCacheRead    *int64 `json:"input_cache_read"`
	InputCacheWrite5m *int64 `json:"input_cache_write_5m"`
	InputCacheWrite1h *int64 `json:"input_cache_write_1h"`
	OutputVisible     *int64 `json:"output_visible"`
	OutputReasoning   *int64 `json:"output_reasoning"`
}

// exportLine is one line: its buckets stand in it, or in usage. One that is not billed needs none.
type exportLine struct {
	exportBuckets

	RequestID string         `json:"request_id"`
	Model     string         `json:"model"`
	Billed    *bool          `json:"billed"`
	Usage     *exportBuckets `json:"usage"`
}

func (l exportLine) tokens() (db.Tokens, error) {
	b := l.exportBuckets
	if l.Usage != nil {
		b = *l.Usage
	}
	var out db.Tokens
	found := false
	for to, from := range map[*int64]*int64{
		&out.InputUncached: b.InputUncached, &out.InputCacheRead: b.InputCacheRead, &out.InputCacheWrite5m: b.InputCacheWrite5m,
		&out.InputCacheWrite1h: b.InputCacheWrite1h, &out.OutputVisible: b.OutputVisible, &out.OutputReasoning: b.OutputReasoning,
	} {
		if from == nil {
			continue
		}
		if *from < 0 {
			return out, errors.New("a bucket is below 0")
		}
		*to, found = *from, true
	}
	if l.Billed != nil && !*l.Billed {
		return db.Tokens{}, nil
	}
	if !found {
		// To read it as no usage would take back what was spent.
		return out, errors.New("there is none of the buckets input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning")
	}
	return out, nil
}

// export is what a provider says of calls: by call, summed over the requests of the same id.
type export struct {
	lines, foreign int
	calls          map[uuid.UUID]exported
	first, last    uuid.UUID
}

type exported struct {
	model string
	db.Tokens
}

func readExport(r io.Reader) (*export, error) {
	e := &export{calls: map[uuid.UUID]exported{}}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, exportLineMax)
	for scanner.Scan() {
		text := bytes.TrimSpace(scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		e.lines++
		if e.lines > exportLinesMax {
			return nil, fmt.Errorf("there are more than %d lines: split the export", exportLinesMax)
		}
		if err := e.add(text); err != nil {
			return nil, fmt.Errorf("line %d: %w", e.lines, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("after line %d: %w", e.lines, err)
	}
	return e, nil
}

func (e *export) add(text []byte) error {
	var line exportLine
	if err := json.Unmarshal(text, &line); err != nil {
		return fmt.Errorf("it is no JSON object of the expected types: %w", err)
	}
	id, ours := tenants.ParseID(tenants.CallPrefix, line.RequestID)
	if !ours {
		e.foreign++ // another client of the same key
		return nil
	}
	tokens, err := line.tokens()
	if err != nil {
		return err
	}
	call := e.calls[id]
	call.Tokens = plus(call.Tokens, tokens)
	if line.Model != "" {
		call.model = line.Model
	}
	if len(e.calls) == 0 || bytes.Compare(id[:], e.first[:]) < 0 {
		e.first = id
	}
	if bytes.Compare(id[:], e.last[:]) > 0 {
		e.last = id
	}
	e.calls[id] = call
	return nil
}

func plus(a, b db.Tokens) db.Tokens {
	return db.Tokens{
		InputUncached: a.InputUncached + b.InputUncached, InputCacheRead: a.InputCacheRead + b.InputCacheRead,
		InputCacheWrite5m: a.InputCacheWrite5m + b.InputCacheWrite5m, InputCacheWrite1h: a.InputCacheWrite1h + b.InputCacheWrite1h,
		OutputVisible: a.OutputVisible + b.OutputVisible, OutputReasoning: a.OutputReasoning + b.OutputReasoning,
	}
}

// reconcilePage is how many tenants, or calls of one, are read at once.
const reconcilePage = 1000

// Reconcile holds a provider's export, JSON lines with our call ids as request_id, against the books, and posts adjust entries for calls whose cost was
// an estimate. The whole export is read before anything is written. Repeating it posts nothing more.
func Reconcile(ctx context.Context, d *db.DB, provider string, r io.Reader, o ReconcileOptions) (Reconciliation, error) {
	e, err := readExport(r)
	if err != nil {
		return Reconciliation{}, fmt.Errorf("read the export: %w", err)
	}
	out := Reconciliation{Lines: e.lines, Foreign: e.foreign}
	if len(e.calls) == 0 {
		return out, nil
	}
	for page := (db.Page{Limit: reconcilePage}); ; {
		var list []db.Tenant
		err := d.System(ctx, func(tx db.SystemTx) (err error) {
			list, err = tx.TenantList(ctx, page)
			return err
		})
		if err != nil {
			return out, fmt.Errorf("list the tenants: %w", err)
		}
		if len(list) == 0 {
			break
		}
		for _, t := range list {
			if err := reconcileTenant(ctx, d, t.TenantID, provider, e, o, &out); err != nil {
				return out, fmt.Errorf("reconcile tenant %s: %w", tenants.FormatID(tenants.TenantPrefix, t.TenantID), err)
			}
			page.Before = t.TenantID
		}
	}
	for id, call := range e.calls {
		out.Calls = append(out.Calls, Reconciled{Outcome: ReconcileUnknown, CallID: id, Billed: call.Tokens})
	}
	slices.SortFunc(out.Calls, func(a, b Reconciled) int { return bytes.Compare(a.CallID[:], b.CallID[:]) })
	return out, nil
}

// reconcileTenant takes the tenant's calls out of e.
func reconcileTenant(ctx context.Context, d *db.DB, tenant uuid.UUID, provider string, e *export, o ReconcileOptions, out *Reconciliation) error {
	after := before(e.first)
	for {
		var page []db.Booked
		err := d.Tenant(ctx, tenant, func(tx db.TenantTx) (err error) {
			page, err = tx.CallListBetween(ctx, provider, after, e.last, reconcilePage)
			return err
		})
		if err != nil {
			return fmt.Errorf("read the calls: %w", err)
		}
		for _, booked := range page {
			call, named := e.calls[booked.ID]
			delete(e.calls, booked.ID)
			result, err := reconcileCall(ctx, d, tenant, provider, booked, call, named, o)
			if err != nil {
				return fmt.Errorf("call %s: %w", tenants.FormatID(tenants.CallPrefix, booked.ID), err)
			}
			switch {
			case result != nil:
				out.Calls = append(out.Calls, *result)
			case named:
				out.Same++
			}
		}
		if len(page) < reconcilePage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// before is the id right before another.
func before(id uuid.UUID) uuid.UUID {
	for i := len(id) - 1; i >= 0; i-- {
		id[i]--
		if id[i] != 0xff {
			break
		}
	}
	return id
}

// reconcileCall returns nil where both agree.
func reconcileCall(
	ctx context.Context, d *db.DB, tenant uuid.UUID, provider string, booked db.Booked, billed exported, named bool, o ReconcileOptions,
) (*Reconciled, error) {
	out := &Reconciled{
		TenantID: tenant, CallID: booked.ID, State: booked.State, Booked: booked.Tokens, BookedPico: booked.CostPico, Billed: billed.Tokens,
	}
	ended := booked.State != db.CallIntended && booked.State != db.CallSent
	switch {
	case !named && (booked.Tokens == db.Tokens{} && booked.CostPico == 0):
		return nil, nil //nolint:nilnil // both say nothing
	case !named:
		out.Outcome = ReconcileMissing
		return out, nil
	case !ended:
		out.Outcome = ReconcileUnderWay
		return out, nil
	}
	estimate := booked.State == db.CallOrphaned || booked.UsageFault != ""
	if booked.Tokens == billed.Tokens && !estimate {
		return nil, nil //nolint:nilnil // both say the same
	}
	post := o.All || estimate
	err := d.Tenant(ctx, tenant, func(tx db.TenantTx) error {
		price, err := priceOf(ctx, tx, provider, booked, billed)
		if errors.Is(err, db.ErrNotFound) || errors.Is(err, llm.ErrUnpriced) || errors.Is(err, llm.ErrCostOverflow) {
			out.Outcome = ReconcileUnpriced
			return nil
		} else if err != nil {
			return err
		}
		out.BilledPico, out.Outcome = price.pico, ReconcileDiffers
		if booked.Tokens == billed.Tokens && booked.CostPico == price.pico {
			out = nil
			return nil
		}
		if !post {
			return nil
		}
		out.Outcome = ReconcileAdjusted
		if o.DryRun {
			return nil
		}
		if _, err = tx.EntryAdjust(ctx, db.Correction{
			CallID: booked.ID, Tokens: billed.Tokens, CostPico: price.pico, PriceID: price.id, ModelServed: price.served, Note: o.Note,
		}); err != nil {
			return err
		}
		return tx.AuditNote(ctx, "call", booked.ID, "adjust", map[string]string{"note": o.Note})
	})
	return out, err
}

// priced is what a call cost, and by which price.
type priced struct {
	pico, id int64
	served   string
}

// priceOf prices what was billed as it cost when the call was made: by the model that the export names, else as it was booked, else as it was asked.
// What used nothing keeps its price.
func priceOf(ctx context.Context, tx db.TenantTx, provider string, booked db.Booked, billed exported) (priced, error) {
	usage := llm.Usage{
		InputUncached: billed.InputUncached, InputCacheRead: billed.InputCacheRead, InputCacheWrite5m: billed.InputCacheWrite5m,
		InputCacheWrite1h: billed.InputCacheWrite1h, OutputVisible: billed.OutputVisible, OutputReasoning: billed.OutputReasoning,
	}
	if (billed.Tokens == db.Tokens{}) {
		return priced{}, nil
	}
	served := billed.model
	if served == "" {
		served = booked.ModelServed
	}
	rows, err := pricesAt(ctx, tx, provider, served, booked.CreatedAt)
	if errors.Is(err, db.ErrNotFound) {
		rows, err = pricesAt(ctx, tx, provider, booked.ModelAsked, booked.CreatedAt)
	}
	if err != nil {
		return priced{}, err
	}
	price, err := llm.PickTier(rows, usage.InputTotal())
	if err != nil {
		return priced{}, fmt.Errorf("price the call: %w", err)
	}
	pico, err := llm.Cost(price, usage)
	if err != nil {
		return priced{}, fmt.Errorf("price the call: %w", err)
	}
	return priced{pico: pico, id: price.ID, served: served}, nil
}

// pricesAt is pricesOf at a time that may be past.
func pricesAt(ctx context.Context, tx db.TenantTx, provider, model string, at time.Time) ([]llm.Price, error) {
	rows, err := tx.PriceListAt(ctx, provider, llm.PriceNames(model), at)
	if err != nil {
		return nil, fmt.Errorf("price of %s/%s: %w", provider, model, err)
	}
	out := make([]llm.Price, len(rows))
	for i, r := range rows {
		out[i] = priceRow(r)
	}
	return out, nil
}
