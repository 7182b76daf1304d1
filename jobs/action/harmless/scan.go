package harmless

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// joiner is the word joiner, which is put where a construct must not come about.
const joiner = "\u2060"

// A style is what a format wants done to a text.
type style struct {
	markup    bool // the target may take the text for Markdown
	bare      bool // the target makes links of names of hosts alone
	addresses bool // e-mail addresses at allowed hosts are left as they are
	formulas  bool // a spreadsheet may come to read the text
	angled    bool // links are written as Slack writes them

	escape func(string) string            // of what is no link; none if nil
	link   func(url, label string) string // of an allowed link, label escaped; left as it is written if nil
}

// A cell is where a spreadsheet would look for a formula.
type cell int

const (
	noCell   cell = iota
	lineCell      // nothing but blanks since the beginning of the line
	tabCell       // nothing but blanks since a tab
)

// A scanner goes through a text once, from the left to the right, and writes it with joiners, escapes and links.
type scanner struct {
	style

	allowed hosts
	text    string
	at      int // the next byte to look at
	from    int // the first byte that is not written yet
	joined  int // where the last joiner was put
	out     strings.Builder

	opening bool // nothing but blanks and the marks of quotes, lists and emphasis since the beginning of the line
	cell    cell
	bracket int // where the last "[" of the line stands, -1 if there is none
}

// scanned is text in the given style.
func scanned(text string, s style, allowed hosts) string {
	scan := scanner{style: s, allowed: allowed, text: text, joined: -1}
	scan.beginLine()
	scan.out.Grow(len(text) + len(text)/8)
	for scan.at < len(text) {
		scan.step()
	}
	scan.write(len(text))
	return scan.out.String()
}

// write writes what stands before end and is not written yet.
func (s *scanner) write(end int) {
	part := s.text[s.from:end]
	if s.escape != nil {
		part = s.escape(part)
	}
	s.out.WriteString(part)
	s.from = end
}

// join puts a joiner before what comes next.
func (s *scanner) join() {
	if s.joined == s.at {
		return
	}
	s.write(s.at)
	s.out.WriteString(joiner)
	s.joined = s.at
}

// pass goes over the next bytes, which are written as they are.
func (s *scanner) pass(bytes int) {
	s.at += bytes
}

func (s *scanner) beginLine() {
	s.opening, s.cell, s.bracket = true, lineCell, -1
}

// next is the byte that stands the given number of bytes ahead, 0 if the text ends before.
func (s *scanner) next(ahead int) byte {
	if s.at+ahead < len(s.text) {
		return s.text[s.at+ahead]
	}
	return 0
}

// step deals with what comes next.
func (s *scanner) step() {
	r, size := rune(s.text[s.at]), 1
	if r >= utf8.RuneSelf {
		r, size = utf8.DecodeRuneInString(s.text[s.at:])
	}
	if s.formulas && (s.cell != noCell || r == '\t') {
		s.guardCell(r)
	}
	switch {
	case r == '\n':
		s.pass(1)
		s.beginLine()
	case wordStart(r):
		s.word()
	case isAt(r):
		s.opening = false
		s.mention(size)
	default:
		// Slashes and colons are dealt with by whether they open the line; everything but the marks ends the opening.
		opening := s.opening
		s.opening = opening && (unicode.IsSpace(r) || strings.ContainsRune(openingMarks, r))
		s.sign(r, size, opening)
	}
}

// openingMarks are what may stand before a command at the beginning of a line: those of quotes, lists, tables, headings and emphasis, and the backslash
// that a parser takes away.
const openingMarks = ">-*+|#~\"'“”„‘’«»\\"

// sign deals with what is neither word nor mention nor the end of a line.
func (s *scanner) sign(r rune, size int, opening bool) {
	switch r {
	case ':':
		s.colon(opening)
	case '/':
		s.slash(opening)
	case '<':
		s.angle()
	case '.':
		if s.bare {
			s.dot(len(s.text))
		} else {
			s.pass(1)
		}
	default:
		if s.markup {
			s.mark(r, size)
		} else {
			s.pass(size)
		}
	}
}

// guardCell keeps a spreadsheet from taking what follows for a formula. A line that begins with a tab counts as one as well.
func (s *scanner) guardCell(r rune) {
	switch {
	case r == '\t':
		if s.cell == lineCell {
			s.join()
		}
		s.cell = tabCell
	case unicode.IsSpace(r):
	case strings.ContainsRune(formulaSigns, r):
		s.join()
		s.cell = noCell
	default:
		s.cell = noCell
	}
}

// formulaSigns begin a formula, some of them in Japanese spreadsheets only.
const formulaSigns = "=+-@＝＋－＠"

// isAt says whether r is an "@", in any width.
func isAt(r rune) bool {
	return r == '@' || r == '＠' || r == '﹫'
}

// mention keeps an "@" of the given size from reaching a name behind it, and an e-mail address from being one.
func (s *scanner) mention(size int) {
	after, _ := utf8.DecodeRuneInString(s.text[s.at+size:])
	if s.at+size == len(s.text) || unicode.IsSpace(after) {
		s.pass(size)
		return
	}
	if before, _ := utf8.DecodeLastRuneInString(s.text[:s.at]); s.at > 0 && !unicode.IsSpace(before) {
		s.join()
	}
	s.pass(size)
	s.join()
}

// colon deals with "://" that has no word before it, and with the "::include" of GitLab.
func (s *scanner) colon(opening bool) {
	include := s.markup && opening && s.next(1) == ':' && asciiLetter(s.next(2))
	s.pass(1)
	if include {
		s.join()
	} else if strings.HasPrefix(s.text[s.at:], "//") {
		s.join()
		s.pass(len("//"))
	}
}

// slash deals with commands at the beginning of a line, and with links that take their scheme from the page.
func (s *scanner) slash(opening bool) {
	if opening && (asciiLetter(s.next(1)) || s.angled && s.next(1) == '<') { // an address gets its "<" later
		s.join()
	}
	s.pass(1)
	if s.next(0) == '/' && s.hostLike() {
		s.join()
		s.pass(1)
	}
}

// hostLikeMax is how far is looked for a dot behind "//".
const hostLikeMax = 256

// hostLike says whether a host may stand behind the slash that comes next: something with a dot, or too long to tell.
func (s *scanner) hostLike() bool {
	rest := s.text[s.at+1:]
	for at := range min(len(rest), hostLikeMax) {
		switch c := rest[at]; {
		case c == ' ' || c == '\n' || c == '\t' || at == 0 && (c == '/' || c == '*'):
			return false
		case c == '.':
			return true
		}
	}
	return len(rest) > hostLikeMax
}

// angle deals with "<": the links of Slack, and in Markdown autolinks and HTML.
func (s *scanner) angle() {
	switch {
	case s.angled && s.slackLink():
	case s.markup && (asciiLetter(s.next(1)) || s.next(1) == '/' || s.next(1) == '!' || s.next(1) == '?'):
		if end, ok := s.enclosed(s.at+1, '>'); ok {
			s.pass(end + 1 - s.at)
			return
		}
		s.pass(1)
		s.join()
	default:
		s.pass(1)
	}
}

// slackLink writes the link that comes next, and says whether one does that is allowed.
func (s *scanner) slackLink() bool {
	start := s.at + 1
	if _, end, ok := s.target(start, '>'); ok {
		s.writeLink(start, end, "", end+1)
		return true
	}
	_, end, ok := s.target(start, '|')
	if !ok {
		return false
	}
	length := strings.IndexAny(s.text[end+1:], "<>|\n")
	if length < 0 || s.text[end+1+length] != '>' {
		return false
	}
	label := s.text[end+1 : end+1+length]
	inside := s.style
	inside.link = nil
	s.writeLink(start, end, scanned(label, inside, s.allowed), end+1+length+1)
	return true
}

// writeLink writes the link to text[start:end], and goes on at the byte after.
func (s *scanner) writeLink(start, end int, label string, after int) {
	if s.link != nil {
		s.write(s.at)
		s.out.WriteString(s.link(s.text[start:end], label))
		s.from = after
	}
	s.at = after
}

func asciiLetter(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z'
}

func asciiDigit(c byte) bool {
	return c >= '0' && c <= '9'
}
