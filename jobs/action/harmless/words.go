package harmless

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	secure    = "https"
	authority = "://"
	prefix    = secure + authority
	world     = "www."
)

// schemes are those whose addresses are links, or run, without slashes.
var schemes = []string{"callto", "data", "facetime", "ftp", "http", "https", "javascript", "mailto", "sip", "skype", "sms", "tel", "vbscript", "xmpp"}

// notTopLevel are the endings of file names that no host ends in, so that such a name is no host.
var notTopLevel = []string{
	"bak", "cfg", "conf", "cpp", "css", "csv", "dll", "docx", "env", "exe", "gif", "go", "gz", "hpp", "htm", "html", "ini", "ipynb", "jar", "jpeg",
	"jpg", "js", "json", "jsx", "kt", "lock", "log", "pdf", "php", "png", "pptx", "rb", "scss", "sql", "svg", "swift", "tar", "tgz", "tmp", "toml", "ts",
	"tsv", "tsx", "txt", "vue", "webp", "xls", "xlsx", "xml", "yaml", "yml",
}

// wordStart says whether r begins a word; marks do not, since what follows a selector of emoji is a word of its own.
func wordStart(r rune) bool {
	if r < utf8.RuneSelf {
		return asciiLetter(byte(r)) || asciiDigit(byte(r)) || r == '_'
	}
	return unicode.IsLetter(r) || unicode.IsNumber(r)
}

// wordEnd is where the word ends that begins at start. What may stand within a host or a scheme is a part of it.
func wordEnd(text string, start int) int {
	for at := start; at < len(text); {
		r, size := rune(text[at]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(text[at:])
		}
		if !wordStart(r) && r != '-' && r != '.' && r != '+' && !unicode.IsMark(r) {
			return at
		}
		at += size
	}
	return len(text)
}

// word deals with the word that comes next and with what it makes of what follows: an address, a mailbox, the name of a host.
func (s *scanner) word() {
	if s.opening {
		if length := listMark(s.text[s.at:]); length > 0 {
			s.pass(length)
			return
		}
	}
	start, end := s.at, wordEnd(s.text, s.at)
	word, rest := s.text[start:end], s.text[end:]
	s.opening = s.opening && strings.Trim(word, "_") == ""
	switch {
	case strings.HasPrefix(rest, authority):
		s.address(word, end)
	case len(rest) > 1 && rest[0] == ':' && rest[1] > ' ' && scheme(word):
		s.name(word)
		s.join()
	case s.addresses && s.mailbox(word, rest):
	default:
		s.name(word)
	}
}

// name passes a word that is no scheme and no mailbox that is left as it is.
func (s *scanner) name(word string) {
	if s.bare {
		s.host(word)
	} else {
		s.web(word)
	}
}

// listMark is how long the mark of a numbered list is that begins text, 0 if none does.
func listMark(text string) int {
	const digitsMax = 9
	digits := 0
	for digits < len(text) && digits < digitsMax && asciiDigit(text[digits]) {
		digits++
	}
	if digits == 0 || digits+1 >= len(text) || text[digits] != '.' && text[digits] != ')' || text[digits+1] != ' ' && text[digits+1] != '\t' {
		return 0
	}
	return digits + 1
}

// scheme says whether word ends in a scheme that needs no slashes.
func scheme(word string) bool {
	return slices.Contains(schemes, strings.ToLower(word[strings.LastIndexAny(word, "._+-")+1:]))
}

// address deals with a word, its end and the "://" behind it: a link, if it is allowed.
func (s *scanner) address(word string, end int) {
	if strings.TrimLeft(word, "_") == secure && !s.after("+-.") {
		start := end - len(secure)
		if stop, ok := s.url(start); ok {
			s.at = start
			s.writeLink(start, stop, "", stop)
			return
		}
	}
	s.name(word)
	s.pass(len(":"))
	s.join()
	s.pass(len("//"))
}

// after says whether what comes next stands right behind one of the given characters.
func (s *scanner) after(those string) bool {
	return s.at > 0 && strings.IndexByte(those, s.text[s.at-1]) >= 0
}

// url is where the address ends that begins at start, and whether a link may lead there however the target's parser sees it.
func (s *scanner) url(start int) (end int, ok bool) {
	host := start + len(prefix)
	end = host + len(strings.TrimRight(s.text[host:hostEnd(s.text, host)], ".")) // a dot at the end is the sentence's
	if !s.allowed.allow(s.text[host:end]) || !s.settled(end, true) {
		return 0, false
	}
	stop := pathEnd(s.text, end)
	if mentioning(s.text[host:end], s.text[end:stop]) {
		return 0, false
	}
	return end + len(strings.TrimRight(s.text[end:stop], "?!.,:*_~")), true
}

// target is where host and address end of the link whose address begins at start, and whether it may lead there: the host is allowed, the address is made
// of nothing but plain characters, and the given one closes it.
func (s *scanner) target(start int, closing byte) (host, end int, ok bool) {
	if !strings.HasPrefix(s.text[start:], prefix) {
		return 0, 0, false
	}
	name := start + len(prefix)
	host = hostEnd(s.text, name)
	end = pathEnd(s.text, host)
	ok = end < len(s.text) && s.text[end] == closing && s.allowed.allow(s.text[name:host]) && !mentioning(s.text[name:host], s.text[host:end])
	return host, end, ok
}

// enclosed is a target in Markdown. Where a backslash keeps its brackets from being any, it may be taken for an address in the text.
func (s *scanner) enclosed(start int, closing byte) (end int, ok bool) {
	host, end, ok := s.target(start, closing)
	return end, ok && (host < end || s.settled(end, false))
}

// hostEnd is where the host ends that begins at start.
func hostEnd(text string, start int) int {
	for at := start; at < len(text); at++ {
		if c := text[at]; !asciiLetter(c) && !asciiDigit(c) && c != '-' && c != '.' {
			return at
		}
	}
	return len(text)
}

// pathEnd is where path, query and fragment end that begin at start, as far as they are made of characters that mean themselves in every format
// and hold no other address.
func pathEnd(text string, start int) int {
	if start == len(text) || strings.IndexByte("/?#", text[start]) < 0 {
		return start
	}
	for at := start; at < len(text); at++ {
		c := text[at]
		plain := asciiLetter(c) || asciiDigit(c)
		switch c {
		case '-', '.', '_', '~', '/', '?', '#', '=', '+', ',':
			plain = true
		case '%':
			plain = at+2 < len(text) && hexDigit(text[at+1]) && hexDigit(text[at+2])
		case '&':
			plain = !entity(text[at:])
		case ':':
			plain = !strings.HasPrefix(text[at:], authority)
		}
		if !plain {
			return at
		}
	}
	return len(text)
}

func hexDigit(c byte) bool {
	return asciiDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// closers may stand between a link and the blank behind it.
const closers = ".,;:!?)]}>\"'*_~|`"

// settled says whether nothing that stands behind a host, which ends at end, can be read as more of it. There are parsers that take all for the address
// up to the next blank; in "https://good.example)x@evil.example/" they and a browser find another host than one sees. In a label, the target of the label
// may follow.
func (s *scanner) settled(end int, inLabel bool) bool {
	if end == len(s.text) || strings.IndexByte("/?#", s.text[end]) >= 0 {
		return true
	}
	rest := strings.TrimLeft(s.text[end:], closers)
	if blankFirst(rest) {
		return true
	}
	behind := len(s.text) - len(rest)
	if !s.markup || !inLabel || rest[0] != '(' || s.text[behind-1] != ']' {
		return false
	}
	_, ok := s.enclosed(behind+1, ')')
	return ok
}

// blankFirst says whether text is empty or begins with what ends an address in every parser.
func blankFirst(text string) bool {
	return text == "" || text[0] == ' ' || text[0] == '\n' || text[0] == '\t'
}

// boundaries may stand before a name of a host or a mailbox that is left as it is.
const boundaries = " \t\n([{<\"'*|,;"

// mailbox passes an e-mail address at an allowed host, and says whether one comes next.
func (s *scanner) mailbox(word, rest string) bool {
	if len(rest) == 0 || rest[0] != '@' || s.at > 0 && !s.after(boundaries) || strings.Contains(strings.ToLower(word), world) {
		return false
	}
	for at := range len(word) {
		if word[at] >= utf8.RuneSelf {
			return false
		}
	}
	start := s.at + len(word) + 1
	end := start + len(strings.TrimRight(s.text[start:hostEnd(s.text, start)], "."))
	behind := strings.TrimLeft(s.text[end:], closers)
	if !s.allowed.allow(s.text[start:end]) || !blankFirst(behind) {
		return false
	}
	s.at = end
	return true
}

// host deals with a word that may be the name of a host, where the target makes links of such.
func (s *scanner) host(word string) {
	end := s.at + len(word)
	name := strings.TrimRight(word, "._+-")
	if !strings.Contains(name, ".") {
		s.at = end
		return
	}
	if (s.at == 0 || s.after(boundaries)) && s.allowed.allow(name) && s.settled(s.at+len(name), false) {
		s.at = end
		return
	}
	for s.at < end {
		dot := strings.IndexByte(s.text[s.at:end], '.')
		if dot < 0 {
			break
		}
		s.at += dot
		s.dot(end)
	}
	s.at = end
}

// dot deals with a dot, which may be one of the name of a host that goes on no further than to end. What is no word can be before it: there are hosts
// whose names are emoji.
func (s *scanner) dot(end int) {
	before, _ := utf8.DecodeLastRuneInString(s.text[:s.at])
	if s.at == 0 || unicode.IsSpace(before) || !topLevel(s.text[s.at+1:end]) {
		s.pass(1)
		return
	}
	s.join()
	s.pass(1)
	s.join()
}

// topLevel says whether the letters that begin text could be those that a name of a host ends in.
func topLevel(text string) bool {
	const lettersMin = 2
	letters, end := 0, len(text)
	for at, r := range text {
		if !unicode.IsLetter(r) && !unicode.IsMark(r) {
			end = at
			break
		}
		letters++
	}
	return letters >= lettersMin && !slices.Contains(notTopLevel, strings.ToLower(text[:end]))
}

// web keeps a word from being a link by its "www.", which is one without a scheme, by http.
func (s *scanner) web(word string) {
	start, end := s.at, s.at+len(word)
	for dot := start; dot < end; dot++ {
		at := dot + 1 - len(world)
		if s.text[dot] != '.' || at < start || !strings.EqualFold(s.text[at:dot+1], world) {
			continue
		}
		before, _ := utf8.DecodeLastRuneInString(s.text[start:at])
		if at == start || !unicode.IsLetter(before) && !unicode.IsNumber(before) {
			s.at = dot
			s.join()
		}
	}
	s.at = end
}
