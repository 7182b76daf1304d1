package outbound_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

// A network that no tenant may reach, and which of two guards known for their care refuses it as well: S is Svix
// (server/svix-server/src/core/webhook_http_client.rs, is_allowed, at 4fc0cfb), K is smokescreen (pkg/smokescreen/smokescreen.go, classifyAddr, at
// a3294a6).
type network struct{ prefix, also, name string }

// special is written by hand from IANA's registries and the RFCs, not taken from the library that it judges.
var special = []network{
	{"0.0.0.0/8", "S", "this network, RFC 791"},
	{"10.0.0.0/8", "SK", "private, RFC 1918"},
	{"100.64.0.0/10", "SK", "shared by carriers, RFC 6598; Alibaba's metadata"},
	{"127.0.0.0/8", "SK", "loopback, RFC 1122"},
	{"168.63.129.16/32", "", "Azure's platform"},
	{"169.254.0.0/16", "SK", "link-local, RFC 3927; metadata of most clouds"},
	{"172.16.0.0/12", "SK", "private, RFC 1918"},
	{"192.0.0.0/24", "S", "protocol assignments, RFC 6890; Oracle's metadata"},
	{"192.0.2.0/24", "S", "documentation, RFC 5737"},
	{"192.31.196.0/24", "", "AS112, RFC 7535"},
	{"192.52.193.0/24", "", "AMT, RFC 7450"},
	{"192.88.99.0/24", "S", "6to4 relays, RFC 7526"},
	{"192.168.0.0/16", "SK", "private, RFC 1918"},
	{"192.175.48.0/24", "", "AS112, RFC 7534"},
	{"198.18.0.0/15", "S", "benchmarks, RFC 2544"},
	{"198.51.100.0/24", "S", "documentation, RFC 5737"},
	{"203.0.113.0/24", "S", "documentation, RFC 5737"},
	{"224.0.0.0/4", "SK", "multicast, RFC 1112"},
	{"240.0.0.0/4", "S", "reserved, RFC 1112"},
	{"255.255.255.255/32", "SK", "broadcast, RFC 919"},

	{"::/128", "SK", "unspecified, RFC 4291"},
	{"::1/128", "SK", "loopback, RFC 4291"},
	{"::/96", "", "v4-compatible, RFC 4291"},
	{"::ffff:0:0:0/96", "", "v4-translated, RFC 2765"},
	{"64:ff9b::/96", "SK", "NAT64, RFC 6052"},
	{"64:ff9b:1::/48", "S", "NAT64 of a site, RFC 8215"},
	{"100::/64", "S", "discard, RFC 6666"},
	{"100:0:0:1::/64", "", "dummy, RFC 9780"},
	{"2001::/32", "K", "Teredo, RFC 4380"},
	{"2001:1::/32", "", "anycast of protocols, RFC 7723"},
	{"2001:2::/48", "", "benchmarks, RFC 5180"},
	{"2001:3::/32", "", "AMT, RFC 7450"},
	{"2001:4:112::/48", "", "AS112, RFC 7535"},
	{"2001:10::/28", "", "ORCHID, RFC 4843"},
	{"2001:20::/28", "", "ORCHIDv2, RFC 7343"},
	{"2001:30::/28", "", "drones, RFC 9374"},
	{"2001::/23", "", "protocol assignments, RFC 2928"},
	{"2001:db8::/32", "S", "documentation, RFC 3849"},
	{"2002::/16", "SK", "6to4, RFC 3056"},
	{"2620:4f:8000::/48", "", "AS112, RFC 7534"},
	{"3fff::/20", "S", "documentation, RFC 9637"},
	{"5f00::/16", "S", "segment routing, RFC 9602"},
	{"fc00::/7", "S", "unique local, RFC 4193; metadata of AWS, Google and Scaleway"},
	{"fe80::/10", "SK", "link-local, RFC 4291"},
	{"fec0::/10", "", "site-local, RFC 3879"},
	{"ff00::/8", "SK", "multicast, RFC 4291"},
}

// world is all that has been given out of IPv6 as unicast (RFC 4291, section 2.4): what lies outside is refused without a line above.
var world = netip.MustParsePrefix("2000::/3")

// public is what the table says of an address: the judge of the guard.
func public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		half := addr.As16()
		if !world.Contains(addr) || slices.Contains([]string{"00005efe", "02005efe"}, fmt.Sprintf("%x", half[8:12])) {
			return false
		}
	}
	return !slices.ContainsFunc(special, func(n network) bool { return netip.MustParsePrefix(n.prefix).Contains(addr) })
}

// last is the highest address of a network.
func last(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// dialled asks a door for a name that stands for addresses, over HTTPS and as a mail server, and returns what it would have connected to.
func dialled(t *testing.T, c outbound.Config, addrs ...netip.Addr) (connected []netip.AddrPort, refusals []*outbound.Error) {
	t.Helper()
	c.Resolver = book(map[string][]netip.Addr{"hook.example.": addrs}).resolver()
	d := outbound.New(c)
	d.Watch(func(to netip.AddrPort) { connected = append(connected, to) })
	_, err := post(t, d, "https://hook.example/")
	refusals = append(refusals, failure(t, err))
	_, err = d.DialTenant(t.Context(), "hook.example:587")
	return connected, append(refusals, failure(t, err))
}

// requireVerdict holds the guard to the table, for a literal and for a name that stands for it.
func requireVerdict(t *testing.T, addr netip.Addr, open bool, why string) {
	t.Helper()
	strict := outbound.New(outbound.Config{})
	connected, refusals := dialled(t, outbound.Config{}, addr)
	if open {
		require.NoError(t, strict.CheckURL("https://"+literal(addr.String())), "%s: %s", addr, why)
		require.NoError(t, strict.CheckDial(literal(addr.String())+":465"), "%s: %s", addr, why)
		require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), 443), netip.AddrPortFrom(addr.Unmap(), 587)}, connected, "%s: %s", addr, why)
		return
	}
	require.Empty(t, connected, "%s: %s", addr, why)
	refusals = append(refusals, failure(t, strict.CheckURL("https://"+literal(addr.String()))), failure(t, strict.CheckDial(literal(addr.String())+":465")))
	for _, e := range refusals {
		require.Equal(t, outbound.Blocked, e.Kind, "%s: %s: %v", addr, why, e.Unwrap())
		require.False(t, e.Sent)
		require.Equal(t, "the address is not allowed", e.Error())
	}
}

// The first and the last address of every network are refused, and their neighbours are what the rest of the table says of them.
func TestEveryEdgeOfEverySpecialNetwork(t *testing.T) {
	t.Parallel()
	open, neither := 0, 0
	for _, n := range special {
		p := netip.MustParsePrefix(n.prefix)
		requireVerdict(t, p.Addr(), false, n.name)
		requireVerdict(t, last(p), false, n.name)
		for _, neighbour := range []netip.Addr{p.Addr().Prev(), last(p).Next()} {
			if neighbour.IsValid() {
				requireVerdict(t, neighbour, public(neighbour), "beside "+n.name)
				open += map[bool]int{true: 1}[public(neighbour)]
			}
		}
		neither += map[bool]int{true: 1}[n.also == ""]
	}
	for _, beyond := range []string{"1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::"} {
		requireVerdict(t, netip.MustParseAddr(beyond), false, "outside of what was given out")
	}
	for _, inside := range []string{"2000::", "3fff:1000::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		requireVerdict(t, netip.MustParseAddr(inside), true, "given out, or to be")
	}
	t.Logf("%d networks, %d of them refused by neither Svix nor smokescreen; %d open neighbours", len(special), neither, open)
	require.Equal(t, 45, open, "a table that has grown too wide finds fewer open neighbours")
}

// metadata are where clouds tell a machine its secrets.
var metadata = map[string]string{
	"169.254.169.254": "AWS, Google, Azure, Oracle, DigitalOcean, Hetzner, Scaleway, OpenStack", "169.254.170.2": "AWS ECS", "169.254.170.23": "AWS EKS",
	"169.254.42.42": "Scaleway", "169.254.0.23": "Tencent", "100.100.100.200": "Alibaba", "168.63.129.16": "Azure's wire server", "192.0.0.192": "Oracle, formerly",
	"fd00:ec2::254": "AWS", "fd00:ec2::23": "AWS EKS", "fd20:ce::254": "Google", "fd00:42::42": "Scaleway", "fd00:c1::a9fe:a9fe": "Oracle", "fe80::a9fe:a9fe": "OpenStack",
	"10.96.0.1": "Kubernetes", "169.254.20.10": "node-local DNS of Kubernetes",
}

// wraps are the forms of IPv6 that some device takes an IPv4 address out of.
var wraps = map[string]func(v4 [4]byte) string{
	"v4-compatible":   func(a [4]byte) string { return fmt.Sprintf("::%x:%x", a[:2], a[2:]) },
	"v4-translated":   func(a [4]byte) string { return fmt.Sprintf("::ffff:0:%x:%x", a[:2], a[2:]) },
	"NAT64":           func(a [4]byte) string { return fmt.Sprintf("64:ff9b::%x:%x", a[:2], a[2:]) },
	"NAT64 of a site": func(a [4]byte) string { return fmt.Sprintf("64:ff9b:1::%x:%x", a[:2], a[2:]) },
	"NAT64 /48":       func(a [4]byte) string { return fmt.Sprintf("64:ff9b:1:%x:%02x%02x:0:0:0", a[:2], 0, a[2]) },
	"6to4":            func(a [4]byte) string { return fmt.Sprintf("2002:%x:%x::1", a[:2], a[2:]) },
	"Teredo's server": func(a [4]byte) string { return fmt.Sprintf("2001:0:%x:%x::", a[:2], a[2:]) },
	"Teredo's client": func(a [4]byte) string {
		return fmt.Sprintf("2001:0:808:808:0:0:%02x%02x:%02x%02x", ^a[0], ^a[1], ^a[2], ^a[3])
	},
	"ISATAP":            func(a [4]byte) string { return fmt.Sprintf("2606:4700::5efe:%x:%x", a[:2], a[2:]) },
	"ISATAP, universal": func(a [4]byte) string { return fmt.Sprintf("2606:4700::200:5efe:%x:%x", a[:2], a[2:]) },
	"ISATAP, own link":  func(a [4]byte) string { return fmt.Sprintf("fe80::5efe:%x:%x", a[:2], a[2:]) },
}

// Whatever wraps an IPv4 address is refused, a public one inside included: nobody has a reason to be written to so. The plain mapping is the address itself.
func TestWrappedAddresses(t *testing.T) {
	t.Parallel()
	inside := []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.168.1.1")}
	for text, whose := range metadata {
		addr := netip.MustParseAddr(text)
		requireVerdict(t, addr, false, whose)
		if addr.Is4() {
			inside = append(inside, addr)
		}
	}
	for _, v4 := range inside {
		requireVerdict(t, netip.AddrFrom16(v4.As16()), public(v4), "mapped")
		for form, wrap := range wraps {
			requireVerdict(t, netip.MustParseAddr(wrap(v4.As4())), false, form+" of "+v4.String())
		}
	}
	for _, near := range []string{"2606:4700::5eff:808:808", "2606:4700::5efd:808:808", "2606:4700::5ffe:808:808", "2606:4700::5dfe:808:808", "2606:4700::100:5efe:808:808", "2606:4700::1:5efe:808:808", "2606:4700:0:5efe::1"} {
		requireVerdict(t, netip.MustParseAddr(near), true, "no ISATAP")
	}
}

// Networks that the operator denies are denied in every dress, edges included.
func TestDeniedNetworksInEveryDress(t *testing.T) {
	t.Parallel()
	for _, deny := range []string{"93.184.216.0/24", "::ffff:93.184.216.0/120", "93.184.216.77/24"} {
		c := outbound.Config{Deny: []netip.Prefix{netip.MustParsePrefix("2606:4700::/32"), netip.MustParsePrefix(deny)}}
		for addr, open := range map[string]bool{
			"93.184.215.255": true, "93.184.216.0": false, "93.184.216.255": false, "93.184.217.0": true, "::ffff:93.184.216.9": false,
			"2606:46ff:ffff:ffff:ffff:ffff:ffff:ffff": true, "2606:4700::": false, "2606:4700:ffff:ffff:ffff:ffff:ffff:ffff": false, "2606:4701::": true,
			"168.63.129.16": false,
		} {
			connected, _ := dialled(t, c, netip.MustParseAddr(addr))
			require.Equal(t, open, len(connected) == 2, "%s with %s denied", addr, deny)
			require.Equal(t, open, outbound.New(c).CheckURL("https://"+literal(addr)) == nil, "%s with %s denied", addr, deny)
		}
	}
}

// The ports are those of the list, on both sides of each of its ends, for the web and for mail.
func TestEveryEdgeOfThePorts(t *testing.T) {
	t.Parallel()
	d := outbound.New(outbound.Config{})
	web, mail := []uint16{443, 8443}, []uint16{465, 587, 2525}
	for _, port := range []uint16{1, 21, 22, 25, 53, 80, 110, 442, 443, 444, 464, 465, 466, 586, 587, 588, 2524, 2525, 2526, 3306, 5432, 6379, 8080, 8442, 8443, 8444, 9200, 65535} {
		for _, host := range []string{"93.184.216.34", "[2606:4700::1]", "hook.example"} {
			require.Equal(t, slices.Contains(web, port), d.CheckURL("https://"+host+":"+strconv.Itoa(int(port))) == nil, port)
			require.Equal(t, slices.Contains(mail, port), d.CheckDial(fmt.Sprintf("%s:%d", host, port)) == nil, port)
		}
	}
}

// What the guard cannot read, or does not know, it refuses.
func TestGuardFailsClosed(t *testing.T) {
	t.Parallel()
	d := outbound.New(outbound.Config{})
	require.NoError(t, d.Control("tcp4", "93.184.216.34:443", true))
	require.NoError(t, d.Control("tcp6", "[2606:4700::1]:443", true))
	require.NoError(t, d.Control("tcp6", "[::ffff:93.184.216.34]:443", true))
	require.Error(t, d.Control("tcp4", "93.184.216.34:443", false), "a dial that nobody counts")
	for _, network := range []string{"tcp", "udp4", "udp6", "unix", "ip4:icmp", ""} {
		require.Error(t, d.Control(network, "93.184.216.34:443", true), network)
	}
	for _, address := range []string{
		"", "93.184.216.34", "93.184.216.34:", "93.184.216.34:https", "93.184.216.34:65536", "93.184.216.034:443", "hook.example:443", ":443", "2606:4700::1:443",
		"[2606:4700::1%eth0]:443", "[::ffff:10.0.0.1%eth0]:443", "[::ffff:10.0.0.1]:443", "[fe80::1%eth0]:443", "/var/run/docker.sock",
	} {
		e := failure(t, d.Control("tcp4", address, true))
		require.Equal(t, outbound.Blocked, e.Kind, address)
	}
}
