package scripted

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// The limits of a Mailbox.
const (
	mailBytesMax   = 1 << 20          // of a message that is recorded
	mailHoldMax    = 10 * time.Minute // that one connection may last
	mailEntriesMax = 1 << 16          // that are remembered
)

// MailCut in place of a reply ends the connection without a word. A message that was complete is taken all the same.
const MailCut = "cut"

// MailHang in place of a reply never comes. A message that was complete is taken all the same.
const MailHang = "hang"

// MailConfig says how a mail server is played.
type MailConfig struct {
	// TLS, if not nil, is offered as STARTTLS, or, if Implicit, spoken from the start.
	TLS      *tls.Config
	Implicit bool
	// User and Password, if not empty, are wanted by AUTH PLAIN before any message.
	User, Password string
	// Now is the clock of the journal.
	Now func() time.Time
}

// A MailEntry is one message that was taken.
type MailEntry struct {
	At        time.Time
	Encrypted bool
	User      string // that logged in
	From      string
	To        []string
	Data      []byte // as it was sent, with its dots undone
}

// A Mailbox is a mail server that keeps what it is sent, and gives it to nobody. It is safe for concurrent use.
type Mailbox struct {
	config MailConfig

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when an entry is recorded
	entries  []MailEntry
	replies  map[string][]string // to the next commands of a verb
	listener net.Listener
	conns    map[net.Conn]bool
	serving  sync.WaitGroup
}

// NewMailbox returns a server that takes every message.
func NewMailbox(c MailConfig) *Mailbox {
	return &Mailbox{config: c, changed: make(chan struct{}), replies: map[string][]string{}, conns: map[net.Conn]bool{}}
}

// Script sets the replies, such as "451 4.3.0 later", to the next commands of a verb: EHLO, AUTH, MAIL, RCPT, DATA, or END for the end of a message.
func (b *Mailbox) Script(verb string, replies ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replies[verb] = append([]string(nil), replies...)
}

// Listen serves on a loopback address such as "127.0.0.1:0" until Close, and returns it as host:port.
func (b *Mailbox) Listen(address string) (string, error) {
	bind, err := netip.ParseAddrPort(address)
	if err != nil || !bind.Addr().IsLoopback() {
		return "", fmt.Errorf("listen on %q: expected a loopback address and a port, such as 127.0.0.1:0", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("listen on %s: %w", address, err)
	}
	b.listener = listener
	b.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.serving.Go(func() { b.serve(conn) })
		}
	})
	return listener.Addr().String(), nil
}

// Close stops listening and ends every connection.
func (b *Mailbox) Close() error {
	err := b.listener.Close()
	b.mu.Lock()
	for conn := range b.conns {
		err = errors.Join(err, conn.Close())
	}
	b.mu.Unlock()
	b.serving.Wait()
	return err
}

// Journal returns the messages that were taken, in their order.
func (b *Mailbox) Journal() []MailEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]MailEntry(nil), b.entries...)
}

// Wait returns the journal as soon as it holds n messages.
func (b *Mailbox) Wait(ctx context.Context, n int) ([]MailEntry, error) {
	for {
		b.mu.Lock()
		count, changed := len(b.entries), b.changed
		b.mu.Unlock()
		if count >= n {
			return b.Journal(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return b.Journal(), fmt.Errorf("wait for %d messages, saw %d: %w", n, count, ctx.Err())
		}
	}
}

// scripted is the reply to a verb: the next of its script, else the usual one.
func (b *Mailbox) scripted(verb, usual string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if next := b.replies[verb]; len(next) > 0 {
		b.replies[verb] = next[1:]
		return next[0]
	}
	return usual
}

// take records a message.
func (b *Mailbox) take(e MailEntry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.entries) >= mailEntriesMax {
		return false
	}
	b.entries = append(b.entries, e)
	close(b.changed)
	b.changed = make(chan struct{})
	return true
}

// mailSession is one connection.
type mailSession struct {
	box    *Mailbox
	conn   net.Conn
	reader *bufio.Reader
	entry  MailEntry
}

func (b *Mailbox) serve(conn net.Conn) {
	b.mu.Lock()
	b.conns[conn] = true
	b.mu.Unlock()
	defer func() {
		_ = conn.Close()
		b.mu.Lock()
		delete(b.conns, conn)
		b.mu.Unlock()
	}()
	_ = conn.SetDeadline(time.Now().Add(mailHoldMax)) //nolint:forbidigo // a deadline of the socket, not a time of the journal
	s := &mailSession{box: b, conn: conn}
	if b.config.Implicit {
		s.encrypt()
	}
	s.reader = bufio.NewReader(s.conn)
	s.say("220 scripted ESMTP")
	for s.step() {
	}
}

func (s *mailSession) encrypt() {
	s.conn = tls.Server(s.conn, s.box.config.TLS)
	s.entry.Encrypted = true
}

func (s *mailSession) say(line string) {
	switch line {
	case MailCut:
		_ = s.conn.Close()
	case MailHang:
		_, _ = io.Copy(io.Discard, s.conn) // until the client goes away
	default:
		_, _ = io.WriteString(s.conn, line+"\r\n")
	}
}

// step answers one command, and says whether there may be another.
func (s *mailSession) step() bool {
	line, err := s.reader.ReadString('\n')
	if err != nil {
		return false
	}
	verb, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	verb = strings.ToUpper(verb)
	switch verb {
	case "EHLO", "HELO":
		s.say(s.box.scripted("EHLO", s.greeting()))
	case "STARTTLS":
		s.say("220 go on")
		s.encrypt()
		s.reader = bufio.NewReader(s.conn)
	case "AUTH":
		s.say(s.box.scripted(verb, s.login(rest)))
	case "MAIL":
		s.say(s.box.scripted(verb, s.begin(rest)))
	case "RCPT":
		reply := s.box.scripted(verb, "250 known")
		if strings.HasPrefix(reply, "2") {
			s.entry.To = append(s.entry.To, angled(rest))
		}
		s.say(reply)
	case "DATA":
		return s.data()
	case "QUIT":
		s.say("221 good day")
		return false
	default:
		s.say("502 not played")
	}
	return true
}

func (s *mailSession) greeting() string {
	lines := "250-scripted\r\n"
	if s.box.config.TLS != nil && !s.entry.Encrypted {
		lines += "250-STARTTLS\r\n"
	}
	if s.box.config.User != "" {
		lines += "250-AUTH PLAIN\r\n"
	}
	return lines + "250 8BITMIME"
}

// login checks AUTH PLAIN (RFC 4616): nothing, the user and the password, each behind a zero byte.
func (s *mailSession) login(rest string) string {
	_, encoded, _ := strings.Cut(rest, " ")
	text, err := base64.StdEncoding.DecodeString(encoded)
	parts := strings.Split(string(text), "\x00")
	if err != nil || len(parts) != 3 || parts[1] != s.box.config.User || parts[2] != s.box.config.Password {
		return "535 5.7.8 no"
	}
	s.entry.User = parts[1]
	return "235 welcome"
}

func (s *mailSession) begin(rest string) string {
	if s.box.config.User != "" && s.entry.User == "" {
		return "530 5.7.0 log in first"
	}
	s.entry.From, s.entry.To = angled(rest), nil
	return "250 go on"
}

// data takes a message up to its final dot.
func (s *mailSession) data() bool {
	if len(s.entry.To) == 0 {
		s.say("503 to whom")
		return true
	}
	reply := s.box.scripted("DATA", "354 go on")
	s.say(reply)
	if !strings.HasPrefix(reply, "3") {
		return true
	}
	var message bytes.Buffer
	for message.Len() < mailBytesMax {
		line, err := s.reader.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			reply := s.box.scripted("END", "250 taken")
			entry := s.entry
			entry.At, entry.Data = s.box.config.Now().UTC(), message.Bytes()
			taken := strings.HasPrefix(reply, "2") || reply == MailCut || reply == MailHang
			if taken && !s.box.take(entry) {
				reply = "452 the journal is full"
			}
			s.say(reply)
			return true
		}
		message.WriteString(strings.TrimPrefix(line, "."))
	}
	s.say("552 too long")
	return false
}

// angled is what stands between angle brackets.
func angled(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}
