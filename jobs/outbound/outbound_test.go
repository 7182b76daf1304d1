package outbound_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"sluice/jobs/outbound"
)

// canary stands for the secrets that tenants put into the paths and queries of their callbacks.
const canary = "s3cr3t-canary"

// failure returns the *outbound.Error of err, and fails the test if there is none.
func failure(t *testing.T, err error) *outbound.Error {
	t.Helper()
	var result *outbound.Error
	require.ErrorAs(t, err, &result)
	return result
}

func post(t *testing.T, d *outbound.Door, url string) (outbound.Response, error) {
	t.Helper()
	return d.Do(t.Context(), outbound.Request{Method: http.MethodPost, URL: url, Body: []byte("hello")})
}

// target serves a handler on loopback until the end of the test.
func target(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// rawTarget hands each connection to serve, which may answer anything or nothing. Connections close with the test.
func rawTarget(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			running.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return "http://" + listener.Addr().String()
}

// A nameServer is a DNS server on loopback that gives a name its answers in turn, the last one for ever.
type nameServer struct {
	*net.Resolver

	mu      sync.Mutex
	answers map[string][]string // by name with its final dot
	asked   []string            // "A name." and "AAAA name.", as they came
}

// names starts a name server. Each address of an answer is told to the question of its family only.
func names(t *testing.T, answers map[string][]string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = conn.Close() })

	s := &nameServer{answers: answers}
	s.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	running.Go(func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if reply, err := s.reply(buffer[:n]); err == nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	})
	return s
}

func (s *nameServer) reply(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Questions[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.TrimPrefix(q.Type.String(), "Type")+" "+q.Name.String())
	answers := s.answers[q.Name.String()]
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	if len(answers) == 0 {
		reply.RCode = dnsmessage.RCodeNameError
		return reply.Pack()
	}
	addr := netip.MustParseAddr(answers[0])
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET}
	switch {
	case q.Type == dnsmessage.TypeA && addr.Is4():
		reply.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}}}
	case q.Type == dnsmessage.TypeAAAA && addr.Is6():
		reply.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}}
	default:
		return reply.Pack() // the name exists, but not in this family
	}
	if len(answers) > 1 {
		s.answers[q.Name.String()] = answers[1:]
	}
	return reply.Pack()
}

// questions returns what was asked so far.
func (s *nameServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}
