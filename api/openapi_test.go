package api_test

import (
	"flag"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write openapi/openapi.yaml anew")

const goldenFile = "../openapi/openapi.yaml"

func TestOpenAPIIsTheOneInTheRepository(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil, io.Discard)
	t.Cleanup(func() { a.Close(t.Context()) })
	document, err := a.OpenAPI()
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(goldenFile, document, 0o644))
	}
	golden, err := os.ReadFile(goldenFile)
	require.NoError(t, err, "run go test ./api -run OpenAPI -update")
	require.Equal(t, string(golden), string(document), "the contract changed: run go test ./api -run OpenAPI -update, and say so in openapi/CHANGELOG.md")
}

func TestDocsNeedNoNetwork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	page := b.call("", "GET", "/docs", nil).is(200)
	require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
	require.Contains(t, page.header.Get("Content-Security-Policy"), "default-src 'none'")
	text := string(page.body)
	require.NotContains(t, text, "<script")
	require.Empty(t, regexp.MustCompile(`(?:src|href|action)="(?:https?:)?//`).FindAllString(text, -1))
	require.Empty(t, regexp.MustCompile(`@import|url\(`).FindAllString(text, -1))
	for _, r := range b.api.Routes() {
		method, path, _ := strings.Cut(r.Pattern, " ")
		if strings.HasPrefix(path, "/v1/") {
			require.Regexp(t, `<b class="m">`+method+`</b> <span class="path">`+regexp.QuoteMeta(path)+`</span>`, text)
		}
	}
	require.Contains(t, string(b.call("", "GET", "/openapi.yaml", nil).is(200).body), "openapi: 3.1.0")
	require.Equal(t, "3.1.0", b.call("", "GET", "/openapi.json", nil).is(200).text("openapi"))
}
