package db

import (
	"encoding/json"
	"fmt"
	"time"
)

// The bounds of an endpoint's window for bursts, and the one that holds where it says none.
const (
	orderWindowMax     = 300 // seconds
	orderWindowDefault = 2 * time.Second
)

// What a dead run means for the runs that come after it in serial order.
const (
	orderDeadPass  = "pass"
	orderDeadBlock = "block"
)

// Order is how an endpoint wants the runs of one entity to stand to each other.
type Order struct {
	Mode string // one of the Order constants
	// Window is how long a run of OrderLatest waits for the rest of a burst.
	Window time.Duration
	// DeadBlocks says that after a dead run of OrderSerial nothing of its entity goes on.
	DeadBlocks bool
}

// OrderFault is one bad field of an order's settings.
type OrderFault struct{ Place, Message string }

// orderFields are the settings that ParseOrder reads.
var orderFields = []string{"order", "order_window_seconds", "order_dead"}

// ParseOrder takes the order out of an endpoint's settings: what is left of them is the source's. Without settings it is OrderNone.
func ParseOrder(settings map[string]json.RawMessage) (Order, []OrderFault) {
	given := map[string]json.RawMessage{}
	for _, name := range orderFields {
		raw, ok := settings[name]
		delete(settings, name)
		if ok && string(raw) != "null" { // null takes a setting away, as in every PATCH
			given[name] = raw
		}
	}
	var faults []OrderFault
	fault := func(place, message string) { faults = append(faults, OrderFault{place, message}) }
	order := Order{Mode: OrderNone}
	if raw, ok := given["order"]; ok {
		if json.Unmarshal(raw, &order.Mode) != nil || (order.Mode != OrderNone && order.Mode != OrderLatest && order.Mode != OrderSerial) {
			fault("order", `expected "none", "latest" or "serial"`)
		}
	}
	if order.Mode == OrderLatest {
		order.Window = orderWindowDefault
	}
	if raw, ok := given["order_window_seconds"]; ok {
		var seconds int
		switch {
		case order.Mode != OrderLatest:
			fault("order_window_seconds", `goes with order "latest" alone`)
		case json.Unmarshal(raw, &seconds) != nil || seconds < 0 || seconds > orderWindowMax:
			fault("order_window_seconds", fmt.Sprintf("expected a whole number from 0 to %d", orderWindowMax))
		default:
			order.Window = time.Duration(seconds) * time.Second
		}
	}
	if raw, ok := given["order_dead"]; ok {
		var dead string
		switch {
		case order.Mode != OrderSerial:
			fault("order_dead", `goes with order "serial" alone`)
		case json.Unmarshal(raw, &dead) != nil || (dead != orderDeadPass && dead != orderDeadBlock):
			fault("order_dead", `expected "pass" or "block"`)
		default:
			order.DeadBlocks = dead == orderDeadBlock
		}
	}
	return order, faults
}

// The reasons that order gives a run. They stand here, since statements of this room tell runs apart by them.
const (
	ReasonBehind = "order.behind" // it waits for its turn
	ReasonFolded = "order.folded" // a newer event came while it waited for the rest of a burst
	ReasonStale  = "order.stale"  // a newer event had come before it
	ReasonTurn   = "order.turn"   // it waited, and its turn has come
)

// Ordered says whether a run stands in an order at all: one without an entity has nobody to stand behind.
func (r Run) Ordered(mode string) bool { return r.Ordering == mode && r.Entity != "" }

// place are the arguments that say where a run stands, with some more.
func (tx TenantTx) place(r Run, more args) args {
	more["entity"], more["ordered_at"], more["order_sequence"], more["event_id"] = r.Entity, r.OrderedAt, r.OrderSequence, r.EventID
	return tx.with(more)
}
