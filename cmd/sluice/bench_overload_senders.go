package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"sluice/api/source"
	"sluice/tenants"
)

// overloadAnswer is what a sender heard of a delivery.
type overloadAnswer int

const (
	overloadSilent overloadAnswer = iota
	overloadAcked
	overloadRefused
)

// overloadJournal is what the senders know, by the id of each event: the judge, beside the database.
type overloadJournal struct {
	mu      sync.Mutex
	answers map[string]overloadAnswer
}

func (j *overloadJournal) note(id string, a overloadAnswer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.answers[id] = a
}

// sets are the ids by what was heard of them.
func (j *overloadJournal) sets() (acked, silent, refused []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for id, a := range j.answers {
		switch a {
		case overloadAcked:
			acked = append(acked, id)
		case overloadRefused:
			refused = append(refused, id)
		default:
			silent = append(silent, id)
		}
	}
	return acked, silent, refused
}

// overloadFigure is what became of the deliveries of one phase.
type overloadFigure struct {
	name string

	mu                                                    sync.Mutex
	offered, unoffered, acked, busy, paced, other, silent int
	acks, refusals                                        rate
	longest                                               time.Duration
	firstOther                                            string
	resident                                              int64
}

func (f *overloadFigure) sort() {
	slices.Sort(f.acks.waits)
	slices.Sort(f.refusals.waits)
}

// heard counts one answer.
func (f *overloadFigure) heard(answer *http.Response, body []byte, took time.Duration) overloadAnswer {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.longest = max(f.longest, took)
	asked := answer.Header.Get("Retry-After") != ""
	switch {
	case answer.StatusCode == http.StatusOK:
		f.acked++
		f.acks.waits = append(f.acks.waits, took)
		return overloadAcked
	case answer.StatusCode == http.StatusServiceUnavailable && asked:
		f.busy++
	case answer.StatusCode == http.StatusTooManyRequests && asked:
		f.paced++
	default:
		f.other++
		if f.firstOther == "" {
			f.firstOther = answer.Status + " " + oneLine(body)
		}
	}
	f.refusals.waits = append(f.refusals.waits, took)
	return overloadRefused
}

// overloadSenders are connections that deliver when a delivery is due, and not when the one before has been answered.
type overloadSenders struct {
	door    *benchDoor
	journal *overloadJournal
	figure  *overloadFigure
	due     chan time.Time
	most    int
	group   sync.WaitGroup
	started int
}

func newOverloadSenders(door *benchDoor, most int, journal *overloadJournal, f *overloadFigure) *overloadSenders {
	return &overloadSenders{door: door, journal: journal, figure: f, due: make(chan time.Time), most: most}
}

// overloadTick is how often what is due is handed out.
const overloadTick = time.Millisecond

// offer hands deliveries out at a steady pace. Where nobody is free, one more connection is opened; where there are as many as may be, the delivery
// is counted and not made.
func (s *overloadSenders) offer(ctx context.Context, perSecond float64, during time.Duration) {
	begun := time.Now()
	tick := time.NewTicker(overloadTick)
	defer tick.Stop()
	for handed := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		elapsed := time.Since(begun)
		if elapsed >= during {
			return
		}
		for due := int(elapsed.Seconds() * perSecond); handed < due; handed++ {
			at := begun.Add(time.Duration(float64(handed) / perSecond * float64(time.Second)))
			select {
			case s.due <- at:
				s.figure.offered++
				continue
			default:
			}
			if s.started == s.most {
				s.figure.unoffered++
				continue
			}
			s.started++
			s.figure.offered++
			s.group.Go(func() { s.send(ctx, at) })
		}
	}
}

// close waits for the answers that are still to come.
func (s *overloadSenders) close() {
	close(s.due)
	s.group.Wait()
}

// send delivers one after another over a connection of its own, which is opened anew where the door closes it.
func (s *overloadSenders) send(ctx context.Context, at time.Time) {
	c := &overloadSender{door: s.door}
	defer c.close()
	for ok := true; ok; at, ok = <-s.due {
		id := "msg_" + tenants.NewID().String()
		answer, body, err := c.deliver(ctx, id) //nolint:bodyclose // it is read and closed there
		if err != nil {
			s.figure.mu.Lock()
			s.figure.silent++
			if s.figure.firstOther == "" {
				s.figure.firstOther = err.Error()
			}
			s.figure.mu.Unlock()
			s.journal.note(id, overloadSilent)
			continue
		}
		s.journal.note(id, s.figure.heard(answer, body, time.Since(at)))
	}
}

// overloadSender is one connection.
type overloadSender struct {
	door    *benchDoor
	conn    net.Conn
	answers *bufio.Reader
	out     bytes.Buffer
}

func (c *overloadSender) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// overloadPatience is how long a sender waits for an answer, as a source would.
const overloadPatience = 10 * time.Second

// deliver signs and posts one event, and gives the answer whatever it is.
func (c *overloadSender) deliver(ctx context.Context, id string) (answer *http.Response, body []byte, err error) {
	defer func() {
		if err != nil || answer != nil && answer.Close {
			c.close()
		}
	}()
	if c.conn == nil {
		if c.conn, err = (&net.Dialer{Timeout: overloadPatience}).DialContext(ctx, "tcp", c.door.address); err != nil {
			return nil, nil, fmt.Errorf("connect: %w", err)
		}
		c.answers = bufio.NewReader(c.conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(overloadPatience)); err != nil {
		return nil, nil, fmt.Errorf("set a deadline: %w", err)
	}
	standard, _ := source.Get("standard")
	signed, err := standard.Sign(source.SignInput{Method: http.MethodPost, Body: payload(id), Secret: benchSecret, ID: id, At: time.Now()})
	if err != nil {
		return nil, nil, err
	}
	c.out.Reset()
	fmt.Fprintf(&c.out, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", c.door.path, c.door.address, len(signed.Body))
	if err := signed.Header.Write(&c.out); err != nil {
		return nil, nil, err
	}
	c.out.WriteString("\r\n")
	c.out.Write(signed.Body)
	if _, err := c.conn.Write(c.out.Bytes()); err != nil {
		return nil, nil, fmt.Errorf("deliver: %w", err)
	}
	if answer, err = http.ReadResponse(c.answers, nil); err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	return answer, body, err
}
