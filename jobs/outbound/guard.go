package outbound

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
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
		if prefix = unmapped(prefix); prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(v4...), ssrf.WithDeniedV6Prefixes(v6...))
}

// mappedBits are those before the IPv4 address in ::ffff:0:0/96.
const mappedBits = 96

// unmapped undresses a network of IPv4 in the dress of IPv6, as check undresses the addresses that are held against it: it would match none of them.
func unmapped(prefix netip.Prefix) netip.Prefix {
	if !prefix.Addr().Is4In6() {
		return prefix
	}
	return netip.PrefixFrom(prefix.Addr().Unmap(), max(prefix.Bits()-mappedBits, 0))
}

// triesKey is where a context holds how many addresses one dial has tried, an *atomic.Int32.
type triesKey struct{}

// counting makes the context of one dial. A dial without it connects to nothing.
func counting(ctx context.Context) context.Context {
	return context.WithValue(ctx, triesKey{}, new(atomic.Int32))
}

// control is called by the dialer with the very address that it is about to connect to, for every attempt. A check before
// the dial would ask the resolver once and the dialer would ask it again, and a hostile name answers the two differently.
func (g guard) control(ctx context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial %s: network %s", address, network)}
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial: %w", err)}
	}
	if tries, ok := ctx.Value(triesKey{}).(*atomic.Int32); !ok || tries.Add(1) > addressesMax {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial %s: %w", target, errTooMany)}
	}
	if err := g.check(target); err != nil {
		return &Error{Kind: Blocked, cause: fmt.Errorf("dial %s: %w", target, err)}
	}
	return nil
}

var (
	errNotPublic = errors.New("the address is not public")
	errPort      = errors.New("the port is not allowed")
	errTooMany   = errors.New("the name stands for too many addresses")
)

// check refuses a target that is not to be dialled.
func (g guard) check(target netip.AddrPort) error {
	addr := target.Addr()
	if g.loopback && addr.IsLoopback() {
		return nil
	}
	return errors.Join(g.address(addr), g.port(target.Port()))
}

// address refuses what is not public. IPv4 in the dress of IPv6 is undressed first.
func (g guard) address(addr netip.Addr) error {
	if g.deny == nil || isatap(addr) || g.deny.SafeAddr(addr.Unmap()) != nil {
		return errNotPublic
	}
	return nil
}

// isatap reports whether the lower half of an address has the form 0:5efe:V4 or 200:5efe:V4, whatever its upper half: the routers of an ISATAP site
// hand what goes there to the IPv4 address (RFC 5214, section 6.1). It is the one way to wrap a private address that no list of networks names.
func isatap(addr netip.Addr) bool {
	const ofWhom = 0x02 // the bit that tells whether the IPv4 address is unique in the world
	b := addr.As16()
	return addr.Is6() && b[8]&^ofWhom == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// port refuses what is not on the list.
func (g guard) port(port uint16) error {
	if !slices.Contains(g.ports, port) {
		return errPort
	}
	return nil
}
