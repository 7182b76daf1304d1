package llm

import (
	"encoding/json"
	"sync"
)

const (
	// schemasKept and schemaKeptBytes bound the derived schemas in memory: an automation asks with the same schema again and again.
	schemasKept     = 512
	schemaKeptBytes = 16 << 10
)

// schemas keeps what a dialect made of the latest schemas.
type schemas struct {
	dialect dialect

	mu   sync.Mutex
	kept map[string]derivedSchema
}

type derivedSchema struct {
	schema json.RawMessage
	ok     bool
}

// derive is the dialect's derive, encoded.
func (s *schemas) derive(raw json.RawMessage) (json.RawMessage, bool) {
	s.mu.Lock()
	known, found := s.kept[string(raw)]
	s.mu.Unlock()
	if found {
		return known.schema, known.ok
	}
	var d derivedSchema
	if tree, ok := s.dialect.derive(raw); ok {
		encoded, err := encode(tree)
		d = derivedSchema{encoded, err == nil}
	}
	if len(raw) <= schemaKeptBytes {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.kept == nil || len(s.kept) >= schemasKept {
			s.kept = make(map[string]derivedSchema)
		}
		s.kept[string(raw)] = d
	}
	return d.schema, d.ok
}
