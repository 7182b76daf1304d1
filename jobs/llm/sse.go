package llm

import (
	"bytes"
	"io"
)

// eventBytes is the first size of an eventReader's buffer: most events are a few hundred bytes.
const eventBytes = 4 << 10

// An eventReader reads the data of server-sent events (html.spec.whatwg.org, server-sent events), as far as the providers use them: the
// names, the ids and the comments are passed over, and lines end in LF or CR LF. Neither a line nor the data of one event may be longer
// than bodyBytesMax.
type eventReader struct {
	from   io.Reader
	buffer []byte // [begin:end) is read and not used; up to looked there is no line's end.
	data   []byte

	begin, looked, end int
}

func newEventReader(from io.Reader) *eventReader {
	return &eventReader{from: from, buffer: make([]byte, eventBytes)}
}

// next is the data of the next event that has any; it holds until the call after. An event that the end of the stream cuts off is lost,
// as the specification demands.
func (e *eventReader) next() ([]byte, error) {
	e.data = e.data[:0]
	filled := false
	for {
		line, err := e.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if filled {
				return e.data, nil
			}
			continue
		}
		value, isData := bytes.CutPrefix(line, []byte("data"))
		if !isData || len(value) > 0 && value[0] != ':' {
			continue
		}
		value = bytes.TrimPrefix(bytes.TrimPrefix(value, []byte(":")), []byte(" "))
		if filled {
			e.data = append(e.data, '\n')
		}
		if len(e.data)+len(value) > bodyBytesMax {
			return nil, errBodyTooLarge
		}
		e.data, filled = append(e.data, value...), true
	}
}

// line is the next line without its end.
func (e *eventReader) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(e.buffer[e.looked:e.end], '\n'); i >= 0 {
			line := e.buffer[e.begin : e.looked+i]
			e.begin = e.looked + i + 1
			e.looked = e.begin
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		e.looked = e.end
		if err := e.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads some more, at the front of the buffer if there is room, else into a larger one.
func (e *eventReader) fill() error {
	if e.begin > 0 {
		copy(e.buffer, e.buffer[e.begin:e.end])
		e.looked, e.end, e.begin = e.looked-e.begin, e.end-e.begin, 0
	}
	if e.end > bodyBytesMax {
		return errBodyTooLarge
	}
	if e.end == len(e.buffer) {
		e.buffer = append(e.buffer, make([]byte, len(e.buffer))...)
	}
	n, err := e.from.Read(e.buffer[e.end:])
	e.end += n
	if n > 0 {
		// What came with the error is used first; the error comes again.
		return nil
	}
	return err
}
