package action_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"sluice/jobs/action"
	"sluice/jobs/outbound"
)

// ownMachine is a resolver for which every name stands for this machine. It counts the questions.
func ownMachine(asked *atomic.Int64) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer func() { _ = theirs.Close() }()
			var size [2]byte
			if _, err := io.ReadFull(theirs, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			var m dnsmessage.Message
			if _, err := io.ReadFull(theirs, query); err != nil || m.Unpack(query) != nil {
				return
			}
			asked.Add(1)
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			reply, _ := m.Pack()
			_, _ = theirs.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}()
		return ours, nil
	}}
}

// attempt is a good attempt of a connector whose target is behind an address.
func attempt(t *testing.T, c action.Connector, address string) action.Send {
	t.Helper()
	kind := c.Spec().Kind
	switch {
	case kind == mailed:
		effect, err := c.Prepare(params(t, c, json.RawMessage(emailSample)), input())
		require.NoError(t, err)
		return action.Send{Key: keyOne, Effect: effect, Access: action.Access{Secret: emailSecret, Base: "smtp://hook.example"}, At: at, Attempt: 1, Since: at}
	case samples[kind] != "":
		send, _ := ready(t, c, address)
		return send
	default:
		effect, err := c.Prepare(params(t, c, json.RawMessage(strings.ReplaceAll(vendors[kind].Sample, "BODY", plain))), input())
		require.NoError(t, err)
		return action.Send{Key: keyOne, Effect: effect, Access: action.Access{Secret: vendors[kind].Secret, Base: address}, At: at, Attempt: 1, Since: at}
	}
}

// Whatever a connector asks, to act, to look for an effect or to try a credential, it asks through the guard: a harmless name that stands for this
// machine gets nothing, and nothing is in doubt.
func TestEveryConnectorStopsAtTheDoor(t *testing.T) {
	t.Parallel()
	var connections, asked atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: http.NotFoundHandler(), ConnState: func(net.Conn, http.ConnState) { connections.Add(1) }, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	n, err := strconv.ParseUint(port, 10, 16)
	require.NoError(t, err)

	set := action.New(outbound.New(outbound.Config{Ports: []uint16{uint16(n)}, Resolver: ownMachine(&asked)}))
	stopped := func(t *testing.T, secret string, err error) {
		t.Helper()
		got := failure(t, err)
		require.Equal(t, []any{action.Blocked, action.CodeBlocked, false}, []any{got.Kind, got.Code, got.Doubt}, "%v", got.Unwrap())
		require.Equal(t, action.CodeBlocked+": the address is not allowed", got.Error())
		hides(t, secret, err)
	}
	kinds := 0
	for _, kind := range set.Kinds() {
		if kind == "none" {
			continue
		}
		kinds++
		c, _ := set.Get(kind)
		send := attempt(t, c, "https://hook.example:"+port)
		before := asked.Load()
		_, err := c.Do(t.Context(), send)
		stopped(t, send.Secret, err)
		if finder, ok := c.(action.Finder); ok && send.Effect.Once == action.OnceMark {
			_, err := finder.Find(t.Context(), send)
			got := failure(t, err)
			require.Equal(t, action.CodeBlocked, got.Code, kind)
			hides(t, send.Secret, err)
		}
		if account, ok := set.Account(c.Spec().Account); ok && account.Test != nil {
			_, err := account.Test(t.Context(), send.Access, at)
			stopped(t, send.Secret, err)
		}
		require.Greater(t, asked.Load(), before, "%s: the name was asked for, and its address refused", kind)
	}
	require.Equal(t, len(samples)+len(vendors), kinds, "the samples hold one that goes nowhere, and the mail is not among them")
	require.Zero(t, connections.Load())
}

// No credential can be saved with an address that is surely not a service of the world, however it is written.
func TestEveryAccountRefusesAddressesOfTheHouse(t *testing.T) {
	t.Parallel()
	set := action.New(outbound.New(outbound.Config{}))
	hosts := []string{
		"127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "a.localhost", "[::1]", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a00:1]",
		"[2002:a00:1::]", "[2606:4700::5efe:a00:1]", "[fd00:ec2::254]", "[fe80::1%25eth0]", "10.0.0.1", "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.168.1.1", "0.0.0.0",
		"１０.0.0.1", "10。0。0。1", "%31%30.0.0.1", "example.com@10.0.0.1", "user:" + canary + "@example.com", "postgres", "example.com:22", "example.com:25", "example.com:5432",
		"example.com\\@10.0.0.1", "example.com#x", "example.com?x=" + canary, "example.com/", "", " example.com", "example.com\r\nX: y",
	}
	for _, kind := range set.Accounts() {
		account, _ := set.Account(kind)
		if account.NoBase {
			require.Error(t, set.CheckBase(account, "https://example.com"), kind)
			continue
		}
		schemes := []string{"https://", "http://", "ftp://", "file://", "unix://", "gopher://", ""}
		if account.BaseCheck != nil {
			schemes = []string{"smtp://", "smtps://", "https://"}
		}
		for _, scheme := range schemes {
			for _, host := range hosts {
				if scheme+host == "" {
					continue // the service's own address
				}
				err := set.CheckBase(account, scheme+host)
				require.Error(t, err, "%s: %s", kind, scheme+host)
				require.NotContains(t, err.Error(), canary)
				require.NotContains(t, err.Error(), "10.0.0.1")
			}
		}
	}
}
