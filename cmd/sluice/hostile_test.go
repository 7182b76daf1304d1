package main_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// hostileWait bounds every exchange of a stranger with the door.
const hostileWait = 20 * time.Second

// besieged is a shop whose door is visited by strangers, and by those who know the secret and send what no honest source would.
type besieged struct {
	*world

	shop    shop
	serving *process
	sent    int
}

// say writes bytes to a fresh connection, and reads what is answered until the other side closes or falls silent; 0 is a close without a word.
func (b *besieged) say(raw string, answers int) (statuses []int) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.address)
	require.NoError(b.t, err)
	defer conn.Close()
	require.NoError(b.t, conn.SetDeadline(time.Now().Add(hostileWait)))
	go func() { _, _ = io.WriteString(conn, raw) }()
	in := bufio.NewReader(conn)
	for range answers {
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			require.NotErrorIs(b.t, err, os.ErrDeadlineExceeded, "no answer and no end: %.80q", raw)
			return append(statuses, 0)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		statuses = append(statuses, answer.StatusCode)
	}
	return statuses
}

// signed is a delivery of GitHub with a right signature over these bytes.
func (b *besieged) signed(body []byte) http.Header {
	b.t.Helper()
	b.sent++
	github, _ := source.Get("github")
	sample := b.sample(github)
	got, err := github.Sign(source.SignInput{
		Method: http.MethodPost, URL: b.shop.url, Header: sample.Header, Body: body, Secret: b.shop.secret, ID: "hostile-" + strconv.Itoa(b.sent), At: time.Now(),
	})
	require.NoError(b.t, err)
	return got.Header
}

func (b *besieged) sample(github source.Source) source.Sample {
	b.t.Helper()
	for _, sample := range github.Samples {
		if sample.Type == "issues.opened" {
			return sample
		}
	}
	b.t.Fatal("no such sample")
	return source.Sample{}
}

// raw is such a delivery as its bytes on the wire, with extra lines in its head.
func (b *besieged) raw(body []byte, extra string) string {
	b.t.Helper()
	var out bytes.Buffer
	fmt.Fprintf(&out, "POST %s HTTP/1.1\r\nHost: %s\r\n%s", b.path(), b.address, extra)
	require.NoError(b.t, b.signed(body).Write(&out))
	return out.String() + "\r\n"
}

func (b *besieged) path() string { return strings.TrimPrefix(b.shop.url, "http://"+b.address) }

// knock sends a signed body with these headers more.
func (b *besieged) knock(body []byte, pairs ...string) (status int, code string) {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.shop.url, bytes.NewReader(body))
	require.NoError(b.t, err)
	request.Header = b.signed(body)
	for i := 0; i+1 < len(pairs); i += 2 {
		request.Header.Set(pairs[i], pairs[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(b.t, err)
	defer response.Body.Close()
	var answer struct{ Code string }
	_ = json.NewDecoder(response.Body).Decode(&answer)
	return response.StatusCode, answer.Code
}

// wellAfter requires that the door takes the next good delivery at once.
func (b *besieged) wellAfter(what string) {
	b.t.Helper()
	b.sent++
	begun := time.Now()
	status, _, _ := b.deliver(b.shop, "good-"+strconv.Itoa(b.sent))
	require.Equal(b.t, http.StatusOK, status, "after %s", what)
	require.Less(b.t, time.Since(begun), 5*time.Second, "after %s", what)
}

// issue is the body of a delivery that makes a run, with one more member and something before the title.
func (b *besieged) issue(member, title string) []byte {
	b.t.Helper()
	github, _ := source.Get("github")
	b.sent++
	body := string(b.sample(github).Body("issue-"+strconv.Itoa(b.sent), time.Unix(1_700_000_000, 0).UTC()))
	require.Contains(b.t, body, `"title": "`)
	body = strings.Replace(body, `"title": "`, `"title": "`+title, 1)
	return []byte(strings.Replace(body, "{", "{"+member, 1))
}

// TestTheDoorStandsHostileBytes sends to a real process what strangers and dishonest senders may: every answer is a known one, the next good delivery
// is taken at once, memory is bounded, and a real worker ends whatever was let in.
func TestTheDoorStandsHostileBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := &besieged{world: w, serving: w.start("serve", servingUp)}
	working := w.start("work", workingUp)
	b.shop = w.shop()
	b.wellAfter("nothing")
	b.strangers()
	b.dishonest()
	b.slow()
	b.wellAfter("all of it")

	w.until(0, `select count(*) from sluice.runs where finished_at is null`)
	w.until(0, `select count(*) from sluice.runs where status not in ('done', 'dead', 'skipped')`)
	var runs, done int
	require.NoError(t, w.base.Owner.QueryRow(t.Context(), `select count(*), count(*) filter (where status = 'done') from sluice.runs`).Scan(&runs, &done))
	resident := residentHighest(t, b.serving.cmd.Process.Pid)
	t.Logf("%d deliveries or more, %d runs, of which %d done; the door's memory at its highest %d MB", b.sent, runs, done, resident>>20)
	require.Less(t, resident, int64(hostileResidentMax))
	require.Nil(t, b.serving.cmd.ProcessState, "alive")
	require.NotContains(t, b.serving.log.String()+working.log.String(), "panic")
	working.end(t)
	b.serving.end(t)
}

// hostileResidentMax is more than the room of all larger bodies (128 MB, twice where they are read and stored) and what a process of the race
// detector has beside it.
const hostileResidentMax = 1 << 30

// residentHighest is what a process has had in memory at most.
func residentHighest(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0 // no Linux
	}
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(t, err)
	return kilobytes << 10
}

// strangers know the address, or not even that.
func (b *besieged) strangers() {
	b.t.Helper()
	head := "POST " + b.path() + " HTTP/1.1\r\nHost: x\r\n"
	good := b.issue("", "")
	for name, c := range map[string]struct {
		raw     string
		answers int
		want    []int // each of the answers is one of these
	}{
		"two lengths":                     {head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 1, []int{400}},
		"length and chunks":               {head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n", 1, []int{400, 401}},
		"chunks that are no chunks":       {head + "Transfer-Encoding: chunked\r\n\r\nZZZZ\r\n{}", 1, []int{400}},
		"a chunk of absurd size":          {head + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n{}", 1, []int{400}},
		"an encoding of transfer unheard": {head + "Transfer-Encoding: xchunked\r\n\r\n{}", 1, []int{400, 501}},
		"chunked twice":                   {head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1, []int{400, 501}},
		"a length below nothing":          {head + "Content-Length: -1\r\n\r\n", 1, []int{400}},
		"a length beyond all":             {head + "Content-Length: 99999999999999999999\r\n\r\n", 1, []int{400}},
		"a length too large":              {head + "Content-Length: 1099511627776\r\n\r\n", 1, []int{413}},
		"a name with a blank":             {head + "Content-Length : 2\r\n\r\n{}", 1, []int{400}},
		"a header folded":                 {head + "X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}", 1, []int{400, 401}},
		"a NUL in a header":               {head + "X-A: \x00\r\nContent-Length: 2\r\n\r\n{}", 1, []int{400}},
		"bytes that are no UTF-8":         {head + "X-Github-Event: \xff\xfe\r\nX-Github-Delivery: \xff\r\nContent-Length: 2\r\n\r\n{}", 1, []int{400, 401}},
		"no host":                         {"POST " + b.path() + " HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 1, []int{400}},
		"two hosts":                       {head + "Host: y\r\nContent-Length: 0\r\n\r\n", 1, []int{400}},
		"many headers":                    {head + strings.Repeat("X-A: b\r\n", 50_000) + "\r\n", 1, []int{431}},
		"a long header":                   {head + "X-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", 1, []int{431}},
		"a long path":                     {"POST /in/" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", 1, []int{431}},
		"a NUL in the path":               {"POST /in/a\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 1, []int{400}},
		"an escaped NUL in the token":     {"POST /in/" + strings.Repeat("%00", 32) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 1, []int{404}},
		"no UTF-8 in the token":           {"POST /in/" + strings.Repeat("%ff", 32) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 1, []int{404}},
		"a way out of the token":          {"POST /in/../v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 1, []int{404}},
		"a method of its own":             {"P\x01ST / HTTP/1.1\r\nHost: x\r\n\r\n", 1, []int{400}},
		"a method unheard of":             {"BREW " + b.path() + " HTTP/1.1\r\nHost: x\r\n\r\n", 1, []int{405}},
		"CONNECT":                         {"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n", 1, []int{400, 404, 405}},
		"an absolute target":              {"POST http://169.254.169.254/in/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 1, []int{404}},
		"HTTP/2 unasked":                  {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08", 1000), 1, []int{0, 400, 404, 405, 505}},
		"an upgrade to h2c":               {head + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 2\r\n\r\n{}", 1, []int{401}},
		"HTTP/0.9":                        {"GET /\r\n\r\n", 1, []int{400}},
		"HTTP/9.9":                        {"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 1, []int{400, 505}},
		"TLS where there is none":         {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200) + "\r\n\r\n", 1, []int{400}},
		"an expectation":                  {head + "Expect: the-impossible\r\nContent-Length: 2\r\n\r\n{}", 1, []int{417}},
		"a body cut off by nothing":       {head + "Content-Length: 2\r\n\r\n{}" + strings.Repeat("\x00", 1000), 2, []int{400, 401}},
		"many at once":                    {strings.Repeat(b.raw(good, "Content-Length: "+strconv.Itoa(len(good))+"\r\n")+string(good), 50), 50, []int{200}},
	} {
		for _, status := range b.say(c.raw, c.answers) {
			require.Contains(b.t, c.want, status, name)
		}
		b.wellAfter(name)
	}
}

// dishonest know the secret: a tenant's own sources, or a tenant that means harm.
func (b *besieged) dishonest() {
	b.t.Helper()
	const deep, most = 100_000, 25 << 20
	all := os.Getenv("SLUICE_TEST_HOSTILE") == "all"
	size := most - 1<<20
	if !all {
		size = most / 5 // costs less
	}
	var bomb bytes.Buffer
	packer := gzip.NewWriter(&bomb)
	_, err := packer.Write(make([]byte, 64<<20))
	require.NoError(b.t, err)
	require.NoError(b.t, packer.Close())
	large := b.issue(`"zz":"`+strings.Repeat("a", size)+`",`, "")
	for name, c := range map[string]struct {
		body  []byte
		pairs []string
		want  []int
	}{
		"a gzip bomb":          {bomb.Bytes(), []string{"Content-Encoding", "gzip"}, []int{400}},
		"deflate":              {bomb.Bytes(), []string{"Content-Encoding", "deflate"}, []int{400}},
		"br":                   {bomb.Bytes(), []string{"Content-Encoding", "br"}, []int{400}},
		"packed and not said":  {bomb.Bytes(), nil, []int{200, 400}},
		"a large body":         {large, nil, []int{200}},
		"deep arrays":          {b.issue(`"zz":`+strings.Repeat("[", deep)+strings.Repeat("]", deep)+`,`, ""), nil, []int{200, 400}},
		"deep objects":         {b.issue(`"zz":`+strings.Repeat(`{"a":`, deep)+`1`+strings.Repeat(`}`, deep)+`,`, ""), nil, []int{200, 400}},
		"deep and never ended": {[]byte(strings.Repeat("[", deep)), nil, []int{200, 400}},
		"doubled names":        {b.issue(strings.Repeat(`"action":"opened",`, 1000)+`"id":1,"id":2,`, ""), nil, []int{200}},
		"NUL":                  {b.issue(`"z\u0000":"\u0000",`, `\u0000`), nil, []int{200}},
		"a raw NUL":            {b.issue("", "\x00"), nil, []int{200, 400}},
		"a lone surrogate":     {b.issue(`"\ud800":"\udfff",`, `\ud800`), nil, []int{200}},
		"no UTF-8":             {b.issue("\"\xff\":\"\xfe\",", "\xff\xc0\x80"), nil, []int{200, 400}},
		"a mark of byte order": {append([]byte("\xef\xbb\xbf"), b.issue("", "")...), nil, []int{200, 400}},
		"huge numbers":         {b.issue(`"n":1e999,"m":-1e999999999,"o":`+strings.Repeat("9", 100_000)+`,`, ""), nil, []int{200}},
		"NaN":                  {b.issue(`"n":NaN,`, ""), nil, []int{200, 400}},
		"a template":           {b.issue("", `{{ payload | json }}{% for x in payload %}`), nil, []int{200}},
		"what cannot be seen":  {b.issue("", `\u202e\u200b\ufeff\u0007`), nil, []int{200}},
		"a long title":         {b.issue("", strings.Repeat("a", 1<<20)), nil, []int{200}},
		"headers of no UTF-8":  {b.issue("", ""), []string{"User-Agent", "\xff\xfe", "X-Github-Hook-Id", "\xff"}, []int{200}},
		"nothing":              {nil, nil, []int{200, 400}},
		"an array":             {[]byte(`[]`), nil, []int{200, 400}},
	} {
		status, _ := b.knock(c.body, c.pairs...)
		for range 20 { // a machine with much else to do may not commit 25 MB in the time that a source has: it is told to send it again
			if status == http.StatusServiceUnavailable && len(c.body) > most/10 { // the largest
				b.wellAfter(name + ", which is to come again")
				status, _ = b.knock(c.body, c.pairs...)
			}
		}
		require.Contains(b.t, c.want, status, name)
		b.wellAfter(name)
	}
	for _, encoding := range []string{"gzip", "deflate", "br", "zstd", "gzip, identity"} {
		_, code := b.knock(b.issue("", ""), "Content-Encoding", encoding)
		require.Equal(b.t, "body.encoded", code, "refused for what it says, before anything is unpacked")
	}
	if !all {
		return
	}
	status, _ := b.knock(append(large, make([]byte, 2<<20)...))
	require.Equal(b.t, http.StatusRequestEntityTooLarge, status, "beyond 25 MB")
	// Endless chunks are cut where the source's largest body ends.
	endless := b.raw(nil, "Transfer-Encoding: chunked\r\n") + strings.Repeat("100000\r\n"+strings.Repeat("a", 1<<20)+"\r\n", most>>20+2)
	require.Equal(b.t, []int{413}, b.say(endless, 1))
	b.wellAfter("endless chunks")
}

// slow hold on to what they were given: heads and bodies that come byte by byte, connections that say nothing, and bodies that are announced only.
func (b *besieged) slow() {
	b.t.Helper()
	const each, announced = 150, 8
	var conns []net.Conn
	open := func(n int, begin string) (opened []net.Conn) {
		for range n {
			conn, err := net.Dial("tcp", b.address)
			require.NoError(b.t, err)
			b.t.Cleanup(func() { _ = conn.Close() })
			_, err = io.WriteString(conn, begin)
			require.NoError(b.t, err)
			opened = append(opened, conn)
		}
		conns = append(conns, opened...)
		return opened
	}
	head := "POST " + b.path() + " HTTP/1.1\r\nHost: x\r\n"
	before := residentHighest(b.t, b.serving.cmd.Process.Pid)
	heads := open(each, head+"X-A")
	open(each, "")
	open(each, head+"Content-Length: 65000\r\n\r\n{")
	open(announced, head+"Content-Length: 26000000\r\n\r\n{") // two have room, and the others are told to come again
	b.wellAfter("connections that only stay")
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				for _, conn := range conns {
					_, _ = io.WriteString(conn, "a")
				}
			}
		}
	}()
	begun := time.Now()
	for _, conn := range heads {
		require.NoError(b.t, conn.SetReadDeadline(time.Now().Add(hostileWait)))
		_, err := io.Copy(io.Discard, conn)
		require.NotErrorIs(b.t, err, os.ErrDeadlineExceeded, "a head that never ends is not waited for")
	}
	require.Less(b.t, time.Since(begun), hostileWait)
	b.wellAfter("slow ones")
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	status, _ := b.knock(b.issue(`"zz":"`+strings.Repeat("a", 100<<10)+`",`, ""))
	b.t.Logf("a larger body of the tenant whose room is held: %d", status)
	if after := residentHighest(b.t, b.serving.cmd.Process.Pid); after > 0 {
		b.t.Logf("memory at its highest before and after %d slow connections: %d MB, %d MB", len(conns), before>>20, after>>20)
	}
}
