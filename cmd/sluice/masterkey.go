package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"sluice/db"
	"sluice/tenants"
)

// masterKey is the key under which tenants' keys are wrapped. It never shows itself.
type masterKey struct{ text string }

// String hides the key.
func (masterKey) String() string { return "[secret]" }

// GoString hides the key from %#v.
func (masterKey) GoString() string { return "[secret]" }

// LogValue hides the key from slog.
func (masterKey) LogValue() slog.Value { return slog.StringValue("[secret]") }

// bytes are the key itself.
func (k masterKey) bytes() []byte { return []byte(k.text) }

// newMasterKey wraps the bytes of a key.
func newMasterKey(key []byte) masterKey { return masterKey{string(key)} }

// parseMasterKey reads a key in whatever encoding gives db.MasterKeyLen bytes.
func parseMasterKey(text string) (masterKey, bool) {
	unpadded := strings.TrimRight(text, "=")
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString,
		func(string) ([]byte, error) { return base64.RawStdEncoding.DecodeString(unpadded) },
		func(string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(unpadded) },
	} {
		if key, err := decode(text); err == nil && len(key) == db.MasterKeyLen {
			return newMasterKey(key), true
		}
	}
	return masterKey{}, false
}

// masterKeys are keys that only open. They never show themselves.
type masterKeys struct{ keys []masterKey }

// String hides the keys.
func (masterKeys) String() string { return "[secret]" }

// GoString hides the keys from %#v.
func (masterKeys) GoString() string { return "[secret]" }

// LogValue hides the keys from slog.
func (masterKeys) LogValue() slog.Value { return slog.StringValue("[secret]") }

// bytes are the keys themselves.
func (k masterKeys) bytes() [][]byte {
	var out [][]byte
	for _, key := range k.keys {
		out = append(out, key.bytes())
	}
	return out
}

// parseMasterKeys reads keys with commas between them.
func parseMasterKeys(text string) (masterKeys, bool) {
	var out masterKeys
	for one := range strings.SplitSeq(text, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		key, ok := parseMasterKey(one)
		if !ok {
			return masterKeys{}, false
		}
		out.keys = append(out.keys, key)
	}
	return out, true
}

// masterKeyCommand changes keys beside processes that use them. It needs no more rights than they.
type masterKeyCommand struct {
	Rotate masterKeyRotate `cmd:"" help:"Seal everything under SLUICE_MASTER_KEY that is under one of SLUICE_MASTER_KEYS_OLD. Safe to repeat, and to kill; exit code 0 is that nothing is left."`
	Check  masterKeyCheck  `cmd:"" help:"Open everything that is sealed, and write nothing; exit code 0 is that all opens, and that no old key is needed."`
}

type masterKeyRotate struct {
	DataKeys bool   `name:"data-keys" help:"Give tenants new data keys too, seal all of their secrets anew, and take the old data keys away."`
	Tenant   string `name:"tenant" placeholder:"tnt_..." help:"With --data-keys: this tenant's alone."`
}

type masterKeyCheck struct{}

// dataKeyTries is how often a tenant's data key is taken up where another process changes it at the same time.
const dataKeyTries = 5

// withKeys runs fn with the roles of a worker and the keys of the configuration.
func withKeys(ctx context.Context, c *Config, fn func(context.Context, *db.DB) error) error {
	sealer, err := db.NewSealer(c.MasterKey.bytes(), c.MasterKeysOld.bytes()...)
	if err != nil {
		return err
	}
	return asCommand(ctx, c, sealer, func(d *db.DB) error {
		return fn(db.As(ctx, db.Actor{Kind: db.ActorCommand, ID: "master-key rotate"}), d)
	})
}

// Run seals everything anew that is under an old key.
func (m masterKeyRotate) Run(ctx context.Context, c *Config, std streams) error {
	if m.Tenant != "" && !m.DataKeys {
		return usage("--tenant: expected --data-keys as well, since the master key is everybody's")
	}
	return withKeys(ctx, c, func(ctx context.Context, d *db.DB) error {
		done, err := d.MasterKeyRotate(ctx, func(r db.Rewrapped) {
			fmt.Fprintf(std.err, "sluice: under the new master key: %d data keys, %d answers to the operator\n", r.Keysets, r.Answers)
		})
		if err != nil {
			return err
		}
		if m.DataKeys {
			if err := m.dataKeys(ctx, d, std); err != nil {
				return err
			}
		}
		left, err := d.MasterKeyCheck(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(std.out, "data keys: %d, operator's answers: %d, left under an old key: %d, unreadable: %d\n", done.Keysets, done.Answers, left.Old(), len(left.Unreadable))
		return reportUnreadable(std, left)
	})
}

// dataKeys gives tenants new data keys.
func (m masterKeyRotate) dataKeys(ctx context.Context, d *db.DB, std streams) error {
	n, resealed := 0, 0
	_, err := eachTenant(ctx, d, m.Tenant, func(t db.Tenant) error {
		if t.Status == tenants.Erased {
			return nil
		}
		for tries := 1; ; tries++ {
			secrets, err := d.DataKeyRotate(ctx, t.TenantID)
			resealed += secrets
			switch {
			case errors.Is(err, db.ErrNotFound):
				return nil // erased meanwhile
			case errors.Is(err, db.ErrStale) && tries < dataKeyTries:
				continue
			case err != nil:
				return fmt.Errorf("give %s a new data key: %w", tenants.FormatID(tenants.TenantPrefix, t.TenantID), err)
			}
			n++
			fmt.Fprintf(std.err, "sluice: %s has a new data key: %d tenants, %d secrets\n", tenants.FormatID(tenants.TenantPrefix, t.TenantID), n, resealed)
			return nil
		}
	})
	if err == nil {
		fmt.Fprintf(std.out, "new data keys: %d, secrets sealed anew: %d\n", n, resealed)
	}
	return err
}

// Run opens everything that is sealed.
func (masterKeyCheck) Run(ctx context.Context, c *Config, std streams) error {
	return withKeys(ctx, c, func(ctx context.Context, d *db.DB) error {
		report, err := d.KeysCheck(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "WHAT\tUNDER\tOPENED")
		for _, under := range []struct {
			what   string
			counts db.KeyCounts
		}{{"data keys", report.Keysets}, {"operator's answers", report.Answers}} {
			for _, mark := range slices.Sorted(maps.Keys(under.counts)) {
				name := "an old master key, " + mark
				if mark == report.Mark {
					name = "the master key, " + mark
				}
				fmt.Fprintf(table, "%s\t%s\t%d\n", under.what, name, under.counts[mark])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(report.Sealed)) {
			fmt.Fprintf(table, "%s\tdata keys\t%d\n", name, report.Sealed[name])
		}
		if err := table.Flush(); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
		fmt.Fprintf(std.out, "left under an old key: %d, under a data key that is being replaced: %d, unreadable: %d\n", report.Old(), report.Aged, len(report.Unreadable))
		return reportUnreadable(std, report)
	})
}

// reportUnreadable lists what does not open; it fails where there is any, or where an old key is still needed.
func reportUnreadable(std streams, report db.KeysReport) error {
	for _, name := range report.Unreadable {
		fmt.Fprintf(std.err, "sluice: unreadable: %s\n", name)
	}
	if len(report.Unreadable) > 0 || report.Old()+report.Aged > 0 {
		return errSilent
	}
	return nil
}
