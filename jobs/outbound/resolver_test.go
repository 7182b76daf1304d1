package outbound_test

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"sluice/jobs/outbound"
)

// An oracle is a DNS server in memory: it answers whatever it likes, and nothing of it touches a network.
type oracle struct {
	mu    sync.Mutex
	asked []string
	// answer is told the question, and how many came before it. A nil message closes the connection.
	answer func(q dnsmessage.Question, before int) *dnsmessage.Message
	// raw, if not nil, is said in place of the message.
	raw func(reply []byte) []byte
}

func (o *oracle) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer func() { _ = theirs.Close() }()
			for err := error(nil); err == nil; {
				err = o.serve(theirs)
			}
		}()
		return ours, nil
	}}
}

// serve answers one question, in the framing of DNS over TCP (RFC 1035, section 4.2.2).
func (o *oracle) serve(conn net.Conn) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return err
	}
	o.mu.Lock()
	before := len(o.asked)
	o.asked = append(o.asked, m.Questions[0].Name.String())
	o.mu.Unlock()
	reply := o.answer(m.Questions[0], before)
	if reply == nil {
		return io.EOF
	}
	reply.ID, reply.Response, reply.RecursionAvailable, reply.Questions = m.ID, true, true, m.Questions
	packed, err := reply.Pack()
	if err != nil {
		return err
	}
	if o.raw != nil {
		packed = o.raw(packed)
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
	return err
}

func (o *oracle) questions() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.asked...)
}

// record is a resource record of an address.
func record(name dnsmessage.Name, addr netip.Addr) dnsmessage.Resource {
	header := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, Type: dnsmessage.TypeA, TTL: 1}
	if addr.Is4() {
		return dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}}
	}
	header.Type = dnsmessage.TypeAAAA
	return dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}
}

// book answers each name with its addresses, all at once.
func book(addresses map[string][]netip.Addr) *oracle {
	return &oracle{answer: func(q dnsmessage.Question, _ int) *dnsmessage.Message {
		m := &dnsmessage.Message{}
		for _, addr := range addresses[q.Name.String()] {
			if addr.Is4() == (q.Type == dnsmessage.TypeA) {
				m.Answers = append(m.Answers, record(q.Name, addr))
			}
		}
		return m
	}}
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// A watched door connects to nothing, and keeps what it would have connected to.
type watched struct {
	*outbound.Door

	connected []netip.AddrPort
	mu        sync.Mutex // addresses of both families are tried at the same time
}

func watch(c outbound.Config) *watched {
	w := &watched{Door: outbound.New(c)}
	w.Watch(func(to netip.AddrPort) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.connected = append(w.connected, to)
	})
	return w
}

// try makes a request and a mail connection to the same name.
func (w *watched) try(t *testing.T, host string) []*outbound.Error {
	t.Helper()
	_, web := post(t, w.Door, "https://"+host+"/")
	_, mail := w.DialTenant(t.Context(), host+":587")
	return []*outbound.Error{failure(t, web), failure(t, mail)}
}

func TestOneBadAddressAmongGoodOnes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ told, connected []netip.Addr }{
		"bad first":             {addrs("10.0.0.1", "93.184.216.34"), addrs("93.184.216.34")},
		"bad last":              {addrs("93.184.216.34", "169.254.169.254"), addrs("93.184.216.34")},
		"bad between":           {addrs("93.184.216.34", "127.0.0.1", "1.1.1.1"), addrs("93.184.216.34", "1.1.1.1")},
		"bad in the other half": {addrs("93.184.216.34", "::1"), addrs("93.184.216.34")},
		"good in the other":     {addrs("127.0.0.1", "2606:4700::1"), addrs("2606:4700::1")},
		"all bad":               {addrs("127.0.0.1", "10.0.0.1", "::1", "fd00:ec2::254", "168.63.129.16"), nil},
		"mapped, in AAAA":       {addrs("::ffff:127.0.0.1", "::ffff:10.0.0.1"), nil},
		"mapped and public":     {addrs("::ffff:93.184.216.34"), addrs("93.184.216.34")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dns := book(map[string][]netip.Addr{"hook.example.": c.told})
			w := watch(outbound.Config{Resolver: dns.resolver()})
			for _, e := range w.try(t, "hook.example") {
				require.False(t, e.Sent)
			}
			var wanted []netip.AddrPort
			for _, addr := range c.connected {
				wanted = append(wanted, netip.AddrPortFrom(addr, 443), netip.AddrPortFrom(addr, 587))
			}
			require.ElementsMatch(t, wanted, w.connected)
		})
	}
}

// Between the check at save time and each dial, and between one dial and the next, a name may become another machine.
func TestRebinding(t *testing.T) {
	t.Parallel()
	dns := &oracle{answer: func(q dnsmessage.Question, before int) *dnsmessage.Message {
		told := netip.MustParseAddr("93.184.216.34")
		if before/2%2 == 1 { // each dial asks twice, for each family
			told = netip.MustParseAddr("169.254.169.254")
		}
		if q.Type != dnsmessage.TypeA {
			return &dnsmessage.Message{}
		}
		return &dnsmessage.Message{Answers: []dnsmessage.Resource{record(q.Name, told)}}
	}}
	w := watch(outbound.Config{Resolver: dns.resolver()})
	require.NoError(t, w.CheckURL("https://hook.example/"))
	require.NoError(t, w.CheckDial("hook.example:587"))
	require.Empty(t, dns.questions(), "a check at save time asks nobody, and proves nothing about a name")
	const rounds = 8
	for n := range rounds {
		_, err := post(t, w.Door, "https://hook.example/")
		kind := map[bool]outbound.Kind{true: outbound.Blocked, false: outbound.Connect}[n%2 == 1]
		require.Equal(t, kind, failure(t, err).Kind, n)
	}
	require.Len(t, dns.questions(), 2*rounds, "each dial asks anew, once, and connects to what it was told")
	require.Len(t, w.connected, rounds/2)
	for _, to := range w.connected {
		require.Equal(t, netip.MustParseAddrPort("93.184.216.34:443"), to)
	}
}

// Whatever a name server says, a failure is a failure: nothing is connected to that it did not clearly name, or that is not public.
func TestNameServerThatLies(t *testing.T) {
	t.Parallel()
	private, cname := netip.MustParseAddr("10.0.0.1"), dnsmessage.MustNewName("internal.example.")
	code := func(c dnsmessage.RCode) func(dnsmessage.Question, int) *dnsmessage.Message {
		return func(q dnsmessage.Question, _ int) *dnsmessage.Message {
			// A refusal that brings an address all the same is still a refusal.
			return &dnsmessage.Message{Header: dnsmessage.Header{RCode: c}, Answers: []dnsmessage.Resource{record(q.Name, netip.MustParseAddr("93.184.216.34"))}}
		}
	}
	for name, c := range map[string]struct {
		answer func(dnsmessage.Question, int) *dnsmessage.Message
		raw    func([]byte) []byte
		kind   outbound.Kind
	}{
		"no such name":     {code(dnsmessage.RCodeNameError), nil, outbound.DNS},
		"server's failure": {code(dnsmessage.RCodeServerFailure), nil, outbound.DNS},
		"refused":          {code(dnsmessage.RCodeRefused), nil, outbound.DNS},
		"no answer in it":  {func(dnsmessage.Question, int) *dnsmessage.Message { return &dnsmessage.Message{} }, nil, outbound.DNS},
		"hangs up":         {func(dnsmessage.Question, int) *dnsmessage.Message { return nil }, nil, outbound.DNS},
		"garbage":          {code(dnsmessage.RCodeSuccess), func([]byte) []byte { return []byte("\x00\x01garbage, and more of it") }, outbound.DNS},
		"cut short":        {code(dnsmessage.RCodeSuccess), func(m []byte) []byte { return m[:len(m)-3] }, outbound.DNS},
		"another's id":     {code(dnsmessage.RCodeSuccess), func(m []byte) []byte { m[0]++; return m }, outbound.DNS},
		"nothing":          {code(dnsmessage.RCodeSuccess), func([]byte) []byte { return nil }, outbound.DNS},
		"for another family": {func(q dnsmessage.Question, _ int) *dnsmessage.Message {
			return &dnsmessage.Message{Answers: []dnsmessage.Resource{record(q.Name, private)}}
		}, nil, outbound.Blocked},
		"under another name": {func(q dnsmessage.Question, _ int) *dnsmessage.Message {
			return &dnsmessage.Message{Answers: []dnsmessage.Resource{
				{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.CNAMEResource{CNAME: cname}}, record(cname, private),
			}}
		}, nil, outbound.Blocked},
		"another name alone": {func(q dnsmessage.Question, _ int) *dnsmessage.Message {
			return &dnsmessage.Message{Answers: []dnsmessage.Resource{
				{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.CNAMEResource{CNAME: cname}},
			}}
		}, nil, outbound.DNS},
		"in a loop": {func(q dnsmessage.Question, _ int) *dnsmessage.Message {
			return &dnsmessage.Message{Answers: []dnsmessage.Resource{
				{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.CNAMEResource{CNAME: q.Name}},
			}}
		}, nil, outbound.DNS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch(outbound.Config{Resolver: (&oracle{answer: c.answer, raw: c.raw}).resolver()})
			for _, e := range w.try(t, "hook.example") {
				require.Equal(t, c.kind, e.Kind, "%v", e.Unwrap())
				require.False(t, e.Sent)
			}
			require.Empty(t, w.connected)
		})
	}
}

// A name server that is silent holds an exchange to its end, and no longer: what it says afterwards is connected to by nobody.
func TestNameServerThatIsSilent(t *testing.T) {
	t.Parallel()
	speak, connected := make(chan struct{}), make(chan netip.AddrPort, 8)
	dns := &oracle{answer: func(q dnsmessage.Question, _ int) *dnsmessage.Message {
		<-speak
		m := &dnsmessage.Message{}
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, record(q.Name, netip.MustParseAddr("93.184.216.34")))
		}
		return m
	}}
	d := outbound.New(outbound.Config{Resolver: dns.resolver(), Timeout: 50 * time.Millisecond})
	d.Watch(func(to netip.AddrPort) { connected <- to })
	_, web := post(t, d, "https://hook.example/")
	_, mail := d.DialTenant(t.Context(), "hook.example:587")
	for _, err := range []error{web, mail} {
		require.Equal(t, outbound.Timeout, failure(t, err).Kind, "%v", failure(t, err).Unwrap())
		require.False(t, failure(t, err).Sent)
	}
	close(speak)
	select {
	case to := <-connected:
		require.FailNow(t, "an exchange that is over connects", "to %s", to)
	case <-time.After(200 * time.Millisecond):
	}
}

// A name with a thousand addresses does not make a flood, or a scan, of one request.
func TestNameWithAThousandAddresses(t *testing.T) {
	t.Parallel()
	var many []netip.Addr
	for n := range 1000 {
		many = append(many, netip.AddrFrom4([4]byte{93, 184, byte(n >> 8), byte(n)}))
	}
	w := watch(outbound.Config{Resolver: book(map[string][]netip.Addr{"hook.example.": many}).resolver()})
	for _, e := range w.try(t, "hook.example") {
		require.Equal(t, outbound.Connect, e.Kind)
		require.False(t, e.Sent)
	}
	require.Len(t, w.connected, 2*16)
}

// FuzzDoor throws hosts and answers of name servers at the door. Its judge is the list of what would have been connected to: public addresses by the
// table, on open ports, after a question for the very name that is in the address, and nothing at all where the address could not have been saved.
func FuzzDoor(f *testing.F) {
	for _, host := range spellings {
		f.Add("https://"+host+"/x", []byte("\x04\x5d\xb8\xd8\x22\x04\x0a\x00\x00\x01"))
	}
	f.Fuzz(func(t *testing.T, raw string, answers []byte) {
		told := addressesOf(answers)
		dns := &oracle{answer: func(q dnsmessage.Question, _ int) *dnsmessage.Message {
			m := &dnsmessage.Message{}
			for _, addr := range told {
				m.Answers = append(m.Answers, record(q.Name, addr))
			}
			return m
		}}
		w := watch(outbound.Config{Resolver: dns.resolver(), Timeout: 5 * time.Second})
		saved := w.CheckURL(raw)
		_, err := post(t, w.Door, raw)
		e := failure(t, err)
		require.False(t, e.Sent)
		if saved != nil {
			require.Equal(t, failure(t, saved).Kind, e.Kind, "what cannot be saved cannot be dialled")
			require.Equal(t, saved.Error(), e.Error())
			require.Empty(t, w.connected)
			require.Empty(t, dns.questions())
		}
		for _, to := range w.connected {
			require.True(t, public(to.Addr()), "%s by %q", to, raw)
			require.Contains(t, []uint16{443, 8443}, to.Port())
			require.Empty(t, to.Addr().Zone())
		}
		requireMail(t, w, dns, raw)
	})
}

// requireMail holds the mail door to the same, with the host of an address.
func requireMail(t *testing.T, w *watched, dns *oracle, raw string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		return
	}
	before, asked := len(w.connected), len(dns.questions())
	for _, port := range []string{"587", u.Port()} {
		address := net.JoinHostPort(u.Hostname(), port)
		saved := w.CheckDial(address)
		_, err := w.DialTenant(t.Context(), address)
		require.False(t, failure(t, err).Sent)
		if saved != nil {
			require.Equal(t, failure(t, saved).Kind, failure(t, err).Kind)
			require.Len(t, w.connected, before)
			require.Len(t, dns.questions(), asked)
		}
		for _, to := range w.connected[before:] {
			require.True(t, public(to.Addr()), "%s by %q", to, address)
			require.Contains(t, []uint16{465, 587, 2525}, to.Port())
		}
		before, asked = len(w.connected), len(dns.questions())
	}
	for _, name := range dns.questions() {
		require.NotContains(t, name, "%")
		require.NotRegexp(t, `(?i)(^|\.)(0x[0-9a-f]*|[0-9]+)\.$`, name, "a number is no name, whatever some resolver makes of it")
		require.NotRegexp(t, `(?i)(^|\.)localhost\.$`, name)
		require.Regexp(t, `^[a-z0-9_-]+(\.[a-z0-9_-]+)+\.$`, name, "names are asked in one spelling, and absolute")
	}
}

// addressesOf reads addresses: a byte of 4 or 6, and the bytes of one.
func addressesOf(b []byte) (list []netip.Addr) {
	for len(b) > 4 && len(list) < 8 {
		if size := map[bool]int{true: 16, false: 4}[b[0] == 6]; len(b) > size {
			addr, _ := netip.AddrFromSlice(b[1 : size+1])
			list, b = append(list, addr), b[size+1:]
			continue
		}
		break
	}
	return list
}

// spellings are odd ways to write a host: each means this machine, a private one, or nothing, to some program.
var spellings = []string{
	"127.0.0.1", "127.1", "127.0.1", "127.0.0.0x1", "127.0.0.0X1", "2130706433", "0x7f000001", "0X7F.0.0.1", "0x7f.1", "0177.0.0.1", "017700000001", "00000177.0.0.1", "127.0.0.1.", "127.0.0.1..",
	"0", "0.0.0.0", "00.00.00.00", "0x0", "4294967295", "4294967296", "18446744073709551617", "1.1.1.1.1", "256.256.256.256", "1e3", "0b1", "-1", "+127.0.0.1",
	"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[::1%25lo]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1]x", "[[::1]]",
	"[::FFFF:A9FE:A9FE]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[v1.x]", "[127.0.0.1]", "[]", "[::1", "::1", "[::ffff:8.8.8.8]:443",
	"localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain", "localhost%00.example", "loc\u00adalhost", "ⓛocalhost", "localhost\u3002",
	"１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "1\u06627.0.0.1", "%31%32%37.0.0.1", "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", "127%2e0.0.1", "0x7f%2e1",
	"user@10.0.0.1", "93.184.216.34@10.0.0.1", "10.0.0.1@93.184.216.34", "example.com@10.0.0.1", "example.com:443@10.0.0.1", "example.com%40@10.0.0.1", "a:b@c@10.0.0.1", "@10.0.0.1",
	"example.com\\@10.0.0.1", "example.com\\.10.0.0.1", "10.0.0.1\\example.com", "example.com#@10.0.0.1", "example.com?@10.0.0.1", "example.com;@10.0.0.1", "example.com&@10.0.0.1",
	"10.0.0.1#.example.com", "10.0.0.1%23.example.com", "10.0.0.1%00.example.com", "10.0.0.1%0d%0a.example.com", "10.0.0.1 .example.com", "10.0.0.1\t.example.com", "10.0.0.1,example.com",
	"93.184.216.34:0", "93.184.216.34:65536", "93.184.216.34:00443", "93.184.216.34:0443", "93.184.216.34:443:80", "93.184.216.34:-1", "93.184.216.34:+443", "93.184.216.34:",
	"93.184.216.34:４４３", "93.184.216.34:4294967739", "93.184.216.34:80", "93.184.216.34:0x1bb", "93.184.216.34:443 ", "example.com:22", "example.com:8443",
	"metadata", "metadata.google.internal", "METADATA.GOOGLE.INTERNAL.", "kubernetes.default.svc", "host.docker.internal", "169.254.169.254.nip.example", "ex_ample.com",
	"example.com.", "example.com..", ".example.com", "EXAMPLE.com", "xn--", "xn--a", "xn--fsq.example", "xn--127-0-0-1.example", "ＥＸＡＭＰＬＥ.com", "bücher.example", "faß.example", "a\u200db.example",
	"a\u0338b.example", "ℂ.example", "℀.example", "ſ.example", "\u212a.example", "\xff.example", "\u202e1.0.0.127", "127.0.0.1\u200b", "\ufeff127.0.0.1", "例え。テスト", "", ".", "..", "%", "%zz", "*",
}

// meanings are the few of them that may be saved, and what they mean: the name that is asked for, or the address.
var meanings = map[string]string{
	"169.254.169.254.nip.example": "169.254.169.254.nip.example.",
	"93.184.216.34:":              "93.184.216.34:443", "93.184.216.34:00443": "93.184.216.34:443", "93.184.216.34:0443": "93.184.216.34:443",
	"EXAMPLE.com": "example.com.", "METADATA.GOOGLE.INTERNAL.": "metadata.google.internal.", "[::ffff:8.8.8.8]:443": "8.8.8.8:443",
	"\u212a.example": "k.example.", "a\u0338b.example": "xn--ab-yyb.example.", "bücher.example": "xn--bcher-kva.example.", "faß.example": "xn--fa-hia.example.",
	"ſ.example": "s.example.", "ℂ.example": "c.example.", "例え。テスト": "xn--r8jz45g.xn--zckzah.", "ＥＸＡＭＰＬＥ.com": "example.com.",
	"ex_ample.com": "ex_ample.com.", "example.com.": "example.com.", "example.com:8443": "example.com.", "example.com?@10.0.0.1": "example.com.",
	"host.docker.internal": "host.docker.internal.", "kubernetes.default.svc": "kubernetes.default.svc.", "localhost.localdomain": "localhost.localdomain.",
	"metadata.google.internal": "metadata.google.internal.", "xn--127-0-0-1.example": "xn--127-0-0-1.example.", "xn--fsq.example": "xn--fsq.example.",
}

// Each odd spelling is refused, at save time and at the dial alike, or means one public address, or one name, in its one spelling.
func TestOddSpellings(t *testing.T) {
	t.Parallel()
	found := map[string]string{}
	for _, host := range spellings {
		for _, scheme := range []string{"https", "HTTPS", "http", "ftp"} {
			raw := scheme + "://" + host + "/x"
			dns := book(nil)
			w := watch(outbound.Config{Resolver: dns.resolver()})
			saved := w.CheckURL(raw)
			_, err := post(t, w.Door, raw)
			e := failure(t, err)
			if saved != nil {
				require.Equal(t, failure(t, saved).Kind, e.Kind, raw)
				require.Empty(t, w.connected, raw)
				require.Empty(t, dns.questions(), raw)
				continue
			}
			require.Contains(t, []string{"https", "HTTPS"}, scheme, raw)
			meaning := map[string]bool{}
			for _, name := range dns.questions() {
				meaning[name] = true
			}
			for _, to := range w.connected {
				meaning[to.String()] = true
			}
			require.Len(t, meaning, 1, raw)
			found[host] = slices.Collect(maps.Keys(meaning))[0]
		}
	}
	require.Equal(t, meanings, found)
}
