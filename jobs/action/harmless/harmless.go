// Package harmless makes text that a language model wrote harmless for the system that it is posted to.
//
// The model has read a stranger's payload and is taken to obey that stranger in everything. So nothing of its text may act: no image is loaded, no HTML
// is taken for HTML, no link leads to a host that the automation does not name, nobody is mentioned, no command is given, nothing is hidden from the
// reader's eye, and no cell of a spreadsheet becomes a formula. What stays is text.
//
// The work is done on the text, not on what a parser makes of it, since each target has a parser of its own and they differ in what is code and what is
// not. Where a dangerous construct begins, a word joiner (U+2060) is put into it: no parser reads it as a part of the construct, and no reader sees it.
// Word joiners are all that is added, but for the escapes of Slack and HTML; so what is done twice is as if it were done once.
//
// This holds in code too: code that is copied out of such a text may have word joiners in it after "@", "<" and "&".
//
// What must not enter: any knowledge of connectors, automations or runs. The package imports nothing of the house.
package harmless

import (
	"html"
	"strings"
	"unicode/utf8"
)

// The lengths, in runes, that a format has where Rules name none. Each is the smallest limit that is known of the format's targets.
const (
	markdownMax = 16_000 // 64,000 bytes at most: GitHub takes 65,536, and whether it counts characters or bytes is not said
	slackMax    = 3_000  // the text of a section block
	htmlMax     = 16_000 // as markdownMax, for Zendesk
	plainMax    = 16_000 // as htmlMax
	lineMax     = 255    // a title at GitHub and GitLab
)

// Rules say what a text may hold.
type Rules struct {
	// Links are the hosts that links may lead to, by https or by their name alone: "example.com" is that host, "*.example.com" is any below it, but not
	// itself. A pattern that CheckHost refuses allows nothing.
	Links []string
	// Max is how many runes the result may have, escapes and tags among them; the format's own limit if it is not above zero.
	Max int
}

// Markdown makes text harmless as CommonMark with the extensions of GitHub, GitLab and Linear.
//
// Names of hosts without a scheme ("evil.example") are left as they are, since those parsers make no links of them and they are everywhere in code.
func Markdown(text string, r Rules) string {
	return limited(clean(text), longest(r.Max, markdownMax), cutMark, func(text string) string {
		return scanned(text, style{markup: true}, hostsOf(r.Links))
	})
}

// Slack makes text harmless as mrkdwn, the text of a Slack message. It takes mrkdwn too: an escaped character counts as what it stands for, and
// a link as <https://host/path|label> stays one if its host is allowed.
func Slack(text string, r Rules) string {
	// What the escapes stand for, once: what a model has written with escapes is not escaped a second time.
	text = slackUnescaper.Replace(clean(text))
	return limited(text, longest(r.Max, slackMax), cutMark, func(text string) string {
		return scanned(text, style{bare: true, angled: true, escape: slackEscaper.Replace, link: slackLink}, hostsOf(r.Links))
	})
}

// HTML makes of plain text harmless HTML: paragraphs, line breaks and links to allowed hosts, and nothing else.
func HTML(text string, r Rules) string {
	return limited(clean(text), longest(r.Max, htmlMax), cutMark, func(text string) string {
		return paragraphs(text, style{bare: true, addresses: true, escape: html.EscapeString, link: htmlLink}, hostsOf(r.Links))
	})
}

// Plain makes text harmless as plain text: for targets that take it as it is, that find links in it by themselves, that take it for Markdown after all,
// or whose export is opened in a spreadsheet.
func Plain(text string, r Rules) string {
	return limited(clean(text), longest(r.Max, plainMax), cutMark, func(text string) string {
		return scanned(text, style{markup: true, bare: true, addresses: true, formulas: true}, hostsOf(r.Links))
	})
}

// Line makes of text a single line of at most runes, without blanks at its ends: a subject, a title, a label, a name. No link is allowed in it. Names of
// hosts without a scheme are left as they are, since a label must stay the same label.
func Line(text string, runes int) string {
	text = strings.Join(strings.Fields(clean(text)), " ")
	return limited(text, longest(runes, lineMax), ellipsis, func(text string) string {
		return scanned(text, style{markup: true, formulas: true}, nil)
	})
}

func longest(wanted, usual int) int {
	if wanted > 0 {
		return wanted
	}
	return usual
}

var (
	slackEscaper   = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	slackUnescaper = strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">")
)

// slackLink is a link as Slack documents it; label is escaped already.
func slackLink(url, label string) string {
	if label == "" {
		return "<" + slackEscaper.Replace(url) + ">"
	}
	return "<" + slackEscaper.Replace(url) + "|" + label + ">"
}

func htmlLink(url, _ string) string {
	url = html.EscapeString(url)
	return `<a href="` + url + `" rel="nofollow">` + url + `</a>`
}

// paragraphs are the parts of text between blank lines, each a paragraph whose lines are broken as the text's.
func paragraphs(text string, s style, allowed hosts) string {
	var out strings.Builder
	var lines []string
	flush := func() {
		if len(lines) > 0 {
			inside := scanned(strings.Join(lines, "\n"), s, allowed)
			out.WriteString("<p>" + strings.ReplaceAll(inside, "\n", "<br>\n") + "</p>\n")
			lines = lines[:0]
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.TrimSpace(line) == "" {
			flush()
			continue
		}
		lines = append(lines, line)
	}
	flush()
	return strings.TrimSuffix(out.String(), "\n")
}

// limited is what render makes of text, or of its beginning and mark where the whole would have more than the given number of runes. It is the text that
// is cut, not what was made of it: no escape, tag or link is ever cut through.
func limited(text string, runes int, mark string, render func(string) string) string {
	rate := 1.0 // how many runes are made of one
	if utf8.RuneCountInString(text) <= runes {
		out := render(text)
		have := utf8.RuneCountInString(out)
		if have <= runes {
			return out
		}
		rate = float64(have) / float64(utf8.RuneCountInString(text))
	}
	if runes < shortMax {
		mark = ellipsis
	}
	kept := cut(text, max(0, int(float64(runes)/rate)-utf8.RuneCountInString(mark)))
	// Each round takes away in proportion to what is too much, and twice as much beside that as the one before: there are few.
	for extra := 1; ; extra *= 2 {
		kept = strings.TrimRight(kept, " \t\n")
		out := render(kept + mark)
		have := utf8.RuneCountInString(out)
		if have <= runes {
			return out
		}
		if kept == "" {
			return ""
		}
		kept = cut(kept, max(0, utf8.RuneCountInString(kept)*runes/have-extra))
	}
}
