package outbound

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"code.dny.dev/ssrf"
)

// A guard decides which addresses may be dialled.
//
// The list of special networks is that of code.dny.dev/ssrf, which is generated from IANA's registries of special-purpose
// addresses, and which for IPv6 names what is open (2000::/3, less its special parts) instead of what is shut: a range that
// is set aside tomorrow outside of it is refused today. TestAddresses holds it to the addresses that we mean.
type guard struct {
	deny     *ssrf.Guardian // nil lets nothing public pass
	loopback bool           // whether this machine's loopback may be dialled, on any port
	ports    []uint16       // that may be dialled on public addresses
}

// deniedAlways are networks that look public and are not. Azure's platform answers every virtual machine, with its secrets,
// on an address of the public range: learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16.
var deniedAlways = []netip.Prefix{
	netip.MustParsePrefix("168.63.129.16/32"),
}

// denied builds the list of refused addresses from the special networks, ours, and the operator's own.
func denied(more []netip.Prefix) *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, prefix := range slices.Concat(deniedAlways, more) {
		if prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(v4...), ssrf.WithDeniedV6Prefixes(v6...))
}

// control is called by the dialer with the very address that it is about to connect to, for every attempt. A check before
// the dial would ask the resolver once and the dialer would ask it again, and a hostile name answers the two differently.
func (g guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial %s: network %s", address, network)}
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial: %w", err)}
	}
	if err := g.check(target); err != nil {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial %s: %w", target, err)}
	}
	return nil
}

var (
	errNotPublic = errors.New("the address is not public")
	errPort      = errors.New("the port is not allowed")
)

// check refuses a target that is not to be dialled. IPv4 in the dress of IPv6 is undressed first.
func (g guard) check(target netip.AddrPort) error {
	addr := target.Addr().Unmap()
	if g.loopback && addr.IsLoopback() {
		return nil
	}
	return errors.Join(g.address(addr), g.port(target.Port()))
}

// address refuses what is not public.
func (g guard) address(addr netip.Addr) error {
	if g.deny == nil || g.deny.SafeAddr(addr.Unmap()) != nil {
		return errNotPublic
	}
	return nil
}

// port refuses what is not on the list.
func (g guard) port(port uint16) error {
	if !slices.Contains(g.ports, port) {
		return errPort
	}
	return nil
}
