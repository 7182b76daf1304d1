package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"
)

const (
	// bodyFirst is what is set aside for a body before any of it has come; more follows as it comes, since a length is only a claim.
	bodyFirst = 8 << 10
	// bodyFree is the size of a body that needs no leave: connections bound how many there are.
	bodyFree = 64 << 10
	// bodiesMax bounds the bytes of larger bodies in memory at once.
	bodiesMax = 128 << 20
	// bodiesTenantMax bounds those of one tenant: two of the largest that there are. Who sends slowly keeps nobody else out.
	bodiesTenantMax = 50 << 20
)

// bodyRooms is the room for the larger bodies.
type bodyRooms struct {
	all *semaphore.Weighted

	mu       sync.Mutex
	byTenant map[uuid.UUID]*tenantRoom
}

// tenantRoom is one tenant's share, while somebody has or wants of it.
type tenantRoom struct {
	*semaphore.Weighted

	users int
}

func newBodyRooms() *bodyRooms {
	return &bodyRooms{all: semaphore.NewWeighted(bodiesMax), byTenant: map[uuid.UUID]*tenantRoom{}}
}

// take waits for room as long as ctx lasts; free gives it back.
func (r *bodyRooms) take(ctx context.Context, tenant uuid.UUID, size int64) (free func(), err error) {
	own := r.enter(tenant)
	if err := own.Acquire(ctx, size); err != nil {
		r.leave(tenant)
		return nil, errBusy
	}
	if err := r.all.Acquire(ctx, size); err != nil {
		own.Release(size)
		r.leave(tenant)
		return nil, errBusy
	}
	return func() {
		r.all.Release(size)
		own.Release(size)
		r.leave(tenant)
	}, nil
}

func (r *bodyRooms) enter(tenant uuid.UUID) *tenantRoom {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.byTenant[tenant]
	if own == nil {
		own = &tenantRoom{Weighted: semaphore.NewWeighted(bodiesTenantMax)}
		r.byTenant[tenant] = own
	}
	own.users++
	return own
}

func (r *bodyRooms) leave(tenant uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if own := r.byTenant[tenant]; own != nil {
		if own.users--; own.users == 0 {
			delete(r.byTenant, tenant)
		}
	}
}

// read reads the body, within what all bodies together may take. With an outcome the delivery has been answered; else free gives its room back.
func (in *intake) read(w http.ResponseWriter, r *http.Request, d *delivery) (free func(), outcome string) {
	s := d.endpoint.source
	tooLarge := func() (func(), string) {
		in.refuse(r, d, "body.too_large", "The body is larger than the source sends.")
		return nil, in.answer(w, s.Codes.TooLarge, "body.too_large", "The body is larger than "+strconv.FormatInt(s.BodyMax, 10)+" bytes.")
	}
	if r.ContentLength > s.BodyMax {
		return tooLarge()
	}
	var err error
	d.request.Body, free, err = in.readBody(r.Context(), http.MaxBytesReader(w, r.Body, s.BodyMax), r.ContentLength, d)
	if err == nil {
		return free, ""
	}
	free()
	if errors.Is(err, errBusy) {
		return nil, in.away(w, r, s.Codes, errBusy)
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return tooLarge()
	}
	return nil, in.answer(w, http.StatusBadRequest, "body.incomplete", "The body did not come to its end.")
}

// readBody reads a body of this length, -1 if it does not say. What is small, or turns out to be, never stands behind those that wait for room.
func (in *intake) readBody(ctx context.Context, r io.Reader, length int64, d *delivery) (body []byte, free func(), err error) {
	free = func() {}
	size, first := length, int64(bodyFirst)
	if length < 0 {
		begin, err := io.ReadAll(io.LimitReader(r, bodyFree))
		if err != nil || len(begin) < bodyFree {
			return begin, free, err
		}
		size, first, r = d.endpoint.source.BodyMax, 2*bodyFree, io.MultiReader(bytes.NewReader(begin), r)
	}
	if size > bodyFree {
		ctx, cancel := context.WithTimeout(ctx, d.left)
		defer cancel()
		taken, err := in.bodies.take(ctx, d.endpoint.TenantID, size)
		if err != nil {
			return nil, free, err
		}
		free = taken
	}
	body = make([]byte, 0, min(first, size))
	for {
		n, err := io.ReadFull(r, body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case length < 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
			return body, free, nil
		case err != nil:
			return body, free, err
		case int64(len(body)) == length:
			return body, free, nil
		case int64(len(body)) == size: // one more byte would have been an error of MaxBytesReader
			_, err := io.ReadFull(r, make([]byte, 1))
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return body, free, err
		}
		grown := make([]byte, len(body), min(2*int64(cap(body)), size)) //nolint:mnd // doubled
		copy(grown, body)
		body = grown
	}
}
