package outbound_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ways are what leads out of a process, by package: names of it, or all of it. A value of a type counts, a pointer that is handed in does not.
var ways = map[string][]string{
	"net": {
		"Dial", "DialTimeout", "Dialer", "DialTCP", "DialUDP", "DialIP", "DialUnix", "DefaultResolver", "Resolver", "LookupAddr", "LookupCNAME", "LookupHost", "LookupIP",
		"LookupMX", "LookupNS", "LookupPort", "LookupSRV", "LookupTXT", "ResolveIPAddr", "ResolveTCPAddr", "ResolveUDPAddr",
	},
	"net/http": {
		"Client", "DefaultClient", "DefaultTransport", "Get", "Head", "NewFileTransport", "Post", "PostForm", "Transport",
	},
	"crypto/tls":         {"Dial", "DialWithDialer", "Dialer"},
	"net/http/httputil":  {"NewSingleHostReverseProxy", "ReverseProxy"},
	"golang.org/x/net":   nil,
	"log/syslog":         nil,
	"net/rpc":            nil,
	"net/smtp":           nil,
	"os/exec":            nil,
	"plugin":             nil,
	"syscall":            {"Connect", "Exec", "ForkExec", "Sendto", "Socket", "StartProcess"},
	"os":                 {"StartProcess"},
	"unsafe":             nil,
	"google.golang.org":  nil,
	"github.com/aws":     nil,
	"cloud.google.com":   nil,
	"nhooyr.io":          nil,
	"github.com/gorilla": nil,
}

// quiet are the packages of others that connect to nothing of their own accord, and exits those that do. What is in neither is refused: whoever
// brings in a package has to say which it is.
var (
	quiet = []string{
		"cel.dev/cel-go", "code.dny.dev/ssrf", "github.com/alecthomas/kong", "github.com/aymanbagabas/go-udiff", "github.com/danielgtaylor/huma", "github.com/exaring/otelpgx",
		"github.com/google/uuid", "github.com/jackc/pgx/v5/pgtype", "github.com/osteele/liquid", "github.com/prometheus/client_golang/prometheus", "github.com/riverqueue",
		"github.com/santhosh-tekuri/jsonschema", "github.com/sony/gobreaker", "github.com/tink-crypto/tink-go", "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
		"go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/codes", "go.opentelemetry.io/otel/exporters/prometheus", "go.opentelemetry.io/otel/metric",
		"go.opentelemetry.io/otel/propagation", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/trace", "go.opentelemetry.io/otel/semconv",
		"golang.org/x/net/dns/dnsmessage", "golang.org/x/net/idna", "golang.org/x/net/publicsuffix", "golang.org/x/sync", "golang.org/x/text", "golang.org/x/crypto", "golang.org/x/sys",
	}
	quietItself = "go.opentelemetry.io/otel" // but not all that is below it
	exits       = map[string][]string{       // by the rooms that may have them
		"github.com/golang-migrate/migrate":        {"db", "migrations"},
		"github.com/jackc/pgx/v5":                  {"api", "cmd/sluice", "db", "db/dbtest", "jobs", "migrations"},
		"github.com/testcontainers":                {"db/dbtest"},
		"go.opentelemetry.io/otel/exporters/otlp/": {"telemetry"},
	}
)

// doors are the files that may hold a way out, by how their names begin, and why. Everything else goes through this package.
var doors = map[string]string{
	"jobs/outbound/":       "this is the door",
	"jobs/action/smtp.go":  "speaks SMTP over a connection that the door has made",
	"cmd/sluice/bench":     "measures a service from outside",
	"cmd/sluice/dev":       "is the demonstration's own client",
	"cmd/sluice/health.go": "asks the service on this machine how it is",
	"cmd/sluice/send.go":   "sends an event as a service of others would, for people",
	"db/dbtest/":           "starts databases for tests",
	"db/embedded/":         "starts a database on a developer's machine",
	"scripted/":            "plays the services of others, for tests and development",
}

// exitsOf are the ways out of one file.
func exitsOf(parsed *ast.File, room string) (found []string) {
	names := map[string]string{} // of packages in this file
	for _, spec := range parsed.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = imported
		within := func(prefix string) bool {
			return imported == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(imported, strings.TrimSuffix(prefix, "/")+"/")
		}
		if strings.Contains(strings.Split(imported, "/")[0], ".") {
			if imported != quietItself && !slices.ContainsFunc(quiet, within) && !slices.ContainsFunc(keys(exits), func(e string) bool { return within(e) && slices.Contains(exits[e], room) }) {
				found = append(found, "imports "+imported)
			}
			continue
		}
		if members, way := ways[imported]; way && members == nil || name == "." && way {
			found = append(found, "imports "+imported)
		}
	}
	pointers := map[ast.Expr]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.StarExpr:
			pointers[n.X] = true
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok && !pointers[n] && slices.Contains(ways[names[pkg.Name]], n.Sel.Name) {
				found = append(found, "has "+names[pkg.Name]+"."+n.Sel.Name)
			}
		}
		return true
	})
	return found
}

func keys[V any](m map[string]V) []string { return slices.Collect(maps.Keys(m)) }

// excused says whether a file may have ways out.
func excused(file string) bool {
	return slices.ContainsFunc(keys(doors), func(prefix string) bool { return strings.HasPrefix(file, prefix) })
}

// There is one door: no file of the service can reach another machine but through this package, the drivers of the database and the exporters of telemetry.
func TestThereIsOneDoor(t *testing.T) {
	t.Parallel()
	const root = "../.."
	var wrong []string
	files, behind := 0, map[string]bool{}
	err := filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file, _ := filepath.Rel(root, at)
		file = filepath.ToSlash(file)
		if entry.IsDir() {
			if name := entry.Name(); at != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata" || name == "tools") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), at, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		found := exitsOf(parsed, path.Dir(file))
		if excused(file) {
			for prefix := range doors {
				behind[prefix] = behind[prefix] || len(found) > 0 && strings.HasPrefix(file, prefix)
			}
			return nil
		}
		for _, one := range found {
			wrong = append(wrong, file+" "+one)
		}
		return nil
	})
	require.NoError(t, err)
	require.Empty(t, wrong, "a way out that is not this package: go through it, or say in the tables of this file why not")
	require.Greater(t, files, 200, "the walk sees the house")
	for prefix := range doors {
		require.True(t, behind[prefix], "%s needs no excuse", prefix)
	}
}

// The scan finds what it is there for, in whatever dress it comes.
func TestOtherDoorsAreFound(t *testing.T) {
	t.Parallel()
	for source, ways := range map[string]int{
		`package x; import "net"; func f() { net.Dial("tcp", "x") }`:                                        1,
		`package x; import n "net"; var d n.Dialer`:                                                         1,
		`package x; import "net/http"; var c = http.Client{}`:                                               1,
		`package x; import "net/http"; var c = new(http.Client)`:                                            1,
		`package x; import "net/http"; func f(c *http.Client) {}`:                                           0,
		`package x; import "net/http"; type y struct{ c *http.Client }`:                                     0,
		`package x; import "net/http"; type y struct{ http.Client }`:                                        1,
		`package x; import "net/http"; func f() { http.Get("x"); http.Post("x", "", nil) }`:                 2,
		`package x; import h "net/http"; var t = h.DefaultTransport`:                                        1,
		`package x; import . "net/http"; var t = Get`:                                                       1,
		`package x; import "net/smtp"`:                                                                      1,
		`package x; import "crypto/tls"; func f() { tls.Dial("tcp", "x", nil); tls.Client(nil, nil) }`:      1,
		`package x; import "os/exec"; func f() { exec.Command("curl") }`:                                    1,
		`package x; import "net"; func f() { net.LookupHost("x"); net.Listen("tcp", ""); net.ParseIP("") }`: 1,
		`package x; import "github.com/aws/aws-sdk-go"`:                                                     1,
		`package x; import "github.com/jackc/pgx/v5/pgxpool"`:                                               1,
		`package x; import "golang.org/x/net/proxy"`:                                                        1,
		`package x; import "go.opentelemetry.io/otel"`:                                                      0,
		`package x; import "net/http"; func f(w http.ResponseWriter, r *http.Request) {}`:                   0,
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), "x.go", source, parser.SkipObjectResolution)
		require.NoError(t, err)
		require.Len(t, exitsOf(parsed, "api/source"), ways, source)
	}
}
