package action

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Account is a kind of credential that connectors write with, and the service that it is for.
type Account struct {
	// Kind is the word in the "kind" of a credential.
	Kind string
	// Base is where the service is asked, without a final slash, if a credential says nothing else. Empty means that a credential must say it, or,
	// with NoBase, that it has none.
	Base   string
	NoBase bool
	// BaseDoc says what the address of a credential is to be, such as https://ACME.zendesk.com; SecretDoc what its secret is.
	BaseDoc, SecretDoc string
	// BaseCheck tells whether a credential may name an address, of services that are not asked over HTTP; nil means that it is one of those.
	BaseCheck func(base string) error
	// NewSecret makes a secret; nil if the service makes them.
	NewSecret func() (string, error)
	// Check tells whether a secret can be used. Its error does not repeat it.
	Check func(secret string) error
	// Test asks the service who the credential is; nil where there is nobody to be asked. Its error is an *Error.
	Test func(ctx context.Context, a Access, at time.Time) (Identity, error)
}

// An Identity is who a credential is at its service.
type Identity struct {
	// Actor is the login or the id by which the events of the service name it: what comes from there was caused by us. Empty if the service does not tell.
	Actor string
	// Note is a sentence for people: the workspace, the rights that are missing, and so on. Nothing secret.
	Note string
}

// Account returns the account of a kind.
func (s *Set) Account(kind string) (Account, bool) {
	at := slices.IndexFunc(s.accounts, func(a Account) bool { return a.Kind == kind })
	if at < 0 {
		return Account{}, false
	}
	return s.accounts[at], true
}

// Accounts returns the kinds of all accounts, in alphabetical order.
func (s *Set) Accounts() []string {
	kinds := make([]string, 0, len(s.accounts))
	for _, a := range s.accounts {
		kinds = append(kinds, a.Kind)
	}
	return kinds
}

// CheckBase tells whether a credential may name an address as its service's. The error's text is for the tenant.
func (s *Set) CheckBase(a Account, base string) error {
	switch {
	case a.NoBase && base != "":
		return errors.New("expected none: what uses this kind of credential names its own address")
	case base == "" && a.Base == "" && !a.NoBase:
		return errors.New("is required: " + a.BaseDoc)
	case base == "":
		return nil
	case strings.HasSuffix(base, "/"), strings.ContainsAny(base, "?#"):
		return errors.New("expected an address without a final slash and without a query")
	}
	if a.BaseCheck != nil {
		return a.BaseCheck(base)
	}
	return s.door.CheckURL(base)
}

// The bounds of a token, in bytes.
const (
	tokenBytesMin = 8
	tokenBytesMax = 4096
)

// checkToken tells whether a secret can stand in a header, where a blank or a line's end would be a mistake of copying.
func checkToken(secret string) error {
	if len(secret) < tokenBytesMin || len(secret) > tokenBytesMax || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("expected %d to %d printable characters without blanks", tokenBytesMin, tokenBytesMax)
	}
	return nil
}
