package action

import "context"

// none keeps a run's outcome and makes no effect, for tenants that fetch outcomes over the API.
type none struct{}

var _ Connector = none{}

func (none) Spec() Spec                            { return Spec{Kind: KindNone} }
func (none) Check(Params) []Fault                  { return nil }
func (none) Prepare(Params, Input) (Effect, error) { return Effect{Kind: KindNone}, nil }

func (none) Do(context.Context, Send) (Receipt, error) {
	return Receipt{Note: "the outcome is kept, nothing was sent"}, nil
}

// KindNone is the kind of an action that makes no effect.
const KindNone = "none"
