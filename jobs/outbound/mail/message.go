package mail

import (
	"bytes"
	"mime"
	"mime/quotedprintable"
	netmail "net/mail"
	"regexp"
	"strings"
	"time"
)

// A Message is one mail, of plain text.
type Message struct {
	From *netmail.Address
	To   string // a bare address that CheckAddress takes
	// ID is the same for every try, so that a second copy can be known for what it is: letters, digits and "._-", without the domain.
	ID string
	// InReplyTo and References name earlier messages, each as <id@host>. What is not of that form is left out.
	InReplyTo  string
	References []string
	// Auto is the word of Auto-Submitted (RFC 3834, section 5), which keeps other programs from answering.
	Auto    string
	Subject string // of one line
	Text    string
	At      time.Time
}

// MessageID is the id that a message bears in its header, without the brackets.
func (m Message) MessageID() string { return m.ID + "@" + DomainOf(m.From.Address) }

// The lengths of a header that everybody takes (RFC 5322, section 2.1.1): a line, and the chain of the messages before.
const (
	referencesMax   = 20
	messageIDMax    = 250
	encodedWordsGap = "?= =?"
)

// messageIDRE is the id of a message in its common form. The quoted forms of RFC 5322 are refused: they may hold blanks and brackets.
var messageIDRE = regexp.MustCompile("^<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.:\\[\\]_-]+>$")

// KnownID is an id as a header bears it, with or without its brackets, in its one spelling; "" where it is not one.
func KnownID(text string) string {
	id := "<" + strings.Trim(strings.TrimSpace(text), "<>") + ">"
	if len(id) > messageIDMax || !messageIDRE.MatchString(id) {
		return ""
	}
	return id
}

// Bytes is the message as it is sent. No header holds a line's end: the subject is encoded, and addresses and ids are checked.
func (m Message) Bytes() []byte {
	var b bytes.Buffer
	header := func(name, value string) {
		if value != "" {
			b.WriteString(name + ": " + value + "\r\n")
		}
	}
	header("From", m.From.String())
	header("To", m.To)
	// A subject of many bytes becomes many words, which are told apart by a blank; the lines must not grow too long for it.
	header("Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", oneLine(m.Subject)), encodedWordsGap, "?=\r\n =?"))
	header("Date", m.At.UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+m.MessageID()+">")
	header("In-Reply-To", KnownID(m.InReplyTo))
	header("References", m.references())
	header("Auto-Submitted", m.Auto)
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	body := quotedprintable.NewWriter(&b)
	_, _ = body.Write([]byte(strings.ReplaceAll(m.Text, "\n", "\r\n"))) // a buffer takes everything
	_ = body.Close()
	return b.Bytes()
}

// references is the chain of the messages before, one on each line: the first, which began it, and the last ones.
func (m Message) references() string {
	var known []string
	for _, id := range m.References {
		if id = KnownID(id); id != "" {
			known = append(known, id)
		}
	}
	if len(known) > referencesMax {
		known = append(known[:1], known[len(known)-referencesMax+1:]...)
	}
	return strings.Join(known, "\r\n ")
}

// oneLine puts a blank for every line's end. Subjects come without one; this is the last that is between them and the header.
func oneLine(s string) string {
	return strings.NewReplacer("\r\n", " ", "\r", " ", "\n", " ").Replace(s)
}
