package harmless

import (
	"slices"
	"strings"
)

// mark deals with the signs of Markdown.
func (s *scanner) mark(r rune, size int) {
	switch r {
	case '!':
		crossing := s.crossing()
		s.pass(1)
		if crossing || s.next(0) == '[' { // an image, from whichever host
			s.join()
		}
	case '#':
		crossing := s.crossing()
		s.pass(1)
		if crossing {
			s.join()
		}
	case '[':
		s.bracket = s.at
		s.pass(1)
		if s.next(0) == '~' && asciiLetter(s.next(1)) { // a mention in the older markup of Jira
			s.join()
		}
	case ']':
		s.closeBracket()
	case '&':
		act := entity(s.text[s.at:]) || s.crossing()
		s.pass(1)
		if act {
			s.join()
		}
	case '\\':
		s.pass(1)
		if s.macro() {
			s.join()
		}
	case '`', '~':
		s.fence(byte(r))
	default:
		s.pass(size)
	}
}

// crossing says whether the sign that comes next refers to an issue, a merge request or an epic of another place, as in "owner/name#1", "name#1" and
// "group/name!1": GitHub and GitLab show such a reference there, too. One without a name before it is of the same place, and stays.
func (s *scanner) crossing() bool {
	if s.at == 0 || !asciiDigit(s.next(1)) {
		return false
	}
	before := s.text[s.at-1]
	return asciiLetter(before) || asciiDigit(before) || strings.IndexByte("_-./", before) >= 0
}

// closeBracket deals with "]", which makes a link of what is before it by what is behind it.
func (s *scanner) closeBracket() {
	bracket := s.bracket
	s.bracket = -1 // the next "]" has another partner
	switch s.next(1) {
	case '(':
		if end, ok := s.enclosed(s.at+len("]("), ')'); ok {
			s.pass(end + 1 - s.at)
			return
		}
	case ':':
		if !s.definition(bracket) {
			s.pass(1)
			return
		}
	case '[':
	default:
		s.pass(1)
		return
	}
	s.pass(1)
	s.join()
}

// definition says whether the "]:" that comes next may end the label of a link's definition. It does not where the "[" stands behind a word, as in code, and
// not where it is a footnote whose text cannot be the address of a link.
func (s *scanner) definition(bracket int) bool {
	if bracket < 0 {
		return true
	}
	if bracket > 0 {
		if before := s.text[bracket-1]; asciiLetter(before) || asciiDigit(before) {
			return false
		}
	}
	return !s.footnote(bracket)
}

// footnote says whether the "]:" that comes next ends the label of a footnote, at the beginning of a line, with words behind it that no parser without
// footnotes can take for an address and a title.
func (s *scanner) footnote(bracket int) bool {
	label := s.text[bracket+1 : s.at]
	if !strings.HasPrefix(label, "^") || strings.ContainsAny(label, " \t\\") || bracket > 0 && s.text[bracket-1] != '\n' {
		return false
	}
	line, _, _ := strings.Cut(s.text[s.at+len("]:"):], "\n")
	if !strings.HasPrefix(line, " ") {
		return false
	}
	words := strings.Fields(line)
	return len(words) > 1 && words[0][0] != '<' && strings.IndexByte(`"'(`, words[1][0]) < 0
}

// entity says whether text begins with an entity, named or numbered. A number needs no semicolon: HTML takes it without.
func entity(text string) bool {
	rest := text[len("&"):]
	if number, found := strings.CutPrefix(rest, "#"); found {
		number = strings.TrimLeft(number, "xX")
		return number != "" && (asciiDigit(number[0]) || asciiLetter(number[0]))
	}
	at := 0
	for at < len(rest) && (asciiLetter(rest[at]) || asciiDigit(rest[at])) {
		at++
	}
	return at > 0 && at < len(rest) && rest[at] == ';' && asciiLetter(rest[0])
}

// macros are those of TeX that make links, images and HTML, or names of macros.
var macros = []string{"csname", "href", "html", "includegraphics", "url"}

// macro says whether the name of one of macros comes next.
func (s *scanner) macro() bool {
	rest := s.text[s.at:]
	return slices.ContainsFunc(macros, func(name string) bool { return strings.HasPrefix(rest, name) })
}

// fenceMin is how many backticks or tildes open a block of code.
const fenceMin = 3

// codeLanguages are what code in a block may be said to be. Others may be drawn, loaded or applied instead of being shown, as "mermaid", "math", "geojson",
// "json:table" and "suggestion".
var codeLanguages = []string{
	"asm", "awk", "bash", "bat", "c", "c#", "c++", "clojure", "cmake", "conf", "console", "cpp", "cs", "csharp", "css", "csv", "dart", "diff", "docker",
	"dockerfile", "elixir", "erlang", "fish", "fsharp", "go", "golang", "gomod", "gradle", "graphql", "groovy", "haskell", "hcl", "html", "http", "ini", "java",
	"javascript", "js", "json", "json5", "jsonc", "jsx", "julia", "kotlin", "less", "log", "lua", "make", "makefile", "markdown", "md", "nginx", "nix", "none",
	"objc", "ocaml", "perl", "php", "plain", "plaintext", "powershell", "properties", "proto", "protobuf", "ps1", "py", "python", "r", "rb", "regex", "rs",
	"ruby", "rust", "sass", "scala", "scss", "sh", "shell", "sql", "swift", "terraform", "text", "tf", "toml", "ts", "tsx", "txt", "typescript", "vim", "vue",
	"xml", "yaml", "yml", "zig", "zsh",
}

// fence deals with a run of sign, which may open a block of code, and with what that is said to be. Where in the line it stands is not looked at.
func (s *scanner) fence(sign byte) {
	start := s.at
	for s.at < len(s.text) && s.text[s.at] == sign {
		s.pass(1)
	}
	if s.at-start < fenceMin {
		return
	}
	rest := s.text[s.at:]
	if sign == '`' {
		if within := strings.IndexAny(rest, "`\n"); within >= 0 && rest[within] == '`' {
			return // code within the line
		}
	}
	info := strings.TrimLeft(rest, " \t")
	if end := strings.IndexAny(info, " \t\n"); end >= 0 {
		info = info[:end]
	}
	if info == "" || slices.Contains(codeLanguages, strings.ToLower(info)) {
		return
	}
	s.pass(len(rest) - len(strings.TrimLeft(rest, " \t")))
	s.join()
}
