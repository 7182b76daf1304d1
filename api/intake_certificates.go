package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// certificateAgeMax is how long a certificate is held; the sources change theirs about once a year, under a new address.
	certificateAgeMax = 24 * time.Hour
	// certificateFaultAge is how long a failure is remembered: whoever knows an endpoint's address could have us fetch without end.
	certificateFaultAge = 30 * time.Second
	// certificatesMax bounds what is held.
	certificatesMax = 256
	// certificateTimeout bounds one fetch; sources wait 10 s and more where they are verified so.
	certificateTimeout = 5 * time.Second
)

// errFetch says that what a source has to show could not be fetched from it.
var errFetch = errors.New("fetch from the source")

// certificates fetches and holds what the sources that sign with a certificate have published. The addresses are the sources' own: each source
// checks that before it names one.
type certificates struct {
	fetchURL func(ctx context.Context, url string) ([]byte, error)
	now      func() time.Time
	loads    singleflight.Group

	mu   sync.Mutex
	held map[string]heldCertificate
}

type heldCertificate struct {
	pem   []byte
	err   error
	until time.Time
}

func newCertificates(fetch func(ctx context.Context, url string) ([]byte, error), now func() time.Time) *certificates {
	return &certificates{fetchURL: fetch, now: now, held: map[string]heldCertificate{}}
}

// get gives the certificate at an address. Its error is an errFetch.
func (c *certificates) get(ctx context.Context, url string) ([]byte, error) {
	c.mu.Lock()
	held, ok := c.held[url]
	c.mu.Unlock()
	if ok && c.now().Before(held.until) {
		return held.pem, held.err
	}
	loading := c.loads.DoChan(url, func() (any, error) {
		pem, err := c.fetch(context.WithoutCancel(ctx), url)
		c.keep(url, pem, err)
		return pem, err
	})
	select {
	case loaded := <-loading:
		if loaded.Err != nil {
			return nil, loaded.Err
		}
		pem, _ := loaded.Val.([]byte) // the function's own type
		return pem, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errFetch, context.Cause(ctx))
	}
}

func (c *certificates) keep(url string, pem []byte, err error) {
	age := certificateAgeMax
	if err != nil {
		age = certificateFaultAge
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for other := range c.held {
		if len(c.held) < certificatesMax {
			break
		}
		delete(c.held, other) // whichever: it is fetched again when it is asked for
	}
	c.held[url] = heldCertificate{pem: pem, err: err, until: c.now().Add(age)}
}

// fetch gets what is at an address, once.
func (c *certificates) fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateTimeout)
	defer cancel()
	body, err := c.fetchURL(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFetch, err)
	}
	return body, nil
}
