package automations

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/osteele/liquid/expressions"
	"github.com/osteele/liquid/parser"
)

// templateFaultsMax bounds how many faults one template reports.
const templateFaultsMax = 20

// The names a template may read without making them.
var (
	promptRoots   = []string{"event", "payload"}
	fetchingRoots = []string{"event", "payload", "state"} // of the prompts of an automation that fetches
	actionRoots   = []string{"event", "payload", "output"}
)

// A template is a checked Liquid template. The scanner, the grammar and the expressions are the liquid library's. The tags,
// the filters and the rendering are ours, since the library's renderer has no hook for what is put out, no limits, reads
// files for include, and panics on some data.
type template struct {
	place   string
	nodes   []node
	filters []string // those it uses
	blank   bool     // it holds nothing but blanks
}

// tagNames are the tags a template may use.
var tagNames = []string{
	"assign", "break", "capture", "case", "comment", "continue", "else", "elsif", "endcapture", "endcase", "endcomment",
	"endfor", "endif", "endraw", "endunless", "for", "if", "raw", "unless", "when",
}

// A checker goes over the tokens of a template and collects every fault with its line and column, before anything is built.
type checker struct {
	place   string
	fault   faulter
	faults  int
	roots   []string        // names given to every template of this kind
	made    map[string]bool // names that the template itself makes
	filters []string
}

// compileTemplate answers the template, or nil where there was a fault.
func compileTemplate(place, source string, roots []string, fault faulter) *template {
	if len(source) > templateBytesMax {
		fault(place, "expected at most %d bytes, got %d", templateBytesMax, len(source))
		return nil
	}
	if !utf8.ValidString(source) {
		fault(place, "expected valid UTF-8")
		return nil
	}
	c := &checker{place: place, fault: fault, roots: roots, made: map[string]bool{}}
	tokens := parser.Scan(source, parser.SourceLoc{LineNo: 1}, nil)
	c.collectNames(tokens)
	c.checkTokens(tokens)
	if c.faults > 0 {
		return nil
	}
	tree, err := parse(source)
	if err != nil {
		c.report(max(err.LineNumber(), 1), 1, "%s", libraryMessage(err))
		return nil
	}
	b := builder{checker: c}
	t := &template{place: place, nodes: b.build(tree), filters: c.filters, blank: strings.TrimSpace(source) == ""}
	if c.faults > 0 {
		return nil
	}
	return t
}

func parse(source string) (parser.ASTNode, parser.Error) {
	cfg := parser.Config{Grammar: grammar{}}
	return cfg.Parse(source, parser.SourceLoc{LineNo: 1})
}

func (c *checker) report(line, column int, format string, args ...any) {
	if c.faults++; c.faults <= templateFaultsMax {
		c.fault(c.place, "%d:%d: %s", line, column, fmt.Sprintf(format, args...))
	}
}

// collectNames notes each name that an assign, capture or for makes, wherever it stands.
func (c *checker) collectNames(tokens []parser.Token) {
	for _, tok := range tokens {
		if tok.Type != parser.TagTokenType {
			continue
		}
		switch tok.Name {
		case "assign", "for":
			if parts := lexExpression(tok.Args); len(parts) > 0 && parts[0].kind == lexName {
				c.made[parts[0].text] = true
			}
		case "capture":
			c.made[strings.TrimSpace(tok.Args)] = true
		}
	}
}

// checkTokens checks each token on its own; how tags nest is the parser's to say.
func (c *checker) checkTokens(tokens []parser.Token) {
	line, column, skipTo := 1, 1, ""
	var opened [2]int
	for _, tok := range tokens {
		switch {
		case tok.Type == parser.TagTokenType && tok.Name == skipTo:
			skipTo = ""
		case skipTo != "":
		case tok.Type == parser.TextTokenType:
			c.checkText(tok.Source, line, column)
		case tok.Type == parser.ObjTokenType:
			c.checkExpression(tok.Args, line, column)
		case tok.Type == parser.TagTokenType:
			if tok.Name == "comment" || tok.Name == "raw" {
				skipTo, opened = "end"+tok.Name, [2]int{line, column}
			}
			c.checkTag(tok, line, column)
		}
		line, column = advance(tok.Source, line, column)
	}
	if skipTo != "" {
		c.report(opened[0], opened[1], "expected {%% %s %%} further down", skipTo)
	}
}

// checkText refuses delimiters that the scanner could not make a token of, and would show as text.
func (c *checker) checkText(text string, line, column int) {
	for _, delimiter := range []string{"{{", "{%"} {
		if before, _, ok := strings.Cut(text, delimiter); ok {
			l, col := advance(before, line, column)
			c.report(l, col, "%s does not begin a complete output or tag; to show it as text, put it in {%% raw %%}", delimiter)
		}
	}
}

// captureRE is the shape of a name that capture may make.
var captureRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (c *checker) checkTag(tok parser.Token, line, column int) {
	if !slices.Contains(tagNames, tok.Name) {
		what := "unknown tag " + quoted(tok.Name)
		if tok.Name == "include" || tok.Name == "render" {
			what = tok.Name + " is not available: a template stands alone"
		}
		c.report(line, column, "%s; available are %s", what, strings.Join(tagNames, ", "))
		return
	}
	switch tok.Name {
	case "if", "unless", "elsif", "case":
		c.checkExpression(tok.Args, line, column)
	case "when":
		c.checkStatement(expressions.WhenStatementSelector, tok, line, column)
	case "assign":
		c.checkStatement(expressions.AssignStatementSelector, tok, line, column)
		c.checkMade(tok, line, column)
	case "for":
		c.checkStatement(expressions.LoopStatementSelector, tok, line, column)
		c.checkMade(tok, line, column)
	case "capture":
		if name := strings.TrimSpace(tok.Args); !captureRE.MatchString(name) {
			c.report(line, column, "expected {%% capture name %%}")
		} else if c.reserved(name) {
			c.report(line, column, "%s is given and cannot be set", name)
		}
	}
}

// checkMade refuses a template that takes over a name that is given.
func (c *checker) checkMade(tok parser.Token, line, column int) {
	if parts := lexExpression(tok.Args); len(parts) > 0 && c.reserved(parts[0].text) {
		c.report(line, column, "%s is given and cannot be set", parts[0].text)
	}
}

func (c *checker) reserved(name string) bool {
	return name == "forloop" || name == "output" || slices.Contains(c.roots, name)
}

func (c *checker) checkStatement(selector string, tok parser.Token, line, column int) {
	if _, err := parseStatement(selector, tok.Args); err != nil {
		c.report(line, column, "syntax error in {%% %s %s %%}", tok.Name, cut(tok.Args, quotedRunesMax))
		return
	}
	c.checkNames(tok.Args, line, column)
}

func (c *checker) checkExpression(source string, line, column int) {
	if strings.TrimSpace(source) == "" {
		c.report(line, column, "expected an expression")
		return
	}
	if _, err := parseExpression(source); err != nil {
		c.report(line, column, "syntax error in %s", quoted(source))
		return
	}
	c.checkNames(source, line, column)
}

// parseExpression parses one expression. The library panics on a number that does not fit.
func parseExpression(source string) (expr expressions.Expression, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("parse %s: syntax error", quoted(source))
		}
	}()
	return expressions.Parse(source)
}

func parseStatement(selector, source string) (stmt *expressions.Statement, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("parse %s: syntax error", quoted(source))
		}
	}()
	return expressions.ParseStatement(selector, source)
}

// advance answers the position after text. A column counts characters.
func advance(text string, line, column int) (int, int) {
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		return line + strings.Count(text, "\n"), utf8.RuneCountInString(text[i+1:]) + 1
	}
	return line, column + utf8.RuneCountInString(text)
}

// libraryMessageRE takes what the library says from "Liquid error (line 3): what in {{ the source }}".
var libraryMessageRE = regexp.MustCompile(`^Liquid error(?: \(line \d+\))?: (?s:(.*?))(?: in \{[{%].*)?$`)

func libraryMessage(err error) string {
	if m := libraryMessageRE.FindStringSubmatch(err.Error()); m != nil {
		return m[1]
	}
	return err.Error()
}
