package mail

import (
	"crypto/tls"
	"errors"
	"net"
	"net/smtp"
	"net/textproto"
	"strconv"
)

// A Step is how far the conversation with a server came.
type Step string

// The steps of a conversation.
const (
	StepGreet     Step = "the mail server did not greet as one"
	StepSecure    Step = "no secure connection to the mail server could be made"
	StepInsecure  Step = "the mail server offers no secure connection"
	StepLogin     Step = "the mail server refused our login"
	StepSender    Step = "the mail server refused the sender"
	StepRecipient Step = "the mail server refused the address"
	StepData      Step = "the mail server refused the message"
	StepEnd       Step = "the mail server did not take the message"
)

// An Error says where a conversation ended. Nothing of the server's own words is in its text: they may repeat what was said to it.
type Error struct {
	Step Step
	// Code is what the server answered (RFC 5321, section 4.2), 0 if it did not answer.
	Code int
	// Doubt tells that the message was sent to its end, and that no answer came: the server may have taken it.
	Doubt bool

	cause error
}

func (e *Error) Error() string {
	if e.Code > 0 {
		return string(e.Step) + ": it answered " + strconv.Itoa(e.Code)
	}
	return string(e.Step)
}

// Unwrap returns what happened underneath, for the operator's log.
func (e *Error) Unwrap() error { return e.cause }

// permanentReply is the first digit of the replies that no repetition changes (RFC 5321, section 4.2.1).
const permanentReply = 5

// Permanent says whether the server's answer would be the same another time.
func (e *Error) Permanent() bool { return e.Code/100 == permanentReply }

func failed(step Step, err error) *Error {
	result := &Error{Step: step, cause: err}
	if reply, ok := errors.AsType[*textproto.Error](err); ok {
		// The reply's own words stay here.
		result.Code, result.cause = reply.Code, nil
	}
	return result
}

// Greet says who we are over a connection that was just made, encrypts it, and logs in. Who closes the connection is who made it. The error is an *Error.
func Greet(conn net.Conn, s Server, config *tls.Config, name string) (*smtp.Client, error) {
	if s.Implicit {
		secure := tls.Client(conn, config)
		if err := secure.Handshake(); err != nil { //nolint:noctx // the connection has a deadline of its own
			return nil, failed(StepSecure, err)
		}
		conn = secure
	}
	client, err := smtp.NewClient(conn, s.Host)
	if err == nil {
		err = client.Hello(name)
	}
	if err != nil {
		return nil, failed(StepGreet, err)
	}
	encrypted := s.Implicit
	if offered, _ := client.Extension("STARTTLS"); !encrypted && offered {
		if err := client.StartTLS(config); err != nil {
			return nil, failed(StepSecure, err)
		}
		encrypted = true
	}
	if !encrypted && !s.local() {
		return nil, &Error{Step: StepInsecure}
	}
	if s.User == "" {
		return client, nil
	}
	if err := client.Auth(smtp.PlainAuth("", s.User, s.Password, s.Host)); err != nil {
		return nil, failed(StepLogin, err)
	}
	return client, nil
}

// Deliver hands one message over. The error is an *Error.
func Deliver(client *smtp.Client, m Message) error {
	if err := client.Mail(m.From.Address); err != nil {
		return failed(StepSender, err)
	}
	if err := client.Rcpt(m.To); err != nil {
		return failed(StepRecipient, err)
	}
	w, err := client.Data()
	if err != nil {
		return failed(StepData, err)
	}
	if _, err = w.Write(m.Bytes()); err != nil {
		// Without its final dot no server takes a message.
		return failed(StepEnd, err)
	}
	if err := w.Close(); err != nil {
		result := failed(StepEnd, err)
		result.Doubt = result.Code == 0
		return result
	}
	// It was taken: how the parting goes does not matter.
	_ = client.Quit()
	return nil
}
