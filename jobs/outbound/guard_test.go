package outbound_test

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

// blockedAddresses are what no tenant may reach, by reason. The ends of each range stand for the range.
var blockedAddresses = map[string][]string{
	"this network":           {"0.0.0.0", "0.0.0.1", "0.255.255.255"},
	"private":                {"10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"},
	"shared by carriers":     {"100.64.0.0", "100.127.255.255", "100.100.100.200"},
	"loopback":               {"127.0.0.0", "127.0.0.1", "127.8.8.8", "127.255.255.255"},
	"link-local, metadata":   {"169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255"},
	"protocol assignments":   {"192.0.0.0", "192.0.0.192", "192.0.0.255"},
	"documentation":          {"192.0.2.0", "192.0.2.255", "198.51.100.0", "198.51.100.255", "203.0.113.0", "203.0.113.255"},
	"6to4 relays":            {"192.88.99.0", "192.88.99.255"},
	"AS112, AMT":             {"192.31.196.1", "192.52.193.1", "192.175.48.1"},
	"benchmarks":             {"198.18.0.0", "198.19.255.255"},
	"multicast":              {"224.0.0.0", "224.0.0.1", "239.255.255.255"},
	"reserved":               {"240.0.0.0", "255.255.255.254"},
	"broadcast":              {"255.255.255.255"},
	"Azure's platform":       {"168.63.129.16"},
	"v6 unspecified":         {"::"},
	"v6 loopback":            {"::1"},
	"v4-compatible":          {"::7f00:1", "::10.0.0.1", "::8.8.8.8"},
	"v4-mapped, blocked":     {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:100.64.0.1"},
	"v4-translated":          {"::ffff:0:7f00:1", "::ffff:0:a00:1"},
	"v6 link-local":          {"fe80::", "fe80::1", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"v6 site-local":          {"fec0::", "fec0::1", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"v6 unique local":        {"fc00::", "fd00:ec2::254", "fd20:ce::254", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"v6 documentation":       {"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"v6 discard, dummy":      {"100::", "100::ffff:ffff:ffff:ffff", "100:0:0:1::1"},
	"6to4":                   {"2002::", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"NAT64":                  {"64:ff9b::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808"},
	"NAT64, local":           {"64:ff9b:1::", "64:ff9b:1::a00:1", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"},
	"Teredo":                 {"2001::", "2001:0:7f00:1::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"},
	"benchmarks v6, ORCHID":  {"2001:2::1", "2001:10::1", "2001:20::1", "2001:2f:ffff::1"},
	"segment routing":        {"5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"v6 multicast":           {"ff00::", "ff02::1", "ff0e::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	"not assigned to anyone": {"1::1", "4000::1", "8000::1", "e000::1"},
}

// allowedAddresses are public, the neighbours of blocked ranges among them.
var allowedAddresses = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0", "126.255.255.255",
	"128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
	"191.255.255.255", "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0",
	"198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
	"2001:200::1", "2001:db7:ffff::1", "2001:db9::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111",
	"2a00:1450:4001:81b::200e", "3ffe::1", "::ffff:8.8.8.8",
}

func literal(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	d := outbound.New(outbound.Config{})
	for _, addr := range allowedAddresses {
		require.NoError(t, d.CheckURL("https://"+literal(addr)+"/x"), addr)
	}
	for reason, list := range blockedAddresses {
		for _, addr := range list {
			e := failure(t, d.CheckURL("https://"+literal(addr)+"/x"))
			require.Equal(t, outbound.Blocked, e.Kind, "%s: %s", reason, addr)
			_, err := post(t, d, "https://"+literal(addr)+"/x")
			require.Equal(t, outbound.Blocked, failure(t, err).Kind, "%s: %s", reason, addr)
		}
	}
}

// The way that counts: a harmless name, and the address that the resolver has for it.
func TestNameOfBlockedAddressIsNotDialled(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp6", "[::1]:0")
	v6 := err == nil
	if v6 {
		require.NoError(t, listener.Close())
	}
	for reason, list := range blockedAddresses {
		for _, addr := range list {
			if ip := netip.MustParseAddr(addr); !v6 && !ip.Unmap().Is4() {
				continue // the kernel refuses the socket before the guard is asked
			}
			d := outbound.New(outbound.Config{Resolver: names(t, map[string][]string{"hook.example.": {addr}}).Resolver})
			require.NoError(t, d.CheckURL("https://hook.example/"))
			_, err := post(t, d, "https://hook.example/")
			e := failure(t, err)
			require.Equal(t, outbound.Blocked, e.Kind, "%s: %s: %v", reason, addr, e.Unwrap())
			require.False(t, e.Sent)
		}
	}
}

func TestNetworksOfTheOperatorAreBlocked(t *testing.T) {
	t.Parallel()
	d := outbound.New(outbound.Config{Deny: []netip.Prefix{
		netip.MustParsePrefix("93.184.216.0/24"), netip.MustParsePrefix("2606:4700::/32"),
	}})
	for _, addr := range []string{"93.184.216.34", "[2606:4700:4700::1111]", "[::ffff:93.184.216.34]"} {
		require.Equal(t, outbound.Blocked, failure(t, d.CheckURL("https://"+addr)).Kind, addr)
	}
	require.NoError(t, d.CheckURL("https://93.184.217.34"))
}

func TestNameThatChangesItsAddressIsBlocked(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	server := target(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	u, err := url.Parse(server.URL)
	require.NoError(t, err)

	dns := names(t, map[string][]string{"rebind.localhost.": {"127.0.0.1", "169.254.169.254", "10.0.0.1", "93.184.216.34"}})
	d := outbound.New(outbound.Config{AllowLoopback: true, Resolver: dns.Resolver})
	_, err = post(t, d, "http://rebind.localhost:"+u.Port())
	require.NoError(t, err)
	for range 3 { // plain http never leaves loopback, so that the public address is refused as well
		_, err = post(t, d, "http://rebind.localhost:"+u.Port())
		e := failure(t, err)
		require.Equal(t, outbound.Blocked, e.Kind)
		require.False(t, e.Sent)
	}
	require.Len(t, dns.questions(), 8, "each dial asks anew, and connects to what it was told")
	require.EqualValues(t, 1, hits.Load())
}

func TestLoopbackIsShutUnlessAllowed(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	address := rawTarget(t, func(net.Conn) { connections.Add(1) })
	u, err := url.Parse(address)
	require.NoError(t, err)
	d := outbound.New(outbound.Config{
		Ports:    []uint16{443, port(t, u)},
		Resolver: names(t, map[string][]string{"hook.example.": {"127.0.0.1"}}).Resolver,
	})
	for _, target := range []string{
		address, "https://" + u.Host, "https://localhost:" + u.Port(), "https://hook.example:" + u.Port(),
	} {
		_, err := post(t, d, target)
		require.False(t, failure(t, err).Sent, target)
		require.Contains(t, []outbound.Kind{outbound.Blocked, outbound.BadURL}, failure(t, err).Kind, target)
	}
	require.Zero(t, connections.Load())
}

// In development every port is open on loopback; a name that only looks like it must not open them elsewhere.
func TestPortsOfTheWorldStayShutInDevelopment(t *testing.T) {
	t.Parallel()
	dns := names(t, map[string][]string{"hook.localhost.": {"93.184.216.34"}})
	d := outbound.New(outbound.Config{AllowLoopback: true, Resolver: dns.Resolver})
	for _, address := range []string{"https://hook.localhost:22", "http://hook.localhost:443"} {
		_, err := post(t, d, address)
		require.Equal(t, outbound.Blocked, failure(t, err).Kind, address)
	}
}

func port(t *testing.T, u *url.URL) uint16 {
	t.Helper()
	addr, err := netip.ParseAddrPort(u.Host)
	require.NoError(t, err)
	return addr.Port()
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, dev := range []bool{false, true} {
		d := outbound.New(outbound.Config{AllowLoopback: dev})
		for raw, kind := range map[string]outbound.Kind{
			"https://example.com/hook?token=1":                    "",
			"https://example.com:8443/":                           "",
			"https://EXAMPLE.com./":                               "",
			"https://my_host.example.com/":                        "",
			"https://bücher.example/":                             "",
			"https://xn--bcher-kva.example/":                      "",
			"https://1.2.3.4.example.com/":                        "",
			"https://example.com:22/":                             outbound.Blocked,
			"https://example.com:80/":                             outbound.Blocked,
			"https://93.184.216.34:5432/":                         outbound.Blocked,
			"https://example.com:0/":                              outbound.BadURL,
			"https://example.com:65536/":                          outbound.BadURL,
			"https://example.com:443x/":                           outbound.BadURL,
			"http://example.com/":                                 outbound.BadURL,
			"http://93.184.216.34/":                               outbound.BadURL,
			"http://10.0.0.1/":                                    outbound.BadURL,
			"":                                                    outbound.BadURL,
			"https://":                                            outbound.BadURL,
			"https:///path":                                       outbound.BadURL,
			"https:example.com":                                   outbound.BadURL,
			"//example.com/":                                      outbound.BadURL,
			"example.com":                                         outbound.BadURL,
			"ftp://example.com/":                                  outbound.BadURL,
			"file:///etc/passwd":                                  outbound.BadURL,
			"gopher://example.com/":                               outbound.BadURL,
			"unix:///var/run/docker.sock":                         outbound.BadURL,
			"https://user@example.com/":                           outbound.BadURL,
			"https://user:pass@example.com/":                      outbound.BadURL,
			"https://@example.com/":                               outbound.BadURL,
			"https://example.com@10.0.0.1/":                       outbound.BadURL,
			"https://example.com/#part":                           outbound.BadURL,
			"https://example.com/#":                               outbound.BadURL,
			"https://example.com\\@10.0.0.1/":                     outbound.BadURL,
			"https://exa mple.com/":                               outbound.BadURL,
			"https://example.com\r\nX: y/":                        outbound.BadURL,
			"https://example..com/":                               outbound.BadURL,
			"https://.example.com/":                               outbound.BadURL,
			"https://postgres/":                                   outbound.BadURL,
			"https://exam%70le.com/":                              outbound.BadURL,
			"https://127.1/":                                      outbound.BadURL,
			"https://127.0.1/":                                    outbound.BadURL,
			"https://2130706433/":                                 outbound.BadURL,
			"https://0x7f000001/":                                 outbound.BadURL,
			"https://0X7F.0.0.1/":                                 outbound.BadURL,
			"https://0x7f.1/":                                     outbound.BadURL,
			"https://0x/":                                         outbound.BadURL,
			"https://0177.0.0.1/":                                 outbound.BadURL,
			"https://017700000001/":                               outbound.BadURL,
			"https://127.0.0.01/":                                 outbound.BadURL,
			"https://127.0.0.1.1/":                                outbound.BadURL,
			"https://256.0.0.1/":                                  outbound.BadURL,
			"https://8.8.2056/":                                   outbound.BadURL,
			"https://example.1/":                                  outbound.BadURL,
			"https://10.0.0.1./":                                  outbound.Blocked,
			"https://１０.0.0.1/":                                   outbound.Blocked,
			"https://①⓪.0.0.1/":                                   outbound.Blocked,
			"https://10。0。0。1/":                                   outbound.Blocked,
			"https://[fe80::1%25eth0]/":                           outbound.BadURL,
			"https://[2606:4700:4700::1111%25lo]/":                outbound.BadURL,
			"https://[::ffff:10.0.0.1]:443/":                      outbound.Blocked,
			"https://[0:0:0:0:0:ffff:a00:1]/":                     outbound.Blocked,
			"https://[v1.x]/":                                     outbound.BadURL,
			"https://[::1/":                                       outbound.BadURL,
			"https://" + strings.Repeat("a", 64) + ".com/":        outbound.BadURL,
			"https://" + strings.Repeat("a.", 126) + "com/":       outbound.BadURL,
			"https://example.com/" + strings.Repeat("a", 2048-19): outbound.BadURL,
		} {
			if kind == "" {
				require.NoError(t, d.CheckURL(raw), raw)
				continue
			}
			require.Equal(t, kind, failure(t, d.CheckURL(raw)).Kind, raw)
		}
	}
}

func TestCheckURLInDevelopment(t *testing.T) {
	t.Parallel()
	strict, dev := outbound.New(outbound.Config{}), outbound.New(outbound.Config{AllowLoopback: true})
	for _, raw := range []string{
		"http://127.0.0.1:8080/x", "http://localhost:1/", "http://LOCALHOST/", "https://a.localhost:8080/", "http://[::1]:80/",
		"https://127.9.9.9/", "http://[::ffff:127.0.0.1]/",
	} {
		require.NoError(t, dev.CheckURL(raw), raw)
		require.Error(t, strict.CheckURL(raw), raw)
	}
	require.Error(t, dev.CheckURL("http://127.0.0.1.example.com/"))
	require.Error(t, dev.CheckURL("http://localhost.example.com/"))
}

// Whatever is accepted holds no blocked address in its one spelling.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/", "https://10.0.0.1/", "https://0x7f.1", "https://[::ffff:7f00:1]:443/a?b", "https://1。1.1.1"} {
		f.Add(seed)
	}
	d := outbound.New(outbound.Config{})
	f.Fuzz(func(t *testing.T, raw string) {
		if d.CheckURL(raw) != nil {
			return
		}
		u, err := url.Parse(raw)
		require.NoError(t, err)
		require.Equal(t, "https", u.Scheme)
		require.Nil(t, u.User)
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			require.True(t, addr.IsGlobalUnicast() && !addr.Unmap().IsPrivate() && !addr.Unmap().IsLoopback(), raw)
			require.Empty(t, addr.Zone())
		}
	})
}
