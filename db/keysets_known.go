package db

import (
	"context"
	"fmt"
	"strings"
)

// keysetsForeignSQL counts by the marks that stand beside the wrapped keys; one without a mark was wrapped before there were any.
const keysetsForeignSQL = `
select count(*)::int as foreign, (select count(*)::int from sluice.tenant_keysets) as all, coalesce(array_agg(distinct master_mark), '{}') as marks
from sluice.tenant_keysets where master_mark <> all (@marks::text[])`

type keysetsForeign struct {
	Foreign, All int
	Marks        []string
}

// KeysForeignError says that data keys are wrapped by master keys that this process was not given.
type KeysForeignError struct{ keysetsForeign }

// Error names the marks of the keys that are missing, which say nothing of the keys.
func (e *KeysForeignError) Error() string {
	return fmt.Sprintf("%d of %d data keys are wrapped by a master key that this process was not given (mark %s)", e.Foreign, e.All, strings.Join(e.Marks, ", "))
}

// MasterKeysKnown is a *KeysForeignError where some tenant's secrets are under a master key that this process does not have: it could open none of them, and
// would seal what is new under a key that the others may not know.
func (d *DB) MasterKeysKnown(ctx context.Context) error {
	var found keysetsForeign
	err := d.System(ctx, func(tx SystemTx) (err error) {
		var marks []string
		for _, key := range tx.sealer.masters {
			marks = append(marks, key.mark)
		}
		found, err = one[keysetsForeign](ctx, tx.tx, keysetsForeignSQL, args{"marks": marks})
		return err
	})
	if err != nil {
		return fmt.Errorf("look for what is under other master keys: %w", err)
	}
	if found.Foreign > 0 {
		return &KeysForeignError{found}
	}
	return nil
}
