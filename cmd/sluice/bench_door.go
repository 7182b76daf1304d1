package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

// benchReadyTimeout bounds how long a door may take to open.
const benchReadyTimeout = 20 * time.Second

// benchDoor is `sluice serve` as a process of its own, so that what it costs can be told from what its callers cost.
type benchDoor struct {
	command *exec.Cmd
	address string // host:port
	path    string // of the bench's endpoint
}

// serve starts a door with its defaults and these settings, and waits until it takes requests.
func (h *benchHouse) serve(ctx context.Context, settings ...string) (*benchDoor, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	d := &benchDoor{address: address, path: "/in/" + h.token, command: exec.CommandContext(ctx, binary, "serve")}
	d.command.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + h.url, "SLUICE_MASTER_KEY=" + hex.EncodeToString(make([]byte, db.MasterKeyLen)),
		"SLUICE_LISTEN=" + address, "SLUICE_METRICS_LISTEN=", "SLUICE_PUBLIC_URL=http://" + address,
	}, settings...)
	var said bytes.Buffer
	d.command.Stdout, d.command.Stderr = io.Discard, &said
	if err := d.command.Start(); err != nil {
		return nil, fmt.Errorf("start a door: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, benchReadyTimeout)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
		if err != nil {
			return nil, err
		}
		if response, err := (&http.Client{}).Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return d, nil
			}
		}
		select {
		case <-ctx.Done():
			d.close()
			return nil, fmt.Errorf("a door did not open: %s", oneLine(said.Bytes()))
		case <-time.After(20 * time.Millisecond): //nolint:mnd // often enough
		}
	}
}

func (d *benchDoor) close() {
	if d == nil || d.command.Process == nil {
		return
	}
	_ = d.command.Process.Signal(syscall.SIGTERM)
	_ = d.command.Wait()
}

// hammer lets n connections deliver one event after another; id, if set, names the event of each.
func (d *benchDoor) hammer(ctx context.Context, n int, during time.Duration, id func() string) (rate, error) {
	callers := make([]*benchCaller, n)
	for i := range callers {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.address)
		if err != nil {
			return rate{}, fmt.Errorf("connect to the door: %w", err)
		}
		defer conn.Close()
		callers[i] = &benchCaller{door: d, conn: conn, answers: bufio.NewReader(conn)}
	}
	if id == nil {
		id = func() string { return tenants.NewID().String() }
	}
	return hammer(ctx, n, during, func(_ context.Context, caller int) error { return callers[caller].deliver(id()) })
}

// benchCaller is one connection that speaks just enough HTTP: the caller shares the machine with what is measured, so it has to cost little.
type benchCaller struct {
	door    *benchDoor
	conn    net.Conn
	answers *bufio.Reader
	out     bytes.Buffer
}

// deliver signs and posts one event, and wants a 200.
func (c *benchCaller) deliver(id string) error {
	standard, _ := source.Get("standard")
	signed, err := standard.Sign(source.SignInput{Method: http.MethodPost, Body: payload(id), Secret: benchSecret, ID: "msg_" + id, At: time.Now()})
	if err != nil {
		return err
	}
	c.out.Reset()
	fmt.Fprintf(&c.out, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", c.door.path, c.door.address, len(signed.Body))
	if err := signed.Header.Write(&c.out); err != nil {
		return err
	}
	c.out.WriteString("\r\n")
	c.out.Write(signed.Body)
	if _, err := c.conn.Write(c.out.Bytes()); err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	answer, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New("answered " + answer.Status + ": " + oneLine(body))
	}
	return err
}

// median is the figure in the middle, by acks per second.
func median(all []figure) figure {
	slices.SortFunc(all, func(a, b figure) int { return int(a.perSecond() - b.perSecond()) })
	return all[len(all)/2]
}
