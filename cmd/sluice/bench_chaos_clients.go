package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"sluice/api/source"
	"sluice/tenants"
)

// chaosClients are those who send webhooks, and remember what they were told: the first of the judges.
type chaosClients struct {
	world    *chaosWorld
	http     *http.Client
	standard source.Source
	group    sync.WaitGroup
	// retrying ends when nobody sends any more that was not acked.
	retrying context.Context //nolint:containedctx // it is the clients' life
	giveUp   context.CancelFunc

	mu     sync.Mutex
	random *rand.Rand
	last   int
	sent   map[string]*chaosEvent // by the source's id
	acked  []string               // in the order of their acks
	orders map[string]int         // the last number of each entity in order
	counts chaosCounts
}

// chaosCounts is what came of all deliveries.
type chaosCounts struct {
	deliveries, duplicates, floods int
	forged, forgedIn               int
	refused                        map[int]int // genuine deliveries that were answered otherwise than 200, by status
	unpatient                      int         // 503 and 429 without Retry-After
	unanswered                     int
}

// chaosEvent is one event as its sender sees it.
type chaosEvent struct {
	desk *chaosDesk
	body []byte
	// eventID is what the first ack said; another ack that says something else is a break of the promise.
	eventID string
	ackedAt time.Time
	twoIDs  bool
	// altered counts deliveries of the same id with another body, after the ack.
	altered int
	forged  bool
	// abandoned events are sent once: nobody knows what became of them, if there is no answer.
	abandoned bool
}

// How those who send behave.
const (
	chaosFloodSize   = 100
	chaosEntities    = 4    // senders in order
	chaosOrderPause  = 6000 // ms, at most, between two events of one of them
	chaosRetryLeast  = 400  // ms
	chaosRetryMore   = 3000 // ms
	chaosAbandonPart = 0.05
	chaosForgePart   = 0.05
	chaosAlterPart   = 0.04
	chaosRepeatPart  = 0.06
	chaosAnswerMax   = 1 << 20
	chaosIssues      = 12
	// chaosForger is a secret of the right shape that nobody has registered.
	chaosForger = "whsec_Zm9yZ2VkZm9yZ2VkZm9yZ2VkZm9yZ2Vk"
)

func newChaosClients(w *chaosWorld) *chaosClients {
	standard, _ := source.Get("standard")
	return &chaosClients{
		world: w, http: chaosHTTP(), standard: standard, random: rand.New(rand.NewPCG(w.Seed, 2)), // it has to be the same again
		sent: map[string]*chaosEvent{}, orders: map[string]int{}, counts: chaosCounts{refused: map[int]int{}},
	}
}

// begin lets them send until sending ends. What was not acked by then is sent again until finish.
func (c *chaosClients) begin(sending, living context.Context) {
	c.retrying, c.giveUp = context.WithCancel(living)
	c.group.Go(func() { c.open(sending) })
	for _, desk := range c.world.desks {
		if desk.weight > 0 {
			continue
		}
		for entity := range chaosEntities {
			c.group.Go(func() { c.inOrder(sending, desk, "line"+strconv.Itoa(entity)) })
		}
	}
}

// finish waits until all that is to be acked is, or nothing is acked any more.
func (c *chaosClients) finish() {
	bound := time.AfterFunc(chaosAckWithin, c.giveUp)
	defer bound.Stop()
	c.group.Wait()
	c.giveUp()
}

// chaosAckWithin bounds how long senders go on after all is well again.
const chaosAckWithin = 2 * time.Minute

// open sends at a rate that does not wait for answers.
func (c *chaosClients) open(sending context.Context) {
	for sending.Err() == nil {
		c.mu.Lock()
		gap := time.Duration(c.random.ExpFloat64() / c.world.Rate * float64(time.Second))
		kind, abandoned := c.random.Float64(), c.random.Float64() < chaosAbandonPart
		var earlier string
		if len(c.acked) > 0 {
			earlier = c.acked[c.random.IntN(len(c.acked))]
		}
		c.mu.Unlock()
		switch {
		case kind < chaosForgePart:
			c.group.Go(func() { c.forge() })
		case kind < chaosForgePart+chaosAlterPart && earlier != "":
			c.group.Go(func() { c.alter(earlier) })
		case kind < chaosForgePart+chaosAlterPart+chaosRepeatPart && earlier != "":
			c.group.Go(func() { c.deliver(earlier, c.event(earlier).body, chaosDelivery{}) })
		default:
			id := c.fresh(c.desk(), "", 0)
			c.event(id).abandoned = abandoned
			c.group.Go(func() { c.untilAcked(id) })
		}
		pause(sending, gap)
	}
}

// inOrder sends the events of one entity one after another: the next one when the last was acked.
func (c *chaosClients) inOrder(sending context.Context, desk *chaosDesk, entity string) {
	for n := 1; sending.Err() == nil; n++ {
		id := c.fresh(desk, entity, n)
		if !c.untilAcked(id) {
			return
		}
		c.mu.Lock()
		c.orders[entity] = n
		gap := time.Duration(c.random.IntN(chaosOrderPause)) * time.Millisecond
		c.mu.Unlock()
		pause(sending, gap)
	}
}

// flood delivers one event again and again, to all doors at once: a new one, or one of long ago.
func (c *chaosClients) flood(random *rand.Rand) {
	c.mu.Lock()
	c.counts.floods++
	id := ""
	if len(c.acked) > 0 && random.IntN(2) == 0 {
		id = c.acked[random.IntN(len(c.acked))]
	}
	c.mu.Unlock()
	if id == "" {
		id = c.fresh(c.desk(), "", 0)
	}
	var all sync.WaitGroup
	for range chaosFloodSize {
		all.Go(func() { c.deliver(id, c.event(id).body, chaosDelivery{}) })
	}
	all.Wait()
	c.group.Go(func() { c.untilAcked(id) })
}

// desk draws one by the weights.
func (c *chaosClients) desk() *chaosDesk {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0
	for _, d := range c.world.desks {
		sum += d.weight
	}
	left := c.random.IntN(sum)
	for _, d := range c.world.desks {
		if left -= d.weight; left < 0 {
			return d
		}
	}
	return c.world.desks[0]
}

// fresh makes an event that nobody has heard of.
func (c *chaosClients) fresh(desk *chaosDesk, entity string, n int) (id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	id = chaosEventPrefix + strconv.Itoa(c.last)
	if entity == "" {
		entity = "thing" + strconv.Itoa(c.random.IntN(chaosIssues))
	}
	body := fmt.Sprintf(`{"type":"chaos.happened","timestamp":%q,"data":{"id":%q,"event":%q,"seq":%d,"issue":%d,"note":%q}}`,
		time.Now().UTC().Format(time.RFC3339Nano), entity, id, n, 1+c.random.IntN(chaosIssues), benchNote[:200+c.random.IntN(chaosNoteMax)])
	c.sent[id] = &chaosEvent{desk: desk, body: []byte(body)}
	return id
}

const chaosNoteMax = 1000

func (c *chaosClients) event(id string) *chaosEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[id]
}

// untilAcked delivers an event until it is acked, as sources do, and says whether it was.
func (c *chaosClients) untilAcked(id string) bool {
	e := c.event(id)
	for c.retrying.Err() == nil {
		if c.deliver(id, e.body, chaosDelivery{}) {
			return true
		}
		if e.abandoned {
			return false
		}
		c.mu.Lock()
		gap := time.Duration(chaosRetryLeast+c.random.IntN(chaosRetryMore)) * time.Millisecond
		c.mu.Unlock()
		pause(c.retrying, gap)
	}
	return false
}

// forge delivers what nobody signed.
func (c *chaosClients) forge() {
	id := c.fresh(c.desk(), "", 0)
	c.mu.Lock()
	e := c.sent[id]
	e.forged, e.abandoned = true, true
	c.mu.Unlock()
	c.deliver(id, e.body, chaosDelivery{secret: chaosForger})
}

// alter delivers an id that was acked with another body.
func (c *chaosClients) alter(id string) {
	c.mu.Lock()
	e := c.sent[id]
	e.altered++
	other := bytes.Replace(e.body, []byte(`"note":"`), fmt.Appendf(nil, `"note":"altered %d `, e.altered), 1)
	c.mu.Unlock()
	c.deliver(id, other, chaosDelivery{})
}

// chaosDelivery is what is out of the ordinary about one.
type chaosDelivery struct{ secret string }

// deliver makes one delivery to one of the doors, notes what came of it, and says whether it was acked.
func (c *chaosClients) deliver(id string, body []byte, d chaosDelivery) bool {
	secret := benchSecret
	if d.secret != "" {
		secret = d.secret
	}
	e := c.event(id)
	signed, err := c.standard.Sign(source.SignInput{Method: http.MethodPost, Body: body, Secret: secret, ID: id, At: time.Now()})
	if err != nil {
		return false
	}
	c.mu.Lock()
	door := c.world.doors[c.random.IntN(len(c.world.doors))]
	c.counts.deliveries++
	c.mu.Unlock()
	// Not the senders' life: whoever stops to send still waits for the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.retrying), chaosPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+door.address+e.desk.path, bytes.NewReader(signed.Body))
	if err != nil {
		return false
	}
	request.Header = signed.Header
	response, err := c.http.Do(request)
	if err != nil {
		c.note(func() { c.counts.unanswered++ })
		return false
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, chaosAnswerMax))
	var said struct {
		EventID   string `json:"event_id"`
		Duplicate bool   `json:"duplicate"`
	}
	if err == nil && response.StatusCode == http.StatusOK {
		err = json.Unmarshal(answer, &said)
	}
	c.note(func() {
		switch {
		case err != nil:
			c.counts.unanswered++
		case e.forged:
			c.counts.forged++
			if response.StatusCode == http.StatusOK {
				c.counts.forgedIn++
			}
		case response.StatusCode != http.StatusOK:
			c.counts.refused[response.StatusCode]++
			if response.Header.Get("Retry-After") == "" {
				c.counts.unpatient++
			}
		default:
			c.ack(id, e, said.EventID, said.Duplicate)
		}
	})
	return err == nil && response.StatusCode == http.StatusOK && !e.forged
}

// ack notes that an event was acked; the lock is held.
func (c *chaosClients) ack(id string, e *chaosEvent, eventID string, duplicate bool) {
	if duplicate {
		c.counts.duplicates++
	}
	if _, ok := tenants.ParseID(tenants.EventPrefix, eventID); !ok || e.eventID != "" && e.eventID != eventID {
		e.twoIDs = true
	}
	if e.eventID == "" {
		e.eventID, e.ackedAt = eventID, time.Now()
		c.acked = append(c.acked, id)
	}
}

func (c *chaosClients) note(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
}
