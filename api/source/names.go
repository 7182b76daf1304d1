package source

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// How long the names of an event may be, in runes. They are stored and indexed.
const (
	idRunesMax     = 256
	typeRunesMax   = 128
	entityRunesMax = 256
	kindRunesMax   = 64 // the part of an entity before the colon, where the rest had to be hashed
)

// tidyID keeps an id that can be stored as it is, and hashes any other, so that distinct ids stay distinct.
func tidyID(id string) string {
	if fits(id, idRunesMax) {
		return id
	}
	return digest([]byte(id))
}

// tidyEntity hashes an entity that cannot be stored as it is, keeping its kind legible.
func tidyEntity(entity string) string {
	if fits(entity, entityRunesMax) {
		return entity
	}
	kind, _, found := strings.Cut(entity, ":")
	if !found || !fits(kind, kindRunesMax) {
		return digest([]byte(entity))
	}
	return kind + ":" + digest([]byte(entity))
}

// tidyType drops what cannot be stored from a type and cuts it.
func tidyType(kind string) string {
	if fits(kind, typeRunesMax) {
		return kind
	}
	var b strings.Builder
	kept := 0
	for _, r := range strings.ToValidUTF8(kind, "") {
		if kept == typeRunesMax {
			break
		}
		if !unicode.IsControl(r) {
			b.WriteRune(r)
			kept++
		}
	}
	return b.String()
}

func fits(s string, runesMax int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= runesMax && !strings.ContainsFunc(s, unicode.IsControl)
}

// digest is "sha256:" and the hash in hex.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// entity joins a kind and the parts of an id, and is empty unless all are known.
func entity(kind string, id ...string) string {
	parts := append([]string{kind}, id...)
	if slices.Contains(parts, "") {
		return ""
	}
	return strings.Join(parts, ":")
}

// derivedID makes an id of what identifies an event that has none.
func derivedID(parts ...string) string { return digest([]byte(strings.Join(parts, "\x00"))) }

// firstOf gives the first text that is not empty.
func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
