package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/api"
	"sluice/api/source"
	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/tenants"
)

type benchIntake struct {
	Connections []int         `default:"1,16,64" help:"How many callers at once, one figure for each."`
	During      time.Duration `default:"4s" help:"How long each figure is measured."`
}

// The yardstick: what any intake would have to do, and nothing more.
const (
	bareTableSQL = `create table public.bare_events (id uuid primary key, body bytea not null)`
	bareEventSQL = `insert into public.bare_events (id, body) values ($1, $2)`
	bareJobSQL   = `insert into river.river_job (kind, max_attempts, queue, args) values ('bare', 1, 'bare', $1)`
)

// Run measures and prints.
func (b benchIntake) Run(ctx context.Context, std streams, lookup environment) error {
	out := std.out
	h, err := newBenchHouse(ctx, lookup)
	if err != nil {
		return err
	}
	defer h.close()
	most := 1
	for _, n := range b.Connections {
		most = max(most, n)
	}
	database, closeDB, err := h.open(ctx, db.AppRole, int32(min(most, 64)), "")
	if err != nil {
		return err
	}
	defer closeDB()
	none := func(string) map[string]any { return map[string]any{"kind": "none"} }
	if _, err := h.furnish(ctx, database, none, "shadow"); err != nil {
		return err
	}
	address, stop, err := h.serve(ctx, database)
	if err != nil {
		return err
	}
	defer stop()
	bare, err := pgxpool.New(ctx, h.url+"&pool_max_conns="+strconv.Itoa(most))
	if err != nil {
		return fmt.Errorf("open the yardstick's pool: %w", err)
	}
	defer bare.Close()
	if _, err := bare.Exec(ctx, bareTableSQL); err != nil {
		return fmt.Errorf("make the yardstick's table: %w", err)
	}
	h.machine(out, "intake")
	fmt.Fprintf(out, "one event of %d bytes, one run and one River job each; ours over HTTP with its signature checked; %s a figure\n", benchBody, b.During)
	fmt.Fprintf(out, "%12s | %14s %9s %9s | %14s %9s %9s | %5s\n", "connections", "bare 2 inserts", "p50", "p99", "intake acks", "p50", "p99", "ratio")
	for _, n := range b.Connections {
		yardstick, err := hammer(ctx, n, b.During, func(ctx context.Context, _ int) error { return bareTransaction(ctx, bare) })
		if err != nil {
			return fmt.Errorf("%w: yardstick: %w", errBench, err)
		}
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, MaxConnsPerHost: n}}
		ours, err := hammer(ctx, n, b.During, func(ctx context.Context, _ int) error { return deliver(ctx, client, address) })
		if err != nil {
			return fmt.Errorf("%w: intake: %w", errBench, err)
		}
		fmt.Fprintf(out, "%12d | %12.0f/s %9s %9s | %12.0f/s %9s %9s | %5.2f\n", n, yardstick.perSecond(), short(yardstick.quantile(0.5)),
			short(yardstick.quantile(0.99)), ours.perSecond(), short(ours.quantile(0.5)), short(ours.quantile(0.99)), ours.perSecond()/yardstick.perSecond())
	}
	return nil
}

func short(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func bareTransaction(ctx context.Context, pool *pgxpool.Pool) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	id := tenants.NewID()
	if _, err := tx.Exec(ctx, bareEventSQL, id, payload(id.String())); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, bareJobSQL, `{"id":"`+id.String()+`"}`); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// serve starts the API on loopback.
func (h *benchHouse) serve(ctx context.Context, database *db.DB) (string, func(), error) {
	poster, err := jobs.NewPoster(quiet())
	if err != nil {
		return "", nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	base := "http://" + listener.Addr().String()
	face := api.New(api.Deps{
		DB: database, Poster: poster, Actions: action.New(outbound.New(outbound.Config{})), ModelFault: jobs.ModelFault([]string{"scripted"}),
		PublicURL: base, Log: quiet(), Now: time.Now, Version: "bench", IntakeFlushers: 2,
		Fetch: func(context.Context, string) ([]byte, error) {
			return nil, errors.New("the bench has no source to ask")
		},
	})
	server := &http.Server{Handler: face.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return base + "/in/" + h.token, func() { _ = server.Close() }, nil
}

// deliver signs and posts one event, and wants a 200.
func deliver(ctx context.Context, client *http.Client, address string) error {
	s, _ := source.Get("standard")
	id, now := tenants.NewID().String(), time.Now()
	body := payload(id)
	signed, err := s.Sign(source.SignInput{Method: http.MethodPost, URL: address, Body: body, Secret: benchSecret, ID: "msg_" + id, At: now})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = signed.Header
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %d: %s", response.StatusCode, answer)
	}
	return err
}
