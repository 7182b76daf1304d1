package harmless

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// What stands at the end of a text that was cut.
const (
	cutMark  = " [cut]"
	ellipsis = "…"

	// shortMax is the limit below which cutMark would take too much of the room.
	shortMax = 40
)

const (
	zeroWidthJoiner  = '\u200D' // makes one emoji of several
	emojiSelector    = '\uFE0F' // asks for the coloured form of a character
	keycap           = '\u20E3' // puts a key around a digit
	brailleBlank     = '\u2800'
	nullNotehead     = '\U0001D159'
	nextLine         = '\u0085'
	lineSeparator    = '\u2028'
	paragraphBreak   = '\u2029'
	nonCharactersLow = '\uFDD0'
	nonCharactersTop = '\uFDEF'
)

// emoji are the characters that may ask for their coloured form or be joined into one, and some neighbours of theirs.
var emoji = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x00A9, Hi: 0x00A9, Stride: 1},
		{Lo: 0x00AE, Hi: 0x00AE, Stride: 1},
		{Lo: 0x203C, Hi: 0x203C, Stride: 1},
		{Lo: 0x2049, Hi: 0x2049, Stride: 1},
		{Lo: 0x2122, Hi: 0x2122, Stride: 1},
		{Lo: 0x2139, Hi: 0x2139, Stride: 1},
		{Lo: 0x2190, Hi: 0x21FF, Stride: 1},
		{Lo: 0x2300, Hi: 0x23FF, Stride: 1},
		{Lo: 0x24C2, Hi: 0x24C2, Stride: 1},
		{Lo: 0x25A0, Hi: 0x27BF, Stride: 1},
		{Lo: 0x2934, Hi: 0x2935, Stride: 1},
		{Lo: 0x2B00, Hi: 0x2BFF, Stride: 1},
		{Lo: 0x3030, Hi: 0x3030, Stride: 1},
		{Lo: 0x303D, Hi: 0x303D, Stride: 1},
		{Lo: 0x3297, Hi: 0x3299, Stride: 2},
	},
	R32:         []unicode.Range32{{Lo: 0x1F000, Hi: 0x1FAFF, Stride: 1}},
	LatinOffset: 2,
}

// skinTones colour the emoji before them.
var skinTones = &unicode.RangeTable{R32: []unicode.Range32{{Lo: 0x1F3FB, Hi: 0x1F3FF, Stride: 1}}}

// clean takes what does not show out of text, word joiners too, and makes every end of a line a newline.
//
// Of what makes emoji only that is kept which shows: a joiner between two of them, one selector after one of them. The flags that are spelled in tag
// characters (England, Scotland, Wales) become black flags, and the joiners of Persian and of Indian scripts are lost: both could carry hidden text.
func clean(text string) string {
	if plainASCII(text) {
		return text
	}
	text = strings.Map(shown, strings.ReplaceAll(text, "\r\n", "\n")) // Map makes U+FFFD of every byte that is no UTF-8
	if !strings.ContainsAny(text, string([]rune{zeroWidthJoiner, emojiSelector})) {
		return text
	}
	var out strings.Builder
	before := rune(0) // the last that was kept
	for at, r := range text {
		after, _ := utf8.DecodeRuneInString(text[at+utf8.RuneLen(r):])
		switch {
		case r == emojiSelector && !unicode.Is(emoji, before) && !(keyed(before) && after == keycap),
			r == zeroWidthJoiner && !((unicode.Is(emoji, before) || before == emojiSelector) && unicode.Is(emoji, after)):
			continue
		}
		out.WriteRune(r)
		before = r
	}
	return out.String()
}

// plainASCII says whether there is nothing to clean in text, which is so of most.
func plainASCII(text string) bool {
	for at := range len(text) {
		if c := text[at]; c >= utf8.RuneSelf || c == 0x7F || c < ' ' && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

func keyed(r rune) bool {
	return r >= '0' && r <= '9' || r == '#' || r == '*'
}

// shown maps a character to itself, to a blank or a newline in its stead, or to nothing where it does not show. It covers what the fence of the prompt
// takes out of payloads; joiners and selectors of emoji are looked at later.
func shown(r rune) rune {
	switch r {
	case '\n', '\t', zeroWidthJoiner, emojiSelector, utf8.RuneError:
		return r
	case '\r', nextLine, lineSeparator, paragraphBreak:
		return '\n'
	case '\v', '\f', brailleBlank, nullNotehead:
		return ' '
	}
	switch {
	case r >= ' ' && r < 0x7F:
		return r
	case unicode.IsControl(r), r >= nonCharactersLow && r <= nonCharactersTop, r&0xFFFE == 0xFFFE:
		return -1
	case unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) &&
		!unicode.Is(unicode.Prepended_Concatenation_Mark, r):
		return -1
	}
	return r
}

// backMax is how many runes a cut goes back for the beginning of a character. A tower of marks that is higher is cut through.
const backMax = 16

// cut is the beginning of text with at most the given number of runes. It does not cut through what is seen as one character.
func cut(text string, runes int) string {
	end := 0
	for ; runes > 0 && end < len(text); runes-- {
		_, size := utf8.DecodeRuneInString(text[end:])
		end += size
	}
	if end == len(text) {
		return text
	}
	back := end
	for range backMax {
		next, _ := utf8.DecodeRuneInString(text[back:])
		last, size := utf8.DecodeLastRuneInString(text[:back])
		if last != zeroWidthJoiner && next != zeroWidthJoiner && !unicode.IsMark(next) && !unicode.Is(skinTones, next) {
			return text[:back]
		}
		back -= size
	}
	return strings.TrimRight(text[:end], string(zeroWidthJoiner))
}
