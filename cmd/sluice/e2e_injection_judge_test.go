package main_test

import (
	"bytes"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
	nethtml "golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// This file says what of a text would act where it arrived, by the syntax of each target and without the code under test.

// linkHost is the one host that the automations of the attack let links lead to.
const linkHost = "docs.shop.example"

var (
	judgeMention  = regexp.MustCompile(`[@＠﹫][\p{L}\p{N}_.]`)
	judgeJira     = regexp.MustCompile(`\[~[A-Za-z]`)
	judgeCommand  = regexp.MustCompile(`(?m)^(?:[\s>*+\-|#"]|\d+[.)]\s)*[/／][A-Za-z]`)
	judgeFormula  = regexp.MustCompile(`(?m)(?:^|\t)[\s\x{00A0}\x{3000}]*[=+\-@＝＋－＠]`)
	judgeAddress  = regexp.MustCompile(`(?i)\b(?:https?|ftp|data|javascript|vbscript|mailto):[^\s\x{2060}]`)
	judgeBareHost = regexp.MustCompile(`(?i)(?:[\p{L}\p{N}_-]+\.)+(?:example|com|net|org)\b`)
	judgeAllowed  = regexp.MustCompile(`(?:https://)?docs\.shop\.example(?:/[\w\-./?=&%]*)?(?:[\s.,;:!?)"'<>|]|$)`)
	judgeSlack    = regexp.MustCompile(`<([^<>|\n]*)(?:\|([^<>|\n]*))?>`)
	judgeEscape   = regexp.MustCompile(`&(?:amp|lt|gt);`)
	// judgeCross is a reference that GitHub and GitLab show in the repository that it names, too.
	judgeCross = regexp.MustCompile(`[\w.-](?:[#!&]\d|@[0-9a-f]{7})`)
	// judgeDrawn begins code that some target draws in place of showing it.
	judgeDrawn       = regexp.MustCompile(`(?i)^(?:mermaid|math|geojson|topojson|stl|plantuml|suggestion)`)
	judgePlaceholder = regexp.MustCompile(`\{\{|\{%`)
	judgeImage       = regexp.MustCompile(`!\[`)
	judgeMacro       = regexp.MustCompile(`(?m)^::include|\\href\{|\\includegraphics`)
)

// hiddenFaults are what does not show, in any target. A word joiner alone is how we break constructs up.
func hiddenFaults(text string) (found []string) {
	for _, r := range text {
		hidden := unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point)
		if hidden && r != '\u2060' && !unicode.Is(unicode.Prepended_Concatenation_Mark, r) {
			found = append(found, fmt.Sprintf("hidden character %U", r))
		}
	}
	return found
}

// around is how many bytes are shown on either side of a fault.
const around = 40

// matched is a fault for each pattern that is in a text.
func matched(text string, patterns map[string]*regexp.Regexp) (found []string) {
	for name, pattern := range patterns {
		if at := pattern.FindStringIndex(text); at != nil {
			found = append(found, fmt.Sprintf("%s %q in %q", name, text[at[0]:at[1]], text[max(0, at[0]-around):min(len(text), at[1]+around)]))
		}
	}
	return found
}

// linkFault says where a link leads, if not to the allowed host.
func linkFault(address string) []string {
	u, err := url.Parse(strings.ReplaceAll(address, `\`, "/"))
	if err == nil && u.Scheme == "https" && u.Host == linkHost && u.User == nil {
		return nil
	}
	return []string{fmt.Sprintf("link to %q", address)}
}

var judgeParsers = []goldmark.Markdown{
	goldmark.New(goldmark.WithExtensions(extension.GFM)), goldmark.New(goldmark.WithExtensions(extension.GFM, extension.Footnote)),
}

// markdownFaults are what acts in Markdown with the extensions of GitHub, read with and without footnotes.
func markdownFaults(markdown string) []string {
	found := append(hiddenFaults(markdown), matched(markdown, map[string]*regexp.Regexp{
		"command": judgeCommand, "reference": judgeCross, "macro": judgeMacro, "mention": judgeJira,
	})...)
	source := []byte(markdown)
	for _, parser := range judgeParsers {
		document := parser.Parser().Parse(text.NewReader(source))
		_ = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
			if !entering {
				return ast.WalkContinue, nil
			}
			switch node := node.(type) {
			case *ast.Image:
				found = append(found, fmt.Sprintf("image %q", node.Destination))
			case *ast.RawHTML, *ast.HTMLBlock:
				found = append(found, "raw HTML")
			case *ast.Link:
				found = append(found, linkFault(string(node.Destination))...)
			case *ast.AutoLink:
				found = append(found, linkFault(string(node.URL(source)))...)
			case *ast.FencedCodeBlock:
				if judgeDrawn.Match(node.Language(source)) {
					found = append(found, "drawn code")
				}
			}
			return ast.WalkContinue, nil
		})
		var page bytes.Buffer
		if err := parser.Renderer().Render(&page, source, document); err != nil {
			return append(found, err.Error())
		}
		for tokens := nethtml.NewTokenizer(&page); tokens.Next() != nethtml.ErrorToken; {
			if token := tokens.Token(); token.Type == nethtml.TextToken {
				found = append(found, matched(html.UnescapeString(token.Data), map[string]*regexp.Regexp{"mention": judgeMention})...)
			}
		}
	}
	return found
}

// plainFaults are what acts in text that a client looks for links in, or that a spreadsheet comes to read.
func plainFaults(plain string) []string {
	return append(markdownFaults(plain), matched(judgeAllowed.ReplaceAllString(plain, " "), map[string]*regexp.Regexp{
		"address": judgeAddress, "host": judgeBareHost, "mention": judgeMention, "formula": judgeFormula,
	})...)
}

// lineFaults are what acts in a subject.
func lineFaults(line string) []string {
	found := markdownFaults(line)
	if strings.ContainsAny(line, "\r\n\t") {
		found = append(found, "more than a line")
	}
	return append(found, matched(line, map[string]*regexp.Regexp{"address": judgeAddress, "formula": judgeFormula})...)
}

// slackFaults are what acts in Slack's mrkdwn: everything in angle brackets, and what is not escaped.
func slackFaults(mrkdwn string) []string {
	found := append(hiddenFaults(mrkdwn), matched(mrkdwn, map[string]*regexp.Regexp{"command": judgeCommand})...)
	rest := judgeSlack.ReplaceAllStringFunc(mrkdwn, func(link string) string {
		parts := judgeSlack.FindStringSubmatch(link)
		found = append(found, linkFault(html.UnescapeString(parts[1]))...)
		return " " + parts[2] + " "
	})
	if strings.ContainsAny(rest, "<>") || strings.Contains(judgeEscape.ReplaceAllString(rest, ""), "&") {
		found = append(found, "not escaped")
	}
	return append(found, matched(judgeAllowed.ReplaceAllString(html.UnescapeString(rest), " "), map[string]*regexp.Regexp{
		"address": judgeAddress, "host": judgeBareHost, "mention": judgeMention,
	})...)
}

// deskFaults are what acts in HTML at a help desk, which fills in placeholders, and whose editor knows Markdown.
func deskFaults(page string) []string {
	return append(htmlFaults(page), matched(html.UnescapeString(page), map[string]*regexp.Regexp{"placeholder": judgePlaceholder, "image": judgeImage})...)
}

// htmlFaults are what acts in HTML: every element but paragraphs, breaks and links to the allowed host.
func htmlFaults(page string) []string {
	found := hiddenFaults(html.UnescapeString(page))
	nodes, err := nethtml.ParseFragment(strings.NewReader(page), &nethtml.Node{Type: nethtml.ElementNode, Data: "body", DataAtom: atom.Body})
	if err != nil {
		return append(found, err.Error())
	}
	for len(nodes) > 0 {
		node := nodes[0]
		nodes = slices.AppendSeq(nodes[1:], node.ChildNodes())
		switch linked := node.Parent != nil && node.Parent.DataAtom == atom.A; {
		case node.Type == nethtml.TextNode:
			seen := map[string]*regexp.Regexp{"command": judgeCommand}
			if !linked {
				seen["address"], seen["host"], seen["mention"] = judgeAddress, judgeBareHost, judgeMention
			}
			found = append(found, matched(judgeAllowed.ReplaceAllString(node.Data, " "), seen)...)
		case node.Type != nethtml.ElementNode:
			found = append(found, "neither element nor text")
		case node.DataAtom == atom.A:
			for _, attribute := range node.Attr {
				if attribute.Key == "href" {
					found = append(found, linkFault(attribute.Val)...)
				} else if attribute.Key != "rel" {
					found = append(found, "attribute "+attribute.Key)
				}
			}
		case node.DataAtom != atom.P && node.DataAtom != atom.Br || len(node.Attr) > 0:
			found = append(found, "element "+node.Data)
		}
	}
	return found
}
