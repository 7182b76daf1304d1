package db

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"sluice/tenants"
)

// This file changes the keys that secrets are sealed under, beside processes that seal and open.

// keysPage is how many rows are looked at in one transaction: a kill loses no more of the work than that.
const keysPage = 200

// A sealedColumn is a column of sealed secrets.
type sealedColumn struct {
	table string
	// page reads those after a row, and with a prefix those alone that do not begin with it; swap replaces one if it is still what was read;
	// together reads one and the tenant's data key at one moment.
	page, swap, together string
}

const (
	sealedPageFrom     = `select id::text as row, sealed from sluice.`
	sealedPageWhere    = ` where tenant_id = @tenant_id and id::text > @after and (@prefix::bytea is null or substring(sealed for 5) <> @prefix) order by id::text limit @limit`
	sealedSwapUpdate   = `update sluice.`
	sealedSwapSet      = ` set sealed = @sealed where tenant_id = @tenant_id and id = @row::uuid and sealed = @was`
	sealedTogetherFrom = `select k.wrapped, r.sealed from sluice.tenant_keysets k join sluice.`
	sealedTogetherOn   = ` r on r.tenant_id = k.tenant_id where k.tenant_id = @tenant_id and r.id = @row::uuid`

	credentialSealedPageSQL     = sealedPageFrom + `credentials` + sealedPageWhere
	credentialSealedSwapSQL     = sealedSwapUpdate + `credentials` + sealedSwapSet
	credentialSealedTogetherSQL = sealedTogetherFrom + `credentials` + sealedTogetherOn

	endpointSecretSealedPageSQL     = sealedPageFrom + endpointSecretsTable + sealedPageWhere
	endpointSecretSealedSwapSQL     = sealedSwapUpdate + endpointSecretsTable + sealedSwapSet
	endpointSecretSealedTogetherSQL = sealedTogetherFrom + endpointSecretsTable + sealedTogetherOn

	alertChannelSealedPageSQL     = sealedPageFrom + alertChannelsTable + sealedPageWhere
	alertChannelSealedSwapSQL     = sealedSwapUpdate + alertChannelsTable + sealedSwapSet
	alertChannelSealedTogetherSQL = sealedTogetherFrom + alertChannelsTable + sealedTogetherOn

	idempotencySealedPageSQL = `
select key as row, answer as sealed from sluice.idempotency_keys
where tenant_id = @tenant_id and key > @after and (@prefix::bytea is null or substring(answer for 5) <> @prefix) and answer is not null
order by key limit @limit`
	idempotencySealedSwapSQL = `
update sluice.idempotency_keys set answer = @sealed where tenant_id = @tenant_id and key = @row and answer = @was`
	idempotencySealedTogetherSQL = `
select k.wrapped, r.answer as sealed from sluice.tenant_keysets k
join sluice.idempotency_keys r on r.tenant_id = k.tenant_id where k.tenant_id = @tenant_id and r.key = @row`
)

// sealedColumns are all columns that are sealed under tenants' data keys; a test holds them against the schema.
func sealedColumns() []sealedColumn {
	return []sealedColumn{
		{"credentials", credentialSealedPageSQL, credentialSealedSwapSQL, credentialSealedTogetherSQL},
		{endpointSecretsTable, endpointSecretSealedPageSQL, endpointSecretSealedSwapSQL, endpointSecretSealedTogetherSQL},
		{alertChannelsTable, alertChannelSealedPageSQL, alertChannelSealedSwapSQL, alertChannelSealedTogetherSQL},
		{"idempotency_keys", idempotencySealedPageSQL, idempotencySealedSwapSQL, idempotencySealedTogetherSQL},
	}
}

// SealedTables names the tables that hold what is sealed under tenants' data keys.
func SealedTables() []string {
	var out []string
	for _, c := range sealedColumns() {
		out = append(out, c.table)
	}
	return out
}

type sealedRow struct {
	Row    string
	Sealed []byte
}

type sealedTogether struct {
	Wrapped []byte
	Sealed  []byte
}

// readTogether reads a sealed row and the data key it is sealed under, as they are at one moment.
func (tx TenantTx) readTogether(ctx context.Context, table, row string) (sealedTogether, error) {
	for _, c := range sealedColumns() {
		if c.table == table {
			return one[sealedTogether](ctx, tx.tx, c.together, tx.with(args{"row": row}))
		}
	}
	return sealedTogether{}, fmt.Errorf("%w: no sealed table is called %s", ErrNotFound, table)
}

// KeyCounts are how many of something stand under each master key, by the key's mark.
type KeyCounts map[string]int

// Rewrapped is what came of wrapping keys anew.
type Rewrapped struct {
	Keysets, Answers int // that are under the primary key now and were not before
	// Unreadable names what none of the keys opens.
	Unreadable []string
}

type keysetRow struct {
	TenantID   uuid.UUID
	Wrapped    []byte
	MasterMark *string
}

const keysetPageSQL = `
select tenant_id, wrapped, master_mark from sluice.tenant_keysets where tenant_id > @after order by tenant_id limit @limit`

const keysetSwapSQL = `
update sluice.tenant_keysets set wrapped = @wrapped, master_mark = @mark where tenant_id = @tenant_id and wrapped = @was`

type operatorAnswerRow struct {
	Key    string
	Answer []byte
}

const operatorAnswerPageSQL = `
select key, answer from sluice.operator_idempotency_keys where key > @after and answer is not null order by key limit @limit`

const operatorAnswerSwapSQL = `update sluice.operator_idempotency_keys set answer = @answer where key = @key and answer = @was`

// nameOfKeyset says which data key cannot be had.
func nameOfKeyset(tenantID uuid.UUID) string {
	return "the data key of " + tenants.FormatID(tenants.TenantPrefix, tenantID)
}

// MasterKeyRotate wraps every data key and seals every operator's answer under the primary master key. It may be killed and begun again at any
// moment, and run beside processes that hold the keys in either order. told, if not nil, hears how far it is after each page.
func (d *DB) MasterKeyRotate(ctx context.Context, told func(Rewrapped)) (Rewrapped, error) {
	var sum Rewrapped
	report := func() {
		if told != nil {
			told(sum)
		}
	}
	err := d.eachKeyset(ctx, func(tx SystemTx, row keysetRow) error {
		handle, mark, err := tx.sealer.handle(row.TenantID, row.Wrapped)
		if err != nil {
			sum.Unreadable = append(sum.Unreadable, nameOfKeyset(row.TenantID))
			return nil //nolint:nilerr // it is named, and the others go on
		}
		if mark == tx.sealer.Mark() && row.MasterMark != nil && *row.MasterMark == mark {
			return nil
		}
		wrapped, err := tx.sealer.wrap(row.TenantID, handle)
		if err != nil {
			return err
		}
		// Where it was replaced meanwhile, it was by a process that knows the key it took: the next look finds it.
		n, err := run(ctx, tx.tx, keysetSwapSQL, args{"tenant_id": row.TenantID, "wrapped": wrapped, "mark": tx.sealer.Mark(), "was": row.Wrapped})
		sum.Keysets += int(n)
		return err
	}, report)
	if err != nil {
		return sum, fmt.Errorf("wrap the data keys anew: %w", err)
	}
	err = d.eachOperatorAnswer(ctx, func(tx SystemTx, row operatorAnswerRow) error {
		text, mark, err := tx.sealer.openOperator(operatorAnswersTable, row.Key, row.Answer)
		if err != nil {
			sum.Unreadable = append(sum.Unreadable, "the operator's answer to the request "+row.Key)
			return nil //nolint:nilerr // it is named, and the others go on
		}
		if mark == tx.sealer.Mark() {
			return nil
		}
		answer, err := sealWith(tx.sealer.masters[0], uuid.Nil, operatorAnswersTable, row.Key, text)
		if err != nil {
			return err
		}
		n, err := run(ctx, tx.tx, operatorAnswerSwapSQL, args{"key": row.Key, "answer": answer, "was": row.Answer})
		sum.Answers += int(n)
		return err
	}, report)
	if err != nil {
		return sum, fmt.Errorf("seal the operator's answers anew: %w", err)
	}
	return sum, nil
}

// eachKeyset goes through all data keys, a page in a transaction.
func (d *DB) eachKeyset(ctx context.Context, fn func(SystemTx, keysetRow) error, told func()) error {
	return eachRow(ctx, d, keysetPageSQL, uuid.Nil, func(r keysetRow) uuid.UUID { return r.TenantID }, fn, told)
}

// eachOperatorAnswer goes through all answers to the operator, a page in a transaction.
func (d *DB) eachOperatorAnswer(ctx context.Context, fn func(SystemTx, operatorAnswerRow) error, told func()) error {
	return eachRow(ctx, d, operatorAnswerPageSQL, "", func(r operatorAnswerRow) string { return r.Key }, fn, told)
}

// eachRow goes through the rows of a statement in the order of their keys, a page in a transaction; told is called after each.
func eachRow[R, K any](ctx context.Context, d *DB, sql string, after K, key func(R) K, fn func(SystemTx, R) error, told func()) error {
	for more := true; more; {
		err := d.System(ctx, func(tx SystemTx) error {
			rows, err := many[R](ctx, tx.tx, sql, args{"after": after, "limit": keysPage})
			for _, row := range rows {
				if err = fn(tx, row); err != nil {
					return err
				}
				after = key(row)
			}
			more = len(rows) == keysPage
			return err
		})
		if err != nil {
			return err
		}
		told()
	}
	return nil
}

// KeysReport is what all that is sealed comes to under the keys that are here.
type KeysReport struct {
	// Keysets and Answers are data keys and operators' answers, by the mark of the master key that opens them.
	Keysets, Answers KeyCounts
	// Sealed are tenants' secrets that were opened, by table; Aged is how many of them are under a data key that is being replaced.
	Sealed map[string]int
	Aged   int
	// Unreadable names what does not open.
	Unreadable []string
	// Mark is the primary master key's.
	Mark string
}

// Old is how many data keys and answers are still under another master key than the primary.
func (r KeysReport) Old() int {
	n := 0
	for _, counts := range []KeyCounts{r.Keysets, r.Answers} {
		for mark, count := range counts {
			if mark != r.Mark {
				n += count
			}
		}
	}
	return n
}

// KeysCheck opens everything that is sealed, and writes nothing.
func (d *DB) KeysCheck(ctx context.Context) (KeysReport, error) {
	r, all, err := d.masterCheck(ctx)
	if err != nil {
		return r, err
	}
	for _, tenantID := range all {
		if err := d.sealedCheck(ctx, tenantID, &r); err != nil {
			return r, fmt.Errorf("open what is sealed of %s: %w", tenants.FormatID(tenants.TenantPrefix, tenantID), err)
		}
	}
	return r, nil
}

// MasterKeyCheck opens what is under a master key itself, and writes nothing.
func (d *DB) MasterKeyCheck(ctx context.Context) (KeysReport, error) {
	r, _, err := d.masterCheck(ctx)
	return r, err
}

func (d *DB) masterCheck(ctx context.Context) (r KeysReport, all []uuid.UUID, err error) {
	r = KeysReport{Keysets: KeyCounts{}, Answers: KeyCounts{}, Sealed: map[string]int{}, Mark: d.sealer.Mark()}
	err = d.eachKeyset(ctx, func(tx SystemTx, row keysetRow) error {
		_, mark, err := tx.sealer.handle(row.TenantID, row.Wrapped)
		if err != nil {
			r.Unreadable = append(r.Unreadable, nameOfKeyset(row.TenantID))
			return nil //nolint:nilerr // it is named, and the others go on
		}
		r.Keysets[mark]++
		all = append(all, row.TenantID)
		return nil
	}, func() {})
	if err != nil {
		return r, nil, fmt.Errorf("open the data keys: %w", err)
	}
	err = d.eachOperatorAnswer(ctx, func(tx SystemTx, row operatorAnswerRow) error {
		if _, mark, err := tx.sealer.openOperator(operatorAnswersTable, row.Key, row.Answer); err == nil {
			r.Answers[mark]++
		} else {
			r.Unreadable = append(r.Unreadable, "the operator's answer to the request "+row.Key)
		}
		return nil
	}, func() {})
	if err != nil {
		return r, nil, fmt.Errorf("open the operator's answers: %w", err)
	}
	return r, all, nil
}

// sealedCheck opens all that is sealed of a tenant.
func (d *DB) sealedCheck(ctx context.Context, tenantID uuid.UUID, r *KeysReport) error {
	prefix, err := d.dataKey(ctx, tenantID)
	if errors.Is(err, ErrNotFound) {
		return nil // erased meanwhile
	} else if err != nil {
		return err
	}
	for _, c := range sealedColumns() {
		err := d.eachSealed(ctx, tenantID, c, nil, func(tx TenantTx, row sealedRow) error {
			_, err := tx.unseal(ctx, c.table, row.Row, row.Sealed)
			switch {
			case errors.Is(err, errUnsealed):
				r.Unreadable = append(r.Unreadable, nameOfRow(tenantID, c.table, row.Row))
				return nil
			case err != nil:
				return err
			}
			r.Sealed[c.table]++
			if !bytes.HasPrefix(row.Sealed, prefix) {
				r.Aged++
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// sealedPrefixes are the prefixes of ids of what has secrets, so that it can be asked for.
var sealedPrefixes = map[string]string{
	"alert_channels": tenants.ChannelPrefix, "credentials": tenants.CredentialPrefix, "endpoint_secrets": tenants.SecretPrefix,
}

func nameOfRow(tenantID uuid.UUID, table, row string) string {
	if id, err := uuid.Parse(row); err == nil && sealedPrefixes[table] != "" {
		row = tenants.FormatID(sealedPrefixes[table], id)
	}
	return row + " of " + table + " of " + tenants.FormatID(tenants.TenantPrefix, tenantID)
}

// eachSealed goes through a column of a tenant, a page in a transaction; with a prefix, through what does not begin with it.
func (d *DB) eachSealed(ctx context.Context, tenantID uuid.UUID, c sealedColumn, prefix []byte, fn func(TenantTx, sealedRow) error) error {
	after := ""
	for more := true; more; {
		err := d.Tenant(ctx, tenantID, func(tx TenantTx) error {
			rows, err := many[sealedRow](ctx, tx.tx, c.page, tx.with(args{"after": after, "prefix": prefix, "limit": keysPage}))
			for _, row := range rows {
				if err = fn(tx, row); err != nil {
					return err
				}
				after = row.Row
			}
			more = len(rows) == keysPage
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// prefixOf begins everything that is sealed under a key of a keyset: Tink's mark and the key's id.
func prefixOf(keyID uint32) []byte { return binary.BigEndian.AppendUint32([]byte{1}, keyID) }

const tenantKeysetLockSQL = `select pg_advisory_xact_lock(hashtextextended('tenant_keysets ' || @tenant_id::uuid, 0))`

// dataKey reads what begins all that a tenant's data key seals.
func (d *DB) dataKey(ctx context.Context, tenantID uuid.UUID) (prefix []byte, err error) {
	err = d.System(ctx, func(tx SystemTx) error {
		handle, _, err := tx.keyset(ctx, tenantID)
		if err != nil {
			return err
		}
		prefix, err = primaryOf(handle)
		return err
	})
	return prefix, err
}

func primaryOf(handle *keyset.Handle) ([]byte, error) {
	primary, err := handle.Primary()
	if err != nil {
		return nil, fmt.Errorf("find the primary key of a data key: %w", err)
	}
	return prefixOf(primary.KeyID()), nil
}

func (tx SystemTx) keyset(ctx context.Context, tenantID uuid.UUID) (*keyset.Handle, []byte, error) {
	wrapped, err := value[[]byte](ctx, tx.tx, tenantKeysetGetSQL, args{"tenant_id": tenantID})
	if err != nil {
		return nil, nil, err
	}
	handle, _, err := tx.sealer.handle(tenantID, wrapped)
	return handle, wrapped, err
}

// keysetChange changes a tenant's data key while nobody seals with it: whoever has sealed has committed, and whoever seals next sees the change.
func (d *DB) keysetChange(ctx context.Context, tenantID uuid.UUID, change func(*keyset.Handle) (*keyset.Handle, error)) error {
	return d.System(ctx, func(tx SystemTx) error {
		if _, err := run(ctx, tx.tx, tenantKeysetLockSQL, args{"tenant_id": tenantID}); err != nil {
			return fmt.Errorf("wait for those who seal: %w", err)
		}
		handle, was, err := tx.keyset(ctx, tenantID)
		if err != nil {
			return err
		}
		if handle, err = change(handle); err != nil || handle == nil {
			return err
		}
		wrapped, err := tx.sealer.wrap(tenantID, handle)
		if err != nil {
			return err
		}
		n, err := run(ctx, tx.tx, keysetSwapSQL, args{"tenant_id": tenantID, "wrapped": wrapped, "mark": tx.sealer.Mark(), "was": was})
		if err == nil && n == 0 {
			return ErrStale // wrapped anew by another process: nothing is lost, and the next try finds it
		}
		return err
	})
}

// DataKeyRotate gives a tenant a new data key, seals all of its secrets under it, and takes the old one away: what was sealed under that one and
// copied before opens no more. It may be killed and begun again; one that was begun is brought to its end.
func (d *DB) DataKeyRotate(ctx context.Context, tenantID uuid.UUID) (resealed int, err error) {
	if err := d.keysetChange(ctx, tenantID, withNewKey); err != nil {
		return 0, fmt.Errorf("add a data key: %w", err)
	}
	prefix, err := d.dataKey(ctx, tenantID)
	if err != nil {
		return 0, fmt.Errorf("read the data key: %w", err)
	}
	for _, c := range sealedColumns() {
		n, err := d.reseal(ctx, tenantID, c, prefix)
		resealed += n
		if err != nil {
			return resealed, fmt.Errorf("seal %s anew: %w", c.table, err)
		}
	}
	err = d.keysetChange(ctx, tenantID, func(handle *keyset.Handle) (*keyset.Handle, error) { return withoutOld(handle, prefix) })
	if err != nil {
		return resealed, fmt.Errorf("take the old data key away: %w", err)
	}
	return resealed, nil
}

// withNewKey adds a key that seals from now on; where a change was begun before, that one is gone on with.
func withNewKey(handle *keyset.Handle) (*keyset.Handle, error) {
	if handle.Len() > 1 {
		return nil, nil //nolint:nilnil // nothing to change
	}
	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := manager.SetPrimary(id); err != nil {
		return nil, fmt.Errorf("make it the one that seals: %w", err)
	}
	return manager.Handle()
}

// withoutOld leaves the primary key alone, if it is still the one with this prefix.
func withoutOld(handle *keyset.Handle, prefix []byte) (*keyset.Handle, error) {
	if now, err := primaryOf(handle); err != nil {
		return nil, err
	} else if !bytes.Equal(now, prefix) {
		return nil, fmt.Errorf("%w: another process gave the tenant a data key", ErrStale)
	}
	if handle.Len() == 1 {
		return nil, nil //nolint:nilnil // another process has brought it to its end
	}
	manager := keyset.NewManagerFromHandle(handle)
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("read a key: %w", err)
		}
		if entry.IsPrimary() {
			continue
		}
		if err := manager.Delete(entry.KeyID()); err != nil {
			return nil, fmt.Errorf("take a key away: %w", err)
		}
	}
	return manager.Handle()
}

// reseal seals a column of a tenant under the key with this prefix, until nothing is left under another: nobody seals with that one any more. Should a
// row not open, nothing is taken away.
func (d *DB) reseal(ctx context.Context, tenantID uuid.UUID, c sealedColumn, prefix []byte) (resealed int, err error) {
	for {
		left := 0
		err := d.eachSealed(ctx, tenantID, c, prefix, func(tx TenantTx, row sealedRow) error {
			left++
			secret, err := tx.unseal(ctx, c.table, row.Row, row.Sealed)
			if err != nil {
				return fmt.Errorf("%s: %w", nameOfRow(tenantID, c.table, row.Row), err)
			}
			sealed, err := tx.seal(ctx, c.table, row.Row, secret)
			if err != nil {
				return err
			}
			// One that was replaced or deleted meanwhile is left as it is.
			n, err := run(ctx, tx.tx, c.swap, tx.with(args{"row": row.Row, "sealed": sealed, "was": row.Sealed}))
			resealed += int(n)
			return err
		})
		if err != nil || left == 0 {
			return resealed, err
		}
	}
}
