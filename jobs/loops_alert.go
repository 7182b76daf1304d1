package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// loopAlert tells of a loop, and which event of which sender it began with. An alert that was just told is left as it is: a loop may have skipped
// thousands of runs.
func loopAlert(ctx context.Context, tx db.TenantTx, c *claimed, step db.RunStep) error {
	subject := loopSubject(c)
	if told, err := tx.AlertTold(ctx, db.AlertLoop, subject, loopAlertEvery); err != nil || told {
		return err
	}
	began, length, err := loopBegan(ctx, tx, c, step)
	if err != nil {
		return err
	}
	event := tenants.FormatID(tenants.EventPrefix, c.event.ID)
	detail := fmt.Sprintf("Nothing is done about %s, since %d of our own actions led to it.", event, length)
	if step.Reason == reasonLoopRate {
		detail = fmt.Sprintf("Nothing is done about %s, since there were %d automatic actions about its entity within an hour: another bot may be answering ours.",
			event, c.automation.Loop().ActionsPerHour)
	}
	return tx.AlertBegin(ctx, db.AlertLoop, subject, detail+" It began with "+began)
}

// loopSubject is what a loop goes on about: the entity, else the automation.
func loopSubject(c *claimed) string {
	if c.event.Entity == "" {
		return tenants.FormatID(tenants.AutomationPrefix, c.run.AutomationID)
	}
	return c.event.Entity
}

// loopBegan names the event that a loop began with, and how many of our actions came of it: the first of the chain that led to the run, or to the
// first action of the series that made the rate too high.
func loopBegan(ctx context.Context, tx db.TenantTx, c *claimed, step db.RunStep) (began string, length int, err error) {
	from := c.run.ID
	if step.Reason == reasonLoopRate {
		first, err := tx.LoopFirst(ctx, c.event.Entity)
		if err == nil {
			from = first
		} else if !errors.Is(err, db.ErrNotFound) {
			return "", 0, fmt.Errorf("find the first action about %s: %w", c.event.Entity, err)
		}
	}
	root, err := tx.LoopRoot(ctx, from)
	if err != nil {
		return "", 0, fmt.Errorf("follow the chain of run %s: %w", from, err)
	}
	began, err = eventShown(ctx, tx, root.EventID)
	// An actor's event of which no action of ours is known stands at the depth 1 all the same.
	return began, max(root.Length, c.run.Depth), err
}

// eventShown is an event in words: its id, source, type, time and sender.
func eventShown(ctx context.Context, tx db.TenantTx, id uuid.UUID) (string, error) {
	event, err := tx.EventGet(ctx, id)
	if err != nil {
		return "", fmt.Errorf("read event %s: %w", id, err)
	}
	sender := "its payload is no longer kept"
	stored, err := tx.EventPayload(ctx, id)
	switch {
	case err == nil:
		payload, _ := automations.DecodePayload(stored.Seen()) // it could be read when the event came
		sender = "sent by " + senderShown(event.Source, payload)
	case !errors.Is(err, db.ErrNotFound):
		return "", fmt.Errorf("read the payload of event %s: %w", id, err)
	}
	return fmt.Sprintf("%s (%s %s, received at %s, %s).", tenants.FormatID(tenants.EventPrefix, id), event.Source, event.Type,
		event.ReceivedAt.UTC().Format("2006-01-02T15:04:05Z"), sender), nil
}

// senderShownMax bounds what is shown of a name from outside, in characters.
const senderShownMax = 100

// senderShown is the name of whoever sent an event, for people.
func senderShown(source string, payload any) string {
	names := sendersOf(source, payload)
	if len(names) == 0 {
		return "somebody whom the payload does not name"
	}
	name := []rune(names[0])
	if len(name) > senderShownMax {
		name = append(name[:senderShownMax], '…')
	}
	return fmt.Sprintf("%q", string(name))
}
