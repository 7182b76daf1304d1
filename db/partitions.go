package db

import (
	"context"
	"time"
)

// Partitions is what was done to the partitions of the raw bodies.
type Partitions struct {
	Made    int
	Dropped int
}

// partitionDaysAhead is for how many days beyond today a partition is kept ready: so long may every process that makes them be away.
const partitionDaysAhead = 7

const payloadPartitionsSQL = `select made, dropped from sluice.payload_partitions(@retention, @ahead)`

const payloadDefaultExpireSQL = `
delete from sluice.event_payloads_default where event_id < (lpad(to_hex((extract(epoch from now() - @retention::interval) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid`

// PayloadPartitions makes the partitions of the days to come, and drops raw bodies that are older than the retention. It is safe to repeat, and
// to run from several processes.
func (tx SystemTx) PayloadPartitions(ctx context.Context, retention time.Duration) (Partitions, error) {
	done, err := one[Partitions](ctx, tx.tx, payloadPartitionsSQL, args{"retention": retention, "ahead": partitionDaysAhead})
	if err != nil {
		return done, err
	}
	_, err = run(ctx, tx.tx, payloadDefaultExpireSQL, args{"retention": retention})
	return done, err
}

const analyzeYoungSQL = `select sluice.analyze_young()`

// AnalyzeYoung brings up to date what the planner knows of tables that have grown from next to nothing, and says of how many.
func (tx SystemTx) AnalyzeYoung(ctx context.Context) (int, error) {
	return value[int](ctx, tx.tx, analyzeYoungSQL, args{})
}
