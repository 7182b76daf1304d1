package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What can go wrong with a row, whatever the table. Other errors are the database's own.
var (
	// ErrNotFound says that there is no such row that this transaction may see.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the row stands in the way of another: it exists already, or something still refers to it.
	ErrConflict = errors.New("conflict")
	// ErrDeadlock says that the transaction stood in the way of another that stood in its own: nothing was written, and it may be tried again.
	ErrDeadlock = errors.New("deadlock")
	// ErrStale says that the row has changed since the caller read it: another version, or another worker's epoch.
	ErrStale = errors.New("changed since it was read")
	// ErrUnavailable says that the database could not be asked. Nothing was written.
	ErrUnavailable = errors.New("database unavailable")
	// ErrCommitUnknown says that the connection was lost during the commit: what was written may stand, or not. Read again.
	ErrCommitUnknown = errors.New("commit unknown")
	// ErrUnreadable says that a stored secret does not open with the keys that this process has.
	ErrUnreadable = errors.New("secret unreadable")
)

// The SQLSTATE codes that are told apart (Postgres manual, appendix A).
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	deadlockDetected    = "40P01"
	classConnection     = "08"
	classResources      = "53"
	classOperator       = "57" // admin shutdown, crash shutdown, cannot connect now
)

// translate turns the driver's errors into ours, once. An error that is ours already passes through.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pgErr.Code == uniqueViolation, pgErr.Code == foreignKeyViolation:
			return fmt.Errorf("%w: %s", ErrConflict, pgErr.ConstraintName)
		case pgErr.Code == deadlockDetected:
			return fmt.Errorf("%w: %w", ErrDeadlock, err)
		case pgErr.Code[:2] == classConnection, pgErr.Code[:2] == classResources, pgErr.Code[:2] == classOperator && pgErr.Code != "57014":
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	if connectionLost(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// unavailable marks what went wrong before a transaction began: whatever it was, nothing was written.
func unavailable(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// commitFault tells a commit that the server refused, after which nothing stands, from one whose answer never came.
func commitFault(err error) error {
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("commit: %w", err)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code[:2] != classOperator && pgErr.Code[:2] != classConnection {
		return translate(err)
	}
	return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
}

func connectionLost(err error) bool {
	var netErr net.Error
	var connectErr *pgconn.ConnectError
	return errors.As(err, &netErr) || errors.As(err, &connectErr) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err)
}
