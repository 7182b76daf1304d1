package jobs

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Hosts are the targets' hosts as one process knows them.
type Hosts struct{ *hosts }

// NewHosts makes hosts for so many action workers.
func NewHosts(workers int) Hosts { return Hosts{newHosts(workers, time.Now)} }

// Enter lets one attempt go to a host, or says why it must wait, and for how long.
func (h Hosts) Enter(ctx context.Context, name string, tenantID, credential uuid.UUID) (leave func(error), reason string, wait time.Duration) {
	leave, away := h.enter(ctx, name, tenantID, credential)
	if away != nil {
		return nil, away.reason, away.wait
	}
	return leave, "", 0
}
