package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/action"
	"sluice/tenants"
)

// draft is a body whose shape is checked together with its meaning, so that one answer names every fault. Huma only sees that it is an object.
type draft struct{ raw json.RawMessage }

// UnmarshalJSON keeps the body as it came.
func (d *draft) UnmarshalJSON(text []byte) error {
	d.raw = bytes.Clone(text)
	return nil
}

// Schema is the least that Huma checks before a handler runs; documentBody says in the document what is checked after it.
func (draft) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// fields are the keys that were given.
func (d draft) fields() map[string]json.RawMessage {
	fields := map[string]json.RawMessage{}
	_ = json.Unmarshal(d.raw, &fields) // Huma saw that it is an object
	return fields
}

// withoutNulls is the body without the keys that are to be taken away.
func (d draft) withoutNulls() json.RawMessage {
	fields := d.fields()
	for name, value := range fields {
		if string(value) == "null" && name != "enabled" && name != "endpoint_id" && name != "name" {
			delete(fields, name)
		}
	}
	text, err := json.Marshal(fields)
	if err != nil { // cannot be: these are texts that were read as JSON
		return d.raw
	}
	return text
}

// documentBody says in the OpenAPI document what an operation's draft is to hold.
func documentBody[T any](a *API, op *huma.Operation) {
	schema := a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
	op.RequestBody.Content["application/json"].Schema = schema
}

// shapeFaults are the faults that the schema of T finds in a body: unknown keys, wrong types, keys that are missing.
func shapeFaults[T any](a *API, raw json.RawMessage) []Fault {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return []Fault{{Location: "body", Message: "expected an object"}}
	}
	registry := a.huma.OpenAPI().Components.Schemas
	place, result := huma.NewPathBuffer(nil, 0), &huma.ValidateResult{}
	place.Push("body")
	huma.Validate(registry, registry.Schema(reflect.TypeFor[T](), true, ""), place, huma.ModeWriteToServer, value, result)
	var faults []Fault
	for _, err := range result.Errors {
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			faults = append(faults, faultOf(d.ErrorDetail()))
		}
	}
	return append(faults, nulFaults("body", value)...)
}

// nulFaults finds texts with a NUL, which the database cannot keep within JSON.
func nulFaults(place string, value any) []Fault {
	var faults []Fault
	switch v := value.(type) {
	case string:
		if strings.ContainsRune(v, 0) {
			faults = append(faults, Fault{Location: place, Message: "expected a text without NUL characters"})
		}
	case []any:
		for i, one := range v {
			faults = append(faults, nulFaults(fmt.Sprintf("%s/%d", place, i), one)...)
		}
	case map[string]any:
		for name, one := range v {
			if strings.ContainsRune(name, 0) {
				faults = append(faults, Fault{Location: place, Message: "expected names without NUL characters"})
				continue
			}
			faults = append(faults, nulFaults(place+"."+name, one)...)
		}
	}
	return faults
}

// automationValue is an automation that was found to be without fault.
type automationValue struct {
	endpointID uuid.UUID
	enabled    bool
	spec       automations.Spec
	stored     json.RawMessage
}

// storedSpec is what is kept of a version: the contract's automation without its ids and without what is a column.
type storedSpec struct {
	automations.Spec

	OutputSchema json.RawMessage `json:"output_schema,omitempty"`
	CredentialID string          `json:"credential_id,omitempty"`
}

// automationFields are the keys of an automation, each read by itself: what is of a wrong type is a fault of shape, and does not hide the rest.
type automationFields struct {
	automations.Spec

	EndpointID   string `json:"endpoint_id"`
	CredentialID string `json:"credential_id"`
	Enabled      *bool  `json:"enabled"`
}

// fieldsOf reads the keys. What it cannot read is a fault, unless the shape was found to be wrong there: a schema takes 6e2 for an integer, and
// an int does not, so that it would be replaced by a default without a word.
func fieldsOf(given map[string]json.RawMessage, shape []Fault) (f automationFields, unread []Fault) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		one, err := json.Marshal(map[string]json.RawMessage{name: given[name]})
		if err == nil {
			err = json.Unmarshal(one, &f)
		}
		at := "body." + name
		told := func(found Fault) bool {
			return strings.HasPrefix(found.Location+".", at+".") || strings.HasPrefix(found.Location, at+"/")
		}
		if err == nil || slices.ContainsFunc(shape, told) {
			continue
		}
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			if i := strings.Index(wrong.Field, name+"."); i >= 0 { // before it may stand the structs that Go embeds
				at = "body." + wrong.Field[i:]
			}
		}
		unread = append(unread, Fault{Location: at, Message: "cannot be read as it is written; expected a whole number in digits alone, such as 600"})
	}
	f.Action, f.OutputSchema = cleanJSON(f.Action), cleanJSON(f.OutputSchema)
	return f, unread
}

// cleanJSON writes a document anew, so that what the database refuses (broken UTF-8, half a surrogate pair) is replaced.
func cleanJSON(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return raw
	}
	clean, err := json.Marshal(value)
	if err != nil {
		return raw
	}
	return clean
}

// automationCheck finds every fault of an automation at once, or says what is to be kept.
func (a *API) automationCheck(ctx context.Context, tx db.TenantTx, given map[string]json.RawMessage, shape []Fault) (automationValue, error) {
	f, unread := fieldsOf(given, shape)
	f.Action = a.filled(f.Action)
	check := &automationChecker{api: a, tx: tx, faults: append(shape, unread...)}
	compiled, found := automations.Compile(f.Spec)
	for _, fault := range found {
		check.fault(fault.Place, fault.Message)
	}
	v := automationValue{enabled: f.Enabled == nil || *f.Enabled}
	var err error
	if v.endpointID, err = check.endpoint(ctx, f.EndpointID); err != nil {
		return v, err
	}
	if err := check.models(ctx, f); err != nil {
		return v, err
	}
	if err := check.action(ctx, f.Action); err != nil {
		return v, err
	}
	if err := check.fetch(ctx, f.Fetch); err != nil {
		return v, err
	}
	if err := invalid(distinct(check.faults)); err != nil {
		return v, err
	}
	v.spec = compiled.Spec()
	v.stored, err = json.Marshal(storedSpec{Spec: v.spec, OutputSchema: v.spec.OutputSchema, CredentialID: f.CredentialID})
	return v, err
}

// filled is an action object with the defaults of its connector, so that people see what they are.
func (a *API) filled(raw json.RawMessage) json.RawMessage {
	var named struct {
		Kind string `json:"kind"`
	}
	if json.Unmarshal(raw, &named) != nil {
		return raw
	}
	connector, ok := a.deps.Actions.Get(named.Kind)
	if !ok {
		return raw
	}
	return action.Filled(connector.Spec(), raw)
}

// automationChecker gathers the faults that only the tenant's own rows, the connectors and the prices can tell.
type automationChecker struct {
	api    *API
	tx     db.TenantTx
	faults []Fault
}

func (c *automationChecker) fault(place, message string) {
	c.faults = append(c.faults, Fault{Location: "body." + place, Message: message})
}

// faulty says whether a place, or what it stands in, has a fault already.
func (c *automationChecker) faulty(place string) bool {
	return slices.ContainsFunc(c.faults, func(f Fault) bool { return f.Location == "body."+place })
}

func (c *automationChecker) endpoint(ctx context.Context, text string) (uuid.UUID, error) {
	const place = "endpoint_id"
	id, ok := tenants.ParseID(tenants.EndpointPrefix, text)
	if ok {
		_, err := c.tx.EndpointGet(ctx, id)
		if !errors.Is(err, db.ErrNotFound) {
			return id, err
		}
	}
	c.fault(place, "expected the id of an endpoint, end_...; there is none of this id")
	return uuid.Nil, nil
}

// models checks every model that may be asked, and that the first one can be asked for no more than the automation allows.
func (c *automationChecker) models(ctx context.Context, f automationFields) error {
	type named struct{ place, model string }
	asked := []named{{"model", f.Model}}
	for i, model := range f.Fallbacks {
		if !c.faulty("fallbacks") {
			asked = append(asked, named{fmt.Sprintf("fallbacks/%d", i), model})
		}
	}
	if f.CheaperModel != "" {
		asked = append(asked, named{"cheaper_model", f.CheaperModel})
	}
	for _, one := range asked {
		if c.faulty(one.place) {
			continue
		}
		fault, err := c.api.deps.ModelFault(ctx, c.tx, one.model)
		if err != nil {
			return err
		}
		if fault != "" {
			c.fault(one.place, fault)
		}
	}
	if err := c.ceiling(ctx, f.Spec); err != nil {
		return err
	}
	if f.CredentialID == "" {
		return nil
	}
	provider, _, _ := strings.Cut(f.Model, "/")
	return c.credential(ctx, "credential_id", f.CredentialID, provider)
}

// ceiling refuses a ceiling of one call that every call would be above: what the model may write costs more already, without any input.
func (c *automationChecker) ceiling(ctx context.Context, s automations.Spec) error {
	if s.MaxCallUSD == "" || c.faulty("max_call_usd") || c.faulty("model") || c.faulty("max_output_tokens") {
		return nil
	}
	most, err := automations.ParseUSD(s.MaxCallUSD)
	if err != nil {
		return nil //nolint:nilerr // Compile has named it
	}
	provider, model, _ := strings.Cut(s.Model, "/")
	prices, err := c.tx.PriceList(ctx, provider, c.api.deps.PriceNames(model))
	if errors.Is(err, db.ErrNotFound) {
		return nil // ModelFault has named it, or will at the next try
	} else if err != nil {
		return fmt.Errorf("price of %s: %w", s.Model, err)
	}
	dearer := func(x, y db.Price) int { return cmp.Compare(x.OutputPico, y.OutputPico) }
	least := big.NewInt(slices.MinFunc(prices, dearer).OutputPico)
	if least.Mul(least, big.NewInt(int64(s.OutputTokens()))); least.Cmp(big.NewInt(most)) > 0 {
		c.fault("max_call_usd", fmt.Sprintf("no call could ever be made: the %d tokens that %s may write cost %s USD at worst, before any input; "+
			"expected more than that, or a lower max_output_tokens", s.OutputTokens(), s.Model, usd(least)))
	}
	return nil
}

// credential checks that a credential is there, and of a kind.
func (c *automationChecker) credential(ctx context.Context, place, text, kind string) error {
	id, ok := tenants.ParseID(tenants.CredentialPrefix, text)
	var found db.Credential
	var err error
	if ok {
		found, err = c.tx.CredentialGet(ctx, id)
	}
	switch {
	case !ok || errors.Is(err, db.ErrNotFound):
		c.fault(place, "expected the id of a credential, crd_...; there is none of this id")
	case err != nil:
		return err
	case found.Kind != kind:
		c.fault(place, fmt.Sprintf("expected a credential of the kind %s; this one is of the kind %s", kind, found.Kind))
	}
	return nil
}

func (c *automationChecker) action(ctx context.Context, raw json.RawMessage) error {
	var named struct {
		Kind         any `json:"kind"`
		CredentialID any `json:"credential_id"`
	}
	_ = json.Unmarshal(raw, &named) // Compile says what is wrong with it
	if c.faulty("action") || c.faulty("action.kind") {
		return nil
	}
	kind, _ := named.Kind.(string)
	connector, ok := c.api.deps.Actions.Get(kind)
	if !ok {
		c.fault("action.kind", "expected one of "+strings.Join(c.api.deps.Actions.Kinds(), ", "))
		return nil
	}
	for _, fault := range c.api.deps.Actions.Check(connector, raw) {
		c.fault(fault.Place, fault.Message)
	}
	needed := connector.Spec().Account
	if needed == "" || c.faulty("action.credential_id") {
		return nil
	}
	text, _ := named.CredentialID.(string)
	if text == "" {
		c.fault("action.credential_id", fmt.Sprintf(
			`is required: what is sent is signed or authorized with it. Make one with POST /v1/credentials {"name": "...", "kind": %q}`, needed))
		return nil
	}
	return c.credential(ctx, "action.credential_id", text, needed)
}

// fetch checks the host that is asked, and the credential that it is shown.
func (c *automationChecker) fetch(ctx context.Context, f *automations.Fetch) error {
	if f == nil {
		return nil
	}
	if origin := automations.FetchOrigin(f.URL); origin != "" && !c.faulty("fetch.url") {
		if err := c.api.deps.Actions.CheckURL(origin); err != nil {
			c.fault("fetch.url", err.Error())
		}
	}
	if f.CredentialID == "" || c.faulty("fetch.credential_id") {
		return nil
	}
	return c.credential(ctx, "fetch.credential_id", f.CredentialID, bearerKind)
}

// distinct keeps the first fault of each place, and of equal ones: a key that is missing is told once, by whoever met it first.
func distinct(faults []Fault) []Fault {
	var out []Fault
	seen := map[string]bool{}
	for _, f := range faults {
		if !seen[f.Location] {
			seen[f.Location] = true
			out = append(out, f)
		}
	}
	return out
}
