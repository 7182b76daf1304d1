package outbound

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

var errWatched = errors.New("the test makes no connection")

// Watch tells note of every address that the guards of tenants' requests let pass, at the last moment before the connection, and connects to none.
// It is to be called before anything else.
func (d *Door) Watch(note func(netip.AddrPort)) {
	for _, dialer := range []*net.Dialer{d.publicDialer, d.loopbackDialer, d.mailDialer} {
		check := dialer.ControlContext
		dialer.ControlContext = func(ctx context.Context, network, address string, conn syscall.RawConn) error {
			if err := check(ctx, network, address, conn); err != nil {
				return err
			}
			note(netip.MustParseAddrPort(address))
			return errWatched
		}
	}
}

// Control asks the guard of the world about a connection, as the dialer does; counted tells whether it is one of a dial that counts its tries.
func (d *Door) Control(network, address string, counted bool) error {
	ctx := context.Background()
	if counted {
		ctx = counting(ctx)
	}
	return d.public.control(ctx, network, address, nil)
}
