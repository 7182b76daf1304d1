package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// operatorKeyPrefix begins the id of an operator's key.
const operatorKeyPrefix = tenants.OperatorPrefix

// operatorKeyCommand manages the keys of the operator, which nobody can make over the API.
type operatorKeyCommand struct {
	Create operatorKeyCreate `cmd:"" default:"withargs" help:"Make a key and print it, once."`
	List   operatorKeyList   `cmd:"" help:"List the keys that are not revoked."`
	Revoke operatorKeyRevoke `cmd:"" help:"End a key at once."`
}

type operatorKeyCreate struct {
	Name string `arg:"" optional:"" default:"operator" help:"What people call the key."`
}

type operatorKeyList struct{}

type operatorKeyRevoke struct {
	ID string `arg:"" help:"The id, as list shows it."`
}

// operatorKeyNameMax bounds the name of a key, in bytes.
const operatorKeyNameMax = 100

// asSystem runs fn in a transaction of the role that may keep operators' keys.
func asSystem(ctx context.Context, c *Config, fn func(db.SystemTx) error) error {
	pool, err := db.Open(ctx, db.PoolConfig{URL: c.DatabaseURL.Reveal(), Role: db.SystemRole, ConnsMax: 1})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := waitForSchema(ctx, pool); err != nil {
		return err
	}
	// No secret is sealed here, so there is no sealer.
	return db.New(db.Pools{App: pool, System: pool}, nil).System(db.As(ctx, db.Actor{Kind: db.ActorCommand, ID: "operator-key"}), fn)
}

// Run makes a key. The key alone goes to the output, so that a script can take it.
func (k operatorKeyCreate) Run(ctx context.Context, c *Config, std streams) error {
	if k.Name == "" || len(k.Name) > operatorKeyNameMax {
		return usage("NAME: expected 1 to %d bytes", operatorKeyNameMax)
	}
	key, err := tenants.NewKey(true)
	if err != nil {
		return err
	}
	var id uuid.UUID
	err = asSystem(ctx, c, func(tx db.SystemTx) error {
		id, err = tx.OperatorKeyInsert(ctx, k.Name, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	fmt.Fprintf(std.err, "%s (%s); this is shown once:\n", tenants.FormatID(operatorKeyPrefix, id), k.Name)
	_, err = fmt.Fprintln(std.out, key.Reveal())
	return err
}

// Run lists the keys.
func (operatorKeyList) Run(ctx context.Context, c *Config, std streams) error {
	var keys []db.OperatorKey
	err := asSystem(ctx, c, func(tx db.SystemTx) (err error) {
		keys, err = tx.OperatorKeyList(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the keys: %w", err)
	}
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tNAME\tENDS IN\tMADE\tLAST USED")
	for _, k := range keys {
		used := "never"
		if k.LastUsedAt != nil {
			used = k.LastUsedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", tenants.FormatID(operatorKeyPrefix, k.ID), k.Name, k.Last4, k.CreatedAt.UTC().Format(time.RFC3339), used)
	}
	return table.Flush()
}

// Run revokes a key.
func (k operatorKeyRevoke) Run(ctx context.Context, c *Config, std streams) error {
	id, ok := tenants.ParseID(operatorKeyPrefix, k.ID)
	if !ok {
		return usage("ID: expected %s_ and 32 hex digits, as list shows it", operatorKeyPrefix)
	}
	err := asSystem(ctx, c, func(tx db.SystemTx) error { return tx.OperatorKeyRevoke(ctx, id) })
	if errors.Is(err, db.ErrNotFound) {
		return fmt.Errorf("there is no key %s that is not revoked", k.ID)
	}
	if err != nil {
		return fmt.Errorf("revoke the key: %w", err)
	}
	_, err = fmt.Fprintf(std.out, "%s is revoked\n", k.ID)
	return err
}
