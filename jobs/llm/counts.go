package llm

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// What keeps calls in the house has no convention; these names are ours. The owner is told by its class only: there may be any number of
// tenants, and their credentials are nobody's business.
const (
	ownerKey = attribute.Key("owner")
	stateKey = attribute.Key("state")

	changesName = "sluice.llm.breaker.changes"
	pausesName  = "sluice.llm.pauses"
	busyName    = "sluice.llm.busy"

	classTenant = "tenant"
)

func (o observer) breakerChanged(key breakerKey, to string) {
	o.changes.Add(context.Background(), 1, metric.WithAttributes(
		providerKey.String(key.provider), requestModelKey.String(key.model), ownerKey.String(ownerClass(key.owner)), stateKey.String(to)))
}

func (o observer) paused(key breakerKey) {
	o.pauses.Add(context.Background(), 1, metric.WithAttributes(providerKey.String(key.provider), ownerKey.String(ownerClass(key.owner))))
}

func (o observer) busy(key breakerKey) {
	o.refusals.Add(context.Background(), 1, metric.WithAttributes(
		providerKey.String(key.provider), requestModelKey.String(key.model), ownerKey.String(ownerClass(key.owner))))
}

func ownerClass(owner string) string {
	if owner == OwnerOperator {
		return OwnerOperator
	}
	return classTenant
}
