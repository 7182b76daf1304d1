package db

import (
	"bytes"
	"context"
	"errors"

	"github.com/google/uuid"

	"sluice/tenants"
)

// ErrKeyReused says that an Idempotency-Key came before, with another request.
var ErrKeyReused = errors.New("the idempotency key was used for another request")

const idempotencyInsertSQL = `
insert into sluice.idempotency_keys (tenant_id, key, request_hash) values (@tenant_id, @key, @request_hash) on conflict do nothing returning key`

const idempotencyGetSQL = `select request_hash, answer from sluice.idempotency_keys where tenant_id = @tenant_id and key = @key`

const idempotencyAnswerSQL = `update sluice.idempotency_keys set answer = @answer where tenant_id = @tenant_id and key = @key`

type idempotencyRow struct {
	RequestHash []byte
	Answer      []byte
}

// Once runs fn once for an Idempotency-Key and keeps its answer in the same transaction; a second request of the same key and hash gets that
// answer, one that comes while the first still runs waits for it. The answer is sealed, since it may hold a secret that is shown once.
func (tx TenantTx) Once(ctx context.Context, key string, requestHash []byte, fn func() ([]byte, error)) ([]byte, error) {
	_, err := value[string](ctx, tx.tx, idempotencyInsertSQL, tx.with(args{"key": key, "request_hash": requestHash}))
	if errors.Is(err, ErrNotFound) {
		row, err := one[idempotencyRow](ctx, tx.tx, idempotencyGetSQL, tx.with(args{"key": key}))
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(row.RequestHash, requestHash) {
			return nil, ErrKeyReused
		}
		answer, err := tx.unseal(ctx, "idempotency_keys", key, row.Answer)
		return []byte(answer.Reveal()), err
	}
	if err != nil {
		return nil, err
	}
	answer, err := fn()
	if err != nil {
		return nil, err
	}
	sealed, err := tx.seal(ctx, "idempotency_keys", key, tenants.NewSecret(string(answer)))
	if err != nil {
		return nil, err
	}
	_, err = run(ctx, tx.tx, idempotencyAnswerSQL, tx.with(args{"key": key, "answer": sealed}))
	return answer, err
}

// operatorAnswersTable is what an operator's sealed answer is bound to.
const operatorAnswersTable = "operator_idempotency_keys"

const operatorIdempotencyInsertSQL = `
insert into sluice.operator_idempotency_keys (key, request_hash, tenant_id) values (@key, @request_hash, @tenant_id)
on conflict do nothing returning key`

const operatorIdempotencyGetSQL = `select request_hash, answer from sluice.operator_idempotency_keys where key = @key`

const operatorIdempotencyAnswerSQL = `
update sluice.operator_idempotency_keys set answer = @answer, tenant_id = @tenant_id where key = @key`

// Once is TenantTx.Once for an operator's request that makes a tenant; fn returns the tenant's id as well.
func (tx SystemTx) Once(ctx context.Context, key string, requestHash []byte, fn func() (uuid.UUID, []byte, error)) ([]byte, error) {
	_, err := value[string](ctx, tx.tx, operatorIdempotencyInsertSQL, args{"key": key, "request_hash": requestHash, "tenant_id": uuid.Nil})
	if errors.Is(err, ErrNotFound) {
		row, err := one[idempotencyRow](ctx, tx.tx, operatorIdempotencyGetSQL, args{"key": key})
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(row.RequestHash, requestHash) {
			return nil, ErrKeyReused
		}
		answer, err := tx.unsealOperator(operatorAnswersTable, key, row.Answer)
		return []byte(answer.Reveal()), err
	}
	if err != nil {
		return nil, err
	}
	tenantID, answer, err := fn()
	if err != nil {
		return nil, err
	}
	sealed, err := tx.sealOperator(operatorAnswersTable, key, tenants.NewSecret(string(answer)))
	if err != nil {
		return nil, err
	}
	_, err = run(ctx, tx.tx, operatorIdempotencyAnswerSQL, args{"key": key, "answer": sealed, "tenant_id": tenantID})
	return answer, err
}
