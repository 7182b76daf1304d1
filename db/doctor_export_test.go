package db

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// ExamineIn looks in a transaction of a test's own, in which it has done damage that is never committed.
func (d *DB) ExamineIn(ctx context.Context, tx pgx.Tx, e Examine) (Report, error) {
	return d.examine(ctx, tx, e)
}

// DoctorHoldersSQL finds old transactions.
const DoctorHoldersSQL = doctorHoldersSQL
