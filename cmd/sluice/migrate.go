package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations"
)

// migrateCommand changes the shape of the database, or tells it.
type migrateCommand struct {
	Up     migrateUp     `cmd:"" help:"Bring the database to this binary's version. Safe to repeat."`
	Down   migrateDown   `cmd:"" help:"Take migrations back; the rows go with the tables."`
	Status migrateStatus `cmd:"" help:"Say how far the database is; exit code 0 is as far as this binary needs."`
}

type migrateUp struct{}

type migrateDown struct {
	Steps int  `name:"steps" default:"0" help:"How many migrations to take back."`
	All   bool `name:"all" help:"Take all of them back, and River's tables: nothing remains."`
	Yes   bool `name:"yes" help:"Confirms --all."`
}

type migrateStatus struct{}

// ownerURL is the database as whoever may migrate it.
func ownerURL(c *Config) (string, error) {
	switch {
	case !c.OwnerDatabaseURL.Empty():
		return c.OwnerDatabaseURL.Reveal(), nil
	case !c.DatabaseURL.Empty():
		return c.DatabaseURL.Reveal(), nil
	}
	return "", usage("--owner-database-url (SLUICE_OWNER_DATABASE_URL) or --database-url (DATABASE_URL): is missing; expected postgres://user:password@host:port/database")
}

// Run migrates up.
func (migrateUp) Run(ctx context.Context, c *Config, std streams) error {
	url, err := ownerURL(c)
	if err != nil {
		return err
	}
	if err := migrations.Up(ctx, url); err != nil {
		return err
	}
	status, err := readStatus(ctx, url)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "the schema is at version %d\n", status.Version)
	return status.Err()
}

// Run migrates down.
func (m migrateDown) Run(ctx context.Context, c *Config, std streams) error {
	switch {
	case m.All == (m.Steps != 0):
		return usage("expected --steps N, or --all --yes")
	case m.Steps < 0:
		return usage("--steps: expected 1 or more, got %d", m.Steps)
	case m.All && !m.Yes:
		return usage("--all takes every table away, with all that is in it: expected --yes as well")
	}
	url, err := ownerURL(c)
	if err != nil {
		return err
	}
	before, err := readStatus(ctx, url)
	if err != nil {
		return err
	}
	if m.Steps > before.Version {
		return usage("--steps: expected at most %d, the version of the schema, got %d", before.Version, m.Steps)
	}
	if err := migrations.Down(ctx, url, m.Steps); err != nil {
		return err
	}
	status, err := readStatus(ctx, url)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "the schema is at version %d\n", status.Version)
	return nil
}

// Run tells how far the database is.
func (migrateStatus) Run(ctx context.Context, c *Config, std streams) error {
	url, err := ownerURL(c)
	if err != nil {
		return err
	}
	status, err := readStatus(ctx, url)
	if err != nil {
		return err
	}
	fault := status.Err()
	indexes := "none"
	if len(status.InvalidIndexes) > 0 {
		indexes = strings.Join(status.InvalidIndexes, ", ")
	}
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "version\t%d\n", status.Version)
	fmt.Fprintf(table, "this binary's\t%d\n", status.Wanted)
	fmt.Fprintf(table, "stopped half way\t%s\n", yesOrNo(status.Dirty))
	fmt.Fprintf(table, "River's tables\t%s\n", map[bool]string{true: "ready", false: "too old"}[status.RiverReady])
	fmt.Fprintf(table, "invalid indexes\t%s\n", indexes)
	fmt.Fprintf(table, "ready\t%s\n", yesOrNo(fault == nil))
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return fault
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// readStatus asks as the login itself: before the first migration there are no roles.
func readStatus(ctx context.Context, url string) (migrations.Status, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return migrations.Status{}, errors.New("connect: the database's url is not a Postgres connection string")
	}
	defer pool.Close()
	status, err := migrations.Read(ctx, pool)
	if err != nil {
		return migrations.Status{}, fmt.Errorf("read the status: %w", err)
	}
	return status, nil
}
