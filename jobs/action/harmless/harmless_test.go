package harmless_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/publicsuffix"
	"pgregory.net/rapid"

	"sluice/jobs/action/harmless"
)

// A format is one of the functions under test with what is wrong with its output.
type format struct {
	name   string
	make   func(text string, r harmless.Rules) string
	faults func(out string) []string
	same   bool // done twice is as done once
}

var formats = []format{
	{name: "Markdown", make: harmless.Markdown, faults: func(out string) []string { return markdownFaults(out, false) }, same: true},
	{name: "Slack", make: harmless.Slack, faults: slackFaults, same: true},
	{name: "HTML", make: harmless.HTML, faults: htmlFaults},
	{name: "Plain", make: harmless.Plain, faults: plainFaults, same: true},
	{name: "Line", make: func(text string, r harmless.Rules) string { return harmless.Line(text, r.Max) }, faults: lineFaults, same: true},
}

// check fails the test where a format leaves harm in text, is too long, or not the same when done twice.
func (f format) check(t require.TestingT, text string, r harmless.Rules) {
	out := f.make(text, r)
	require.Empty(t, f.faults(out), "%s of %q is %q", f.name, text, out)
	require.LessOrEqual(t, utf8.RuneCountInString(out), r.Max)
	if f.same {
		require.Equal(t, out, f.make(out, r), "%s of %q, done twice", f.name, text)
	}
}

func TestAttacksAreMadeHarmless(t *testing.T) {
	t.Parallel()
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, attack := range attacks {
				f.check(t, attack, rules)
				f.check(t, attack, harmless.Rules{Max: rules.Max})
				// Where it stands in a text changes nothing.
				f.check(t, "Some text "+attack, rules)
				f.check(t, "> - "+attack+"\n\n[b]", rules)
				f.check(t, "```go\n"+attack+"\n```\n"+attack, rules)
			}
		})
	}
}

// Everything that the attacks are made of, put together at random.
func TestNoMixtureOfAttacksDoesHarm(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"[", "]", "(", ")", "<", ">", "!", "@", "&", ";", ":", "/", "//", "://", "\\", "`", "```", "~~~", "*", "_", "~", "|", "#", "\"", "'", ".",
		",", "-", "+", "=",
		" ", "\n", "\t", "\r", "\n\n", "\u00a0", "\u200b", "\u200d", "\ufe0f", "\u2060", "\u0301", "\u3002", "\u2764", "\U0001f468", "\u4e2d", "^",
		"$", "{", "}", "1. ",
		"a", "x", "1", "user", "www.", "evil.com", "good.example", "a.ok.example", "http", "https", "https://", "https://good.example", "https://evil.com",
		"https://good.example/", "](", "](https://good.example)", "](https://good.example/x)", "<https://good.example>", "<https://good.example|",
		"]:", "[^1]:", "[b]: ",
		"<img src=x>", "<!--", "-->", "</p>", "<!channel>", "&lt;", "&gt;", "&amp;", "&#64;", "&commat;", "@user", "a@evil.com", "a@good.example",
		"mailto:", "javascript:",
		"![a](https://evil.com/x)", "/close", "::", "mermaid", "\\href", "=1", "[~",
	}
	sequence := rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 24)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				text := strings.Join(sequence.Draw(t, "pieces"), "")
				f.check(t, text, harmless.Rules{Links: rules.Links, Max: rapid.SampledFrom([]int{rules.Max, 1, 7, 40, 60}).Draw(t, "max")})
			})
		})
	}
}

func TestTextWithoutHarmIsLeftAlone(t *testing.T) {
	t.Parallel()
	everywhere := []string{
		"", "Hello, world.", "An umbrella costs 5 €; two cost 9.50 €!", "日本語のテキスト。句読点、も。", "Привет, мир",
		"مرحبا بالعالم", "नमस्ते दुनिया", "שלום", "e\u0301 n\u0303",
		"👍 👨‍👩‍👧‍👦 ❤️ 👩🏽‍💻 🏳️‍🌈 1️⃣ #️⃣ 🇩🇪 ©️", "AT and T", "issue #123", "5 @ 3 each",
		"either/or, 24/7", "main.go, x.json and e.g. v1.2.3", "10:30, note: this", "(x) [y] {z}",
		"See https://good.example/docs?a=b#c.", "https://good.example", "Deep: https://a.b.ok.example/x_y-z~1%20,2", "(https://good.example)",
		"At https://good.example.", "\"https://good.example\",",
	}
	cases := map[string][]string{
		"Markdown": append([]string{
			"# A heading\n\nSome *emphasis*, **more**, ~~gone~~ and `code`.\n\n---\n\nMore",
			"- one\n- two\n  - three\n* four\n+ five\n\n1. first\n2) second\n\n- [ ] open\n- [x] done",
			"| a | b |\n|---|:-:|\n| 1 | 2 |", "> a quote\n> > and another",
			"```go\nif a < b && c > d || e != f {\n\tx[i] = m[\"k\"] // a comment\n\ty := map[string]int{}\n}\n```", "~~~\nplain\n~~~",
			"Inline ```three``` and ``two``",
			"A claim.[^1]\n\n[^1]: Some text of a footnote.\n[^note]: More, with words.", "x[0]: the first", "a < b", "R&D, x & y &z, AT&T",
			"[label](https://good.example/x)", "[label](https://good.example), [b](https://a.ok.example).", "**[a](https://good.example)**",
			"| [a](https://good.example) |",
			"<https://good.example/x>", "[https://good.example](https://good.example)", "[**https://good.example**](https://good.example/x)",
			"Unix /etc/hosts and ./run.sh",
			"./run.sh\n../x", "//nolint:errcheck\n// comment\n/* x */", "=1 is no formula in Markdown", "evil.com is no link", "$x^2 + \\frac{a}{b}$",
			"Wow! [brackets]", "a!b",
			"{\"data\": 1, \"http\": null}", "data: x", "std::vector", "line one  \nline two\\\nline three", "Setext\n===\n\nTwo\n---",
			"C:\\dir\\file", "x@ y", "HTTP 1.1",
		}, everywhere...),
		"Slack": {"*bold* _it_ ~gone~ `code`", "```a = b```", "- item\n- item", "&lt;b&gt; &amp; c", "<https://good.example/x|label>",
			"<https://good.example>", "&gt; quote", "=1", "😀 ❤️", "#general"},
		"Plain": append([]string{"Dear customer,\n\nthanks.\n\n  Regards", "Write to help@good.example.", "good.example is ours", "(good.example)",
			"a < b", "1) x\n2) y"}, everywhere...),
		"Line": {
			"", "A title", "bug/ui", "priority: high", "README.md", "node.js", "日本語", "👨‍👩‍👧", "C++", "fix(api): do x", "a & b",
			"x[0]", "Order #5 (urgent)",
		},
	}
	for _, f := range formats {
		for _, text := range cases[f.name] {
			require.Equal(t, text, f.make(text, rules), f.name)
		}
	}
}

// An example says what becomes of a text; "·" stands for the joiner.
type example struct{ text, want string }

func requireExamples(t *testing.T, made func(string, harmless.Rules) string, examples []example) {
	t.Helper()
	for _, one := range examples {
		require.Equal(t, one.want, strings.ReplaceAll(made(one.text, rules), joiner, "·"), "%q", one.text)
	}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	requireExamples(t, harmless.Markdown, []example{
		{"@user", "@·user"},
		{"@@user", "@·@·user"},
		{"mail a@b.co", "mail a·@·b.co"},
		{"<img src=x>", "<·img src=x>"},
		{"![a](https://good.example/x.png)", "!·[a](https://good.example/x.png)"},
		{"[a](https://evil.com/)", "[a]·(https:·//evil.com/)"},
		{"[a](HTTPS://good.example/)", "[a]·(HTTPS:·//good.example/)"},
		{"https://good.eXAMPLE [a](https://GOOD.example/)", "https:·//good.eXAMPLE [a]·(https:·//GOOD.example/)"},
		{"[a](https://linear.app/x/profiles/y)", "[a]·(https:·//linear.app/x/profiles/y)"},
		{"[a][b]\n[b]: x", "[a]·[b]\n[b]·: x"},
		{"&#64;x &#64x &amp; &#; & &x", "&·#64;x &·#64x &·amp; &#; & &x"},
		{"www.x.y", "www·.x.y"},
		{"mailto:x", "mailto·:x"},
		{"- /close", "- ·/close"},
		{"//evil.com", "/·/evil.com"},
		{"``` mermaid", "``` ·mermaid"},
		{"\\href{x}", "\\·href{x}"},
		{"::include{x}", ":·:include{x}"},
		{"[~me]", "[·~me]"},
		{"a\r\nb\rc\u2028d", "a\nb\nc\nd"},
		{"\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3f4"},
		{"https://good.example/?u=https://evil.com", "https://good.example/?u=https:·//evil.com"},
		{"+https://good.example/", "+https:·//good.example/"},
		{"[a](https://good.example/%2f) [a](https://good.example/%zz)", "[a](https://good.example/%2f) [a]·(https://good.example/%zz)"},
		{"https://good.example。", "https:·//good.example。"},
		{"https://good.example/。", "https://good.example/。"},
	})
	linear := harmless.Rules{Links: []string{"linear.app"}}
	require.Equal(t, "https://linear.app/x/issue/y", harmless.Markdown("https://linear.app/x/issue/y", linear))
	require.NotContains(t, harmless.Markdown("https://linear.app/x/profiles/y", linear), "://")
	require.NotContains(t, harmless.Markdown("[a](https://linear.app/x/%70rofiles/y)", linear), "](")
}

func TestSlack(t *testing.T) {
	t.Parallel()
	requireExamples(t, harmless.Slack, []example{
		{"a & b <c>", "a &amp; b &lt;c&gt;"},
		{"a &amp; b &lt;c&gt;", "a &amp; b &lt;c&gt;"},
		{"<!channel> <@U1> <#C1>", "&lt;!channel&gt; &lt;·@·U1&gt; &lt;#C1&gt;"},
		{"&lt;!channel&gt;", "&lt;!channel&gt;"},
		{"@here", "@·here"},
		{"https://good.example/?a=b&c=d.", "<https://good.example/?a=b&amp;c=d>."},
		{"<https://good.example/?a=b&c=d|x & y>", "<https://good.example/?a=b&amp;c=d|x &amp; y>"},
		{"<https://evil.com|x>", "&lt;https:·//evil·.·com|x&gt;"},
		{"<https://good.example|https://evil.com>", "<https://good.example|https:·//evil·.·com>"},
		{"evil.com, x.go", "evil·.·com, x.go"},
	})
}

func TestHTML(t *testing.T) {
	t.Parallel()
	requireExamples(t, harmless.HTML, []example{
		{"", ""},
		{" \n\n ", ""},
		{"a\nb\n\n\n \nc", "<p>a<br>\nb</p>\n<p>c</p>"},
		{"<b>\"x\" & 'y'</b>", "<p>&lt;b&gt;&#34;x&#34; &amp; &#39;y&#39;&lt;/b&gt;</p>"},
		{"See https://good.example/?a=b&c=d.", `<p>See <a href="https://good.example/?a=b&amp;c=d" rel="nofollow">https://good.example/?a=b&amp;c=d</a>.</p>`},
		{"https://evil.com/\" onclick=x", "<p>https:·//evil·.·com/&#34; onclick=x</p>"},
		{"help@good.example, x@evil.com", "<p>help@good.example, x·@·evil·.·com</p>"},
	})
}

func TestPlain(t *testing.T) {
	t.Parallel()
	requireExamples(t, harmless.Plain, []example{
		{"=1+1", "·=1+1"},
		{"a\n - item\n\t@x", "a\n ·- item\n·\t·@·x"},
		{"a\t=1", "a\t·=1"},
		{"evil.com x.go good.example", "evil·.·com x.go good.example"},
		{"good.example。com", "good·.·example。com"},
		{"![a](x)", "!·[a]·(x)"},
		{"help@good.example help@evil.com", "help@good.example help·@·evil·.·com"},
	})
}

func TestLine(t *testing.T) {
	t.Parallel()
	requireExamples(t, func(text string, _ harmless.Rules) string { return harmless.Line(text, 0) }, []example{
		{"a\r\nBcc: x\n\n b\t c\u00a0d ", "a Bcc: x b c d"},
		{"\u202ex\u200b\x00", "x"},
		{"=1", "·=1"},
		{"@user: https://good.example", "·@·user: https:·//good.example"},
		{"/close", "·/close"},
		{strings.Repeat("a", 300), strings.Repeat("a", 254) + "…"},
	})
}

func TestLength(t *testing.T) {
	t.Parallel()
	texts := map[string]string{
		"words": strings.Repeat("one two ", 300), "marks": strings.Repeat("@user <b> & ", 300), "entities": strings.Repeat("&", 900),
		"family": strings.Repeat("👨‍👩‍👧", 200),
		"tower":  strings.Repeat("a"+strings.Repeat("\u0301", 30), 60), "links": strings.Repeat("https://good.example/x ", 90),
		"lines": strings.Repeat("\n", 900) + "x",
		"bytes": strings.Repeat("\xff日", 400), "chain": strings.Repeat("👩\u200d", 400) + "👩",
	}
	for _, f := range formats {
		for name, text := range texts {
			for _, limit := range []int{1, 2, 7, 8, 39, 40, 41, 100, 777, 100_000} {
				r := harmless.Rules{Links: rules.Links, Max: limit}
				out := f.make(text, r)
				where := f.name + " of " + name + " at " + strconv.Itoa(limit) + ": " + out
				require.LessOrEqual(t, utf8.RuneCountInString(out), limit, where)
				require.Empty(t, f.faults(out), where)
				if f.same {
					require.Equal(t, out, f.make(out, r), where)
				}
				if limit == 777 && name != "tower" && name != "lines" && name != "chain" {
					require.Greater(t, utf8.RuneCountInString(out), 680, where, "the room is used")
				}
			}
		}
	}
	within := func(made func(string, harmless.Rules) string, text string, limit int) string {
		return made(text, harmless.Rules{Max: limit})
	}
	require.Equal(t, strings.Repeat("one two ", 4)+"one [cut]", within(harmless.Markdown, texts["words"], 42))
	require.Equal(t, "one tw…", within(harmless.Plain, texts["words"], 7))
	require.Equal(t, "👨‍👩‍👧…", within(harmless.Plain, texts["family"], 9), "an emoji of several is not cut through")
	require.Equal(t, strings.Repeat("e\u0301", 3)+"…", within(harmless.Plain, strings.Repeat("e\u0301", 30), 8), "neither is a letter with its mark")
	require.Equal(t, "<p>"+strings.Repeat("&amp;", 4)+" [cut]</p>", within(harmless.HTML, texts["entities"], 45), "nor an escape or a tag")
	require.Equal(t, strings.Repeat("x", 40), within(harmless.Markdown, strings.Repeat("x", 40), 40), "what fits is whole")
	for _, f := range formats[:4] {
		require.Contains(t, f.make(strings.Repeat("word ", 10_000), harmless.Rules{}), "[cut]", "%s has a limit of its own", f.name)
	}
}

func TestRulesThatAreNotWellMadeAllowNothing(t *testing.T) {
	t.Parallel()
	for _, links := range [][]string{
		nil, {""}, {"*"}, {"*."}, {"."}, {"*.example"}, {"https://good.example"}, {"GOOD.example"}, {"good.example."}, {"*good.example"}, {"*.good.example"},
	} {
		require.NotContains(t, harmless.Markdown("https://good.example/x", harmless.Rules{Links: links}), "://", links)
	}
}

func TestCheckHost(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{
		"example.com", "*.example.com", "a.b-c.example.co.uk", "xn--bcher-kva.example", "github.io", "*.user.github.io", "wiki.internal", "*.corp.internal",
	} {
		require.NoError(t, harmless.CheckHost(pattern), pattern)
	}
	for _, pattern := range []string{
		"", "*", "*.", ".", "com", "*.com", "*.co.uk", "*.github.io", "localhost", "Example.com", "example.com.", ".example.com", "ex..com",
		"*.*.com", "a.*.com", "*example.com",
		"https://example.com", "example.com/", "example.com:443", "user@example.com", "127.0.0.1", "1.2", "0x7f.1", "[::1]", "example.1com",
		"bücher.example", "ex ample.com", "a_b.com",
		"-a.com", "a-.com", "example.com\n", "exa\u2060mple.com", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "com",
	} {
		require.Error(t, harmless.CheckHost(pattern), pattern)
	}
}

// The endings that make a file's name no host must not be those of hosts.
func TestEndingsOfFilesAreNoTopLevelDomains(t *testing.T) {
	t.Parallel()
	for _, ending := range harmless.NotTopLevel {
		_, known := publicsuffix.PublicSuffix("x." + ending)
		require.False(t, known, ending)
	}
	require.True(t, slices.IsSorted(harmless.NotTopLevel))
}
