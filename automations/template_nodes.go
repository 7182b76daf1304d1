package automations

import (
	"errors"
	"strings"
	"unicode"

	"github.com/osteele/liquid/expressions"
	"github.com/osteele/liquid/parser"
)

// A node is a part of a template that renders itself.
type node interface {
	render(r *run) error
}

// How a break and a continue leave the nodes of a loop's body.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

// A value is an expression of a template with where it stands.
type value struct {
	expr   expressions.Expression
	source string
	line   int
	scans  bool // it compares or searches, so its work grows with the data
}

type (
	textNode   string
	outputNode struct{ value }
	assignNode struct {
		name string
		value
	}
	captureNode struct {
		name string
		body []node
	}
	branch struct {
		test *value // nil: always
		body []node
	}
	ifNode   struct{ branches []branch }
	caseNode struct {
		on    value
		whens []whenBranch
	}
	whenBranch struct {
		values []value // nil: always
		body   []node
	}
	forNode struct {
		name          string
		over          value
		limit, offset *value
		reversed      bool
		body, orElse  []node
	}
	leaveNode struct{ err error }
)

// A builder makes nodes of the library's syntax tree.
type builder struct {
	*checker
	loops int // how many for bodies it stands in
}

func (b *builder) build(tree parser.ASTNode) []node {
	switch tree := tree.(type) {
	case *parser.ASTSeq:
		return b.sequence(tree.Children)
	default:
		return b.sequence([]parser.ASTNode{tree})
	}
}

// sequence builds siblings, and applies the hyphens of {{- -}} and {%- -%} to the literal text beside them. A value is
// never trimmed.
func (b *builder) sequence(trees []parser.ASTNode) []node {
	var nodes []node
	trimNext := false
	for _, tree := range trees {
		switch tree := tree.(type) {
		case *parser.ASTTrim:
			if tree.TrimDirection == parser.Right {
				trimNext = true
				continue
			}
			if i := len(nodes) - 1; i >= 0 {
				if text, ok := nodes[i].(textNode); ok {
					nodes[i] = textNode(strings.TrimRightFunc(string(text), unicode.IsSpace))
				}
			}
			continue
		case *parser.ASTText:
			text := tree.Source
			if trimNext {
				text = strings.TrimLeftFunc(text, unicode.IsSpace)
			}
			nodes = append(nodes, textNode(text))
		case *parser.ASTRaw:
			nodes = append(nodes, textNode(strings.Join(tree.Slices, "")))
		case *parser.ASTObject:
			nodes = append(nodes, outputNode{b.value(tree.Args, tree.Token)})
		case *parser.ASTTag:
			nodes = append(nodes, b.tag(tree))
		case *parser.ASTBlock:
			nodes = append(nodes, b.block(tree))
		}
		trimNext = false
	}
	return nodes
}

func (b *builder) tag(tree *parser.ASTTag) node {
	switch tree.Name {
	case "assign":
		stmt, err := parseStatement(expressions.AssignStatementSelector, tree.Args)
		if err != nil {
			b.report(tree.SourceLoc.LineNo, 1, "syntax error in {%% assign %%}")
			return textNode("")
		}
		return assignNode{stmt.Assignment.Variable, b.wrap(stmt.Assignment.ValueFn, tree.Args, tree.Token)}
	case "break", "continue":
		if b.loops == 0 {
			b.report(tree.SourceLoc.LineNo, 1, "%s stands outside of a for", tree.Name)
		}
		if tree.Name == "break" {
			return leaveNode{errBreak}
		}
		return leaveNode{errContinue}
	}
	b.report(tree.SourceLoc.LineNo, 1, "%s stands where it has no meaning", tree.Name)
	return textNode("")
}

func (b *builder) block(tree *parser.ASTBlock) node {
	switch tree.Name {
	case "capture":
		return captureNode{strings.TrimSpace(tree.Args), b.sequence(tree.Body)}
	case "case":
		return b.caseBlock(tree)
	case "for":
		return b.forBlock(tree)
	}
	test := b.value(tree.Args, tree.Token)
	if tree.Name == "unless" {
		test.expr = expressions.Not(test.expr)
	}
	n := ifNode{branches: []branch{{&test, b.sequence(tree.Body)}}}
	for _, clause := range tree.Clauses {
		next := branch{body: b.sequence(clause.Body)}
		if clause.Name == "elsif" {
			test := b.value(clause.Args, clause.Token)
			next.test = &test
		}
		n.branches = append(n.branches, next)
	}
	return n
}

func (b *builder) caseBlock(tree *parser.ASTBlock) node {
	n := caseNode{on: b.value(tree.Args, tree.Token)}
	n.on.scans = true
	for _, clause := range tree.Clauses {
		next := whenBranch{body: b.sequence(clause.Body)}
		if clause.Name == "when" {
			stmt, err := parseStatement(expressions.WhenStatementSelector, clause.Args)
			if err != nil {
				b.report(clause.SourceLoc.LineNo, 1, "syntax error in {%% when %%}")
				continue
			}
			for _, expr := range stmt.When.Exprs {
				next.values = append(next.values, b.wrap(expr, clause.Args, clause.Token))
			}
		}
		n.whens = append(n.whens, next)
	}
	return n
}

func (b *builder) forBlock(tree *parser.ASTBlock) node {
	stmt, err := parseStatement(expressions.LoopStatementSelector, tree.Args)
	if err != nil || stmt.Loop.Cols != nil {
		b.report(tree.SourceLoc.LineNo, 1, "syntax error in {%% for %%}; its modifiers are limit, offset and reversed")
		return textNode("")
	}
	b.loops++
	n := forNode{
		name: stmt.Loop.Variable, over: b.wrap(stmt.Loop.Expr, tree.Args, tree.Token),
		reversed: stmt.Loop.Reversed, body: b.sequence(tree.Body),
	}
	b.loops--
	if stmt.Loop.Limit != nil {
		limit := b.wrap(stmt.Loop.Limit, tree.Args, tree.Token)
		n.limit = &limit
	}
	if stmt.Loop.Offset != nil {
		offset := b.wrap(stmt.Loop.Offset, tree.Args, tree.Token)
		n.offset = &offset
	}
	for _, clause := range tree.Clauses {
		n.orElse = append(n.orElse, b.sequence(clause.Body)...)
	}
	return n
}

// value parses an expression that checkTokens has found to be well formed.
func (b *builder) value(source string, tok parser.Token) value {
	expr, err := parseExpression(source)
	if err != nil {
		b.report(tok.SourceLoc.LineNo, 1, "syntax error in %s", quoted(source))
		expr = expressions.Constant(nil)
	}
	return b.wrap(expr, source, tok)
}

// trialWorkMax bounds the evaluation without data.
const trialWorkMax = 1000

// wrap makes a value, and finds a filter with too few or too many arguments by evaluating it once without data.
func (b *builder) wrap(expr expressions.Expression, source string, tok parser.Token) value {
	v := value{
		expr: expr, source: source, line: tok.SourceLoc.LineNo,
		scans: strings.ContainsAny(source, "=!<>") || strings.Contains(source, "contains"),
	}
	r := newRun(&template{place: b.place, filters: b.filters}, nil, trialWorkMax)
	if _, err := r.eval(v); err != nil && r.misuse != "" {
		b.report(v.line, 1, "%s", r.misuse)
	}
	return v
}

// A grammar tells the library's parser which tags enclose what.
type grammar struct{}

// A blockSyntax is a tag that encloses something, ends it, or divides it.
type blockSyntax struct {
	name    string
	parents []string // of a clause
}

var blocks = map[string]*blockSyntax{
	"capture": {name: "capture"}, "endcapture": {name: "endcapture"},
	"case": {name: "case"}, "when": {name: "when", parents: []string{"case"}}, "endcase": {name: "endcase"},
	"comment": {name: "comment"}, "endcomment": {name: "endcomment"},
	"else": {name: "else", parents: []string{"case", "for", "if", "unless"}},
	"for":  {name: "for"}, "endfor": {name: "endfor"},
	"if": {name: "if"}, "elsif": {name: "elsif", parents: []string{"if", "unless"}}, "endif": {name: "endif"},
	"raw": {name: "raw"}, "endraw": {name: "endraw"},
	"unless": {name: "unless"}, "endunless": {name: "endunless"},
}

// BlockSyntax is part of the library's Grammar.
func (grammar) BlockSyntax(name string) (parser.BlockSyntax, bool) {
	b, ok := blocks[name]
	if !ok {
		return nil, false
	}
	return b, true
}

// CanHaveParent is part of the library's BlockSyntax, as are the methods below it.
func (b *blockSyntax) CanHaveParent(parent parser.BlockSyntax) bool {
	if parent == nil {
		return !b.RequiresParent()
	}
	if b.IsBlockEnd() {
		return b.name == "end"+parent.TagName()
	}
	for _, p := range b.parents {
		if p == parent.TagName() {
			return true
		}
	}
	return b.IsBlockStart()
}

func (b *blockSyntax) IsBlock() bool        { return true }
func (b *blockSyntax) IsBlockEnd() bool     { return strings.HasPrefix(b.name, "end") }
func (b *blockSyntax) IsBlockStart() bool   { return !b.IsBlockEnd() && !b.IsClause() }
func (b *blockSyntax) IsClause() bool       { return b.parents != nil }
func (b *blockSyntax) RequiresParent() bool { return b.IsBlockEnd() || b.IsClause() }
func (b *blockSyntax) TagName() string      { return b.name }

func (b *blockSyntax) ParentTags() []string {
	if b.IsBlockEnd() {
		return []string{strings.TrimPrefix(b.name, "end")}
	}
	return b.parents
}
