package automations

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// payloadDepthMax is how deep the arrays and objects of a payload or an output may stand in each other. GitHub's deepest
// payloads reach 9, Stripe's 12.
const payloadDepthMax = 64

// numberBytesMax is how long the digits of a number may be, and numberExponentMax how far its exponent may go, where it is
// kept exact. Arithmetic on 1e999999999 would take all memory.
const (
	numberBytesMax    = 400
	numberExponentMax = 400
)

// ErrTooDeep is the error of a JSON document that is nested deeper than 64 levels.
var ErrTooDeep = fmt.Errorf("nested deeper than %d levels", payloadDepthMax)

// DecodePayload turns the body of an event into what expressions and templates see as payload: nil, bool, string, int64,
// float64, []any and map[string]any. A whole number that int64 cannot hold, and a number that float64 cannot hold, become
// a string of their digits, so that an id is never rounded. Where an object names a key twice, the last one holds.
//
// A body that is not one JSON document, or is nested deeper than the 10,000 levels that encoding/json can follow, becomes
// {"raw": body}, with invalid UTF-8 replaced by U+FFFD. The only error is ErrTooDeep. The caller has capped the size of body; the answer takes up to about 40 times as much memory.
func DecodePayload(body []byte) (any, error) {
	v, err := decodeJSON(body)
	switch {
	case errors.Is(err, ErrTooDeep):
		return nil, err
	case err != nil:
		return map[string]any{"raw": strings.ToValidUTF8(string(body), "\uFFFD")}, nil //nolint:nilerr // what is not JSON is kept as text
	}
	return plainNumbers(v), nil
}

// CheckPayload answers the error that DecodePayload would, without reading the document.
func CheckPayload(body []byte) error { return checkDepth(body) }

// DecodeState turns what was fetched into what templates see as state, as DecodePayload does. What is not one JSON document is an error.
func DecodeState(body []byte) (any, error) {
	v, err := decodeJSON(body)
	if err != nil {
		return nil, err
	}
	return plainNumbers(v), nil
}

// decodeJSON reads exactly one JSON document and leaves its numbers as json.Number.
func decodeJSON(body []byte) (any, error) {
	if err := checkDepth(body); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON document")
	}
	return v, nil
}

// checkDepth counts open brackets outside strings, before any memory is spent on the document. On bytes that are not JSON
// its answer may be wrong either way, which is harmless: they are kept raw or refused.
func checkDepth(body []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > payloadDepthMax {
				if !json.Valid(body) {
					return errors.New("not JSON")
				}
				return ErrTooDeep
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// plainNumbers replaces each json.Number of v, in place where v is a container.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return plainNumber(v.String())
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	}
	return v
}

func plainNumber(s string) any {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	if !strings.ContainsAny(s, ".eE") {
		return s
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && !math.IsInf(f, 0) {
		return f
	}
	return s
}

// numbersExact answers whether arithmetic can be done with every number of v, which decodeJSON answered.
func numbersExact(v any) bool {
	switch v := v.(type) {
	case json.Number:
		return numberExact(v.String())
	case []any:
		for _, item := range v {
			if !numbersExact(item) {
				return false
			}
		}
	case map[string]any:
		for _, item := range v {
			if !numbersExact(item) {
				return false
			}
		}
	}
	return true
}

func numberExact(s string) bool {
	if len(s) > numberBytesMax {
		return false
	}
	i := strings.IndexAny(s, "eE")
	if i < 0 {
		return true
	}
	exp, err := strconv.Atoi(s[i+1:])
	return err == nil && -numberExponentMax <= exp && exp <= numberExponentMax
}
