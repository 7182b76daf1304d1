package harmless_test

import (
	"bytes"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
	nethtml "golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

const joiner = "\u2060"

// parsers read Markdown as the targets do, one with footnotes and one without.
var parsers = []goldmark.Markdown{
	goldmark.New(goldmark.WithExtensions(extension.GFM)),
	goldmark.New(goldmark.WithExtensions(extension.GFM, extension.Footnote)),
}

// Patterns of what must not be in a text.
var (
	mentionRE = regexp.MustCompile(`[@＠﹫][\p{L}\p{N}_.]`)
	commandRE = regexp.MustCompile(`(?m)^(?:[\s>*+\-]|\d+[.)]\s)*/[A-Za-z]`)
	crossRE   = regexp.MustCompile(`[A-Za-z0-9_.-][#!&][0-9]`) // of another repository
	formulaRE = regexp.MustCompile(`(?m)(?:^|\t)[\s\x{00A0}\x{3000}]*[=+\-@＝＋－＠]`)
	greedyRE  = regexp.MustCompile(`(?i)(?:https?|ftp)://[^\s<]+`)
	webRE     = regexp.MustCompile(`(?i)(?:^|[^\p{L}\p{N}.])www\.`)
	bareRE    = regexp.MustCompile(`(?i)(?:[\p{L}\p{M}\p{N}\p{So}_-]+\.)+(?:com|net|org|zip|md|ws|la|example)`)
	slackRE   = regexp.MustCompile(`<([^<>|\n]*)(?:\|([^<>|\n]*))?>`)
	allowedRE = regexp.MustCompile(`https://(?i:good\.example|(?:[a-z0-9-]+\.)+ok\.example)(?:[/?#][\w\-.~/%?#=&+,:]*|[\s.,;:!?)\]}>"'*_~|` + "`" + `]|$)`)
	mailboxRE = regexp.MustCompile(`(^|[\s(\[{<"'*|,;\x{2060}])[\w.+-]+@(?i:good\.example|(?:[a-z0-9-]+\.)+ok\.example)(?:[\s.,;:!?)\]}>"'*_~|` + "`" + `]|$)`)
	escapedRE = regexp.MustCompile(`&(?:amp|lt|gt);`)
)

// drawn are the languages of code that some target does not show as code.
var drawn = []string{"mermaid", "math", "geojson", "topojson", "stl", "plantuml", "json:table", "suggestion"}

// good says, without the code under test, whether a link may lead to host.
func good(host string) bool {
	return host == "good.example" || strings.HasSuffix(host, ".ok.example") && host != ".ok.example"
}

// browsed is the address as a browser reads it, which takes a backslash for a slash, drops joiners, and does not mind a bad escape behind the host.
func browsed(address string) (*url.URL, error) {
	address = strings.ReplaceAll(strings.ReplaceAll(address, joiner, ""), `\`, "/")
	scheme, rest, found := strings.Cut(address, "://")
	if at := strings.IndexAny(rest, "/?#"); found && at >= 0 {
		address = scheme + "://" + rest[:at] + strings.ReplaceAll(rest[at:], "%", "_")
	}
	return url.Parse(address)
}

// linkFault is what is wrong with the address of a link.
func linkFault(address string, plain bool) string {
	parsed, err := browsed(address)
	if err != nil {
		return fmt.Sprintf("link to %q: %v", address, err)
	}
	if parsed.Scheme == "mailto" && plain {
		_, host, _ := strings.Cut(parsed.Opaque, "@")
		if good(host) {
			return ""
		}
	}
	if plain && strings.HasPrefix(address, "http://www.") {
		parsed.Scheme = "https" // what is made of the name alone
	}
	if parsed.Scheme != "https" || !good(parsed.Host) || parsed.User != nil {
		return fmt.Sprintf("link to %q", address)
	}
	return ""
}

// textFaults are the faults that no format may have.
func textFaults(out string) []string {
	var found []string
	if !utf8.ValidString(out) {
		found = append(found, "not UTF-8")
	}
	previous := rune(0)
	for at, r := range out {
		next, _ := utf8.DecodeRuneInString(out[at+utf8.RuneLen(r):])
		switch {
		case r == '\n' || r == '\t' || r == '\u2060':
		case r == '\u200D' && next > 0x2000 && previous > 0x2000: // within an emoji
		case r == '\uFE0F' && (previous > 0xA8 && previous != r || next == '\u20E3'):
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r) && !unicode.Is(unicode.Prepended_Concatenation_Mark, r),
			unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point, unicode.Zl, unicode.Zp):
			found = append(found, fmt.Sprintf("hidden character %U", r))
		}
		previous = r
	}
	if at := commandRE.FindString(out); at != "" {
		found = append(found, fmt.Sprintf("command %q", at))
	}
	return found
}

// greedyFaults are the faults that a parser finds which takes every character up to the next blank for a part of an address.
func greedyFaults(out string) []string {
	var found []string
	for _, run := range greedyRE.FindAllString(out, -1) {
		parsed, err := browsed(strings.TrimRight(strings.ReplaceAll(run, joiner, ""), ".,;:!?)]}>\"'*_~|`"))
		if err == nil && (!good(parsed.Host) || parsed.Scheme != "https") && !strings.ContainsAny(parsed.Hostname(), "[]<>^|%") { // which no browser takes in a host
			found = append(found, fmt.Sprintf("greedy link to %q", run))
		}
	}
	return found
}

// markdownFaults are the faults of text in Markdown, as it would be rendered with raw HTML.
func markdownFaults(out string, plain bool) []string {
	found := append(textFaults(out), greedyFaults(out)...)
	if at := webRE.FindString(allowedRE.ReplaceAllString(out, " ")); at != "" && !plain {
		found = append(found, "www.")
	}
	if at := crossRE.FindString(out); at != "" && !strings.Contains(out, "://") {
		found = append(found, fmt.Sprintf("reference %q", at))
	}
	source := []byte(out)
	for _, parser := range parsers {
		document := parser.Parser().Parse(text.NewReader(source))
		_ = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
			if !entering {
				return ast.WalkContinue, nil
			}
			fault := ""
			switch node := node.(type) {
			case *ast.Image:
				fault = fmt.Sprintf("image %q", node.Destination)
			case *ast.RawHTML, *ast.HTMLBlock:
				fault = "raw HTML"
			case *ast.Link:
				fault = linkFault(string(node.Destination), plain)
			case *ast.AutoLink:
				address := string(node.URL(source))
				if node.AutoLinkType == ast.AutoLinkEmail && !strings.HasPrefix(address, "mailto:") {
					address = "mailto:" + address
				}
				fault = linkFault(address, plain)
			case *ast.FencedCodeBlock:
				language := strings.ToLower(strings.ReplaceAll(html.UnescapeString(string(node.Language(source))), `\`, ""))
				if slices.Contains(drawn, language) {
					fault = "drawn as " + language
				}
			}
			if fault != "" {
				found = append(found, fault)
			}
			return ast.WalkContinue, nil
		})
		var rendered bytes.Buffer
		if err := parser.Renderer().Render(&rendered, source, document); err != nil {
			return append(found, err.Error())
		}
		found = append(found, renderedFaults(rendered.String(), plain)...)
	}
	return found
}

// renderedFaults are the mentions in the texts of a rendered page.
func renderedFaults(page string, plain bool) []string {
	var found []string
	for tokens := nethtml.NewTokenizer(strings.NewReader(page)); tokens.Next() != nethtml.ErrorToken; {
		token := tokens.Token()
		if token.Type == nethtml.TextToken && !plain {
			if at := mentionRE.FindString(html.UnescapeString(token.Data)); at != "" {
				found = append(found, fmt.Sprintf("mention %q", at))
			}
		}
		if token.DataAtom == atom.Img || token.DataAtom == atom.Script {
			found = append(found, "element "+token.Data)
		}
	}
	return found
}

// bareFaults are the hosts and plain in a text, that clients of mail and chat would make links of.
func bareFaults(text string, plain bool) []string {
	var found []string
	text = allowedRE.ReplaceAllString(text, " ")
	if plain {
		text = mailboxRE.ReplaceAllString(text, "$1 ")
	}
	for _, at := range bareRE.FindAllStringIndex(text, -1) {
		// What the pattern ends in may be the beginning of a longer label.
		host := strings.ToLower(text[at[0]:at[1]])
		if next, _ := utf8.DecodeRuneInString(text[at[1]:]); unicode.IsLetter(next) || !good(host) {
			found = append(found, fmt.Sprintf("host %q", text[at[0]:at[1]]))
		}
	}
	if at := mentionRE.FindString(text); at != "" {
		found = append(found, fmt.Sprintf("mention %q", at))
	}
	return found
}

func slackFaults(out string) []string {
	found := textFaults(out)
	rest := slackRE.ReplaceAllStringFunc(out, func(link string) string {
		parts := slackRE.FindStringSubmatch(link)
		if fault := linkFault(html.UnescapeString(parts[1]), false); fault != "" {
			found = append(found, fault)
		}
		return " " + parts[2] + " "
	})
	if strings.ContainsAny(rest, "<>") || strings.Contains(escapedRE.ReplaceAllString(rest, ""), "&") {
		found = append(found, fmt.Sprintf("not escaped: %q", rest))
	}
	rest = html.UnescapeString(rest)
	found = append(found, bareFaults(rest, false)...)
	return append(found, greedyFaults(rest)...)
}

func htmlFaults(out string) []string {
	found := textFaults(out)
	nodes, err := nethtml.ParseFragment(strings.NewReader(out), &nethtml.Node{Type: nethtml.ElementNode, Data: "body", DataAtom: atom.Body})
	if err != nil {
		return append(found, err.Error())
	}
	var visit func(node *nethtml.Node)
	visit = func(node *nethtml.Node) {
		switch {
		case node.Type == nethtml.TextNode && node.Parent != nil && node.Parent.DataAtom == atom.A:
			found = append(found, greedyFaults(node.Data)...)
		case node.Type == nethtml.TextNode:
			found = append(found, bareFaults(node.Data, true)...)
			found = append(found, greedyFaults(node.Data)...)
			if strings.Contains(node.Data, "://") {
				found = append(found, fmt.Sprintf("address in %q", node.Data))
			}
		case node.Type != nethtml.ElementNode:
			found = append(found, "neither element nor text")
		case node.DataAtom == atom.A && len(node.Attr) == 2 && node.Attr[0].Key == "href" && node.Attr[1] == nethtml.Attribute{Key: "rel", Val: "nofollow"}:
			if fault := linkFault(node.Attr[0].Val, false); fault != "" {
				found = append(found, fault)
			}
		case node.DataAtom != atom.P && node.DataAtom != atom.Br || len(node.Attr) > 0:
			found = append(found, "element "+node.Data)
		}
		for child := range node.ChildNodes() {
			visit(child)
		}
	}
	for _, node := range nodes {
		visit(node)
	}
	return found
}

func plainFaults(out string) []string {
	found := append(markdownFaults(out, true), bareFaults(out, true)...)
	if at := formulaRE.FindString(out); at != "" {
		found = append(found, fmt.Sprintf("formula %q", at))
	}
	return found
}

func lineFaults(out string) []string {
	found := markdownFaults(out, false)
	if strings.ContainsAny(out, "\r\n\t") || strings.TrimSpace(out) != out || strings.Contains(out, "  ") {
		found = append(found, "not a line")
	}
	if strings.Contains(out, "://") || formulaRE.MatchString(out) {
		found = append(found, "address or formula")
	}
	return found
}
