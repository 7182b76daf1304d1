package sluice_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "sluice"

// A floor says what a room may import of the house.
type floor struct {
	mayImport []string
	built     bool // the room must be there
}

// floors is the table: imports fall one way, cmd > api > jobs > db > tenants.
var floors = map[string]floor{
	".":                      {built: true},
	"api":                    {mayImport: []string{"api/source", "automations", "db", "jobs", "jobs/action", "proof", "tenants"}, built: true},
	"api/source":             {built: true},
	"api/source/sourcetest":  {mayImport: []string{"api/source"}},
	"automations":            {built: true},
	"cmd/sluice":             {mayImport: []string{everything}, built: true},
	"db":                     {mayImport: []string{"proof", "tenants"}, built: true},
	"db/dbtest":              {mayImport: []string{"db", "db/embedded", "migrations", "tenants"}},
	"db/embedded":            {built: true},
	"jobs":                   {built: true, mayImport: []string{"automations", "db", "jobs/action", "jobs/llm", "jobs/outbound", "jobs/outbound/mail", "proof", "tenants"}},
	"jobs/action":            {mayImport: []string{"jobs/action/harmless", "jobs/outbound", "jobs/outbound/mail"}},
	"jobs/action/actiontest": {mayImport: []string{"scripted"}},
	"jobs/action/harmless":   {},
	"jobs/llm":               {mayImport: []string{"jobs/outbound"}, built: true},
	"jobs/outbound":          {mayImport: []string{"proof"}, built: true},
	"jobs/outbound/mail":     {mayImport: []string{"jobs/outbound"}},
	"migrations":             {built: true},
	"proof":                  {built: true},
	"scripted":               {},
	"telemetry":              {built: true},
	"tenants":                {built: true},
}

const everything = "*"

// bucketNames are package names that say nothing of what is inside (rule 15).
var bucketNames = []string{
	"base", "common", "constants", "core", "helper", "helpers", "internal",
	"misc", "models", "shared", "testutil", "testutils", "types", "util", "utils",
}

// A source file of ours: its room, its package and its imports of the house.
type file struct {
	path, room, name string
	imports          []string // rooms
}

// filesRead is every Go file of the module but those of other modules inside it.
func filesRead(t *testing.T) []file {
	t.Helper()
	var files []file
	err := filepath.WalkDir(".", func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			name := entry.Name()
			if at != "." && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata" || name == "tools") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(at) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), at, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		one := file{path: filepath.ToSlash(at), room: path.Dir(filepath.ToSlash(at)), name: parsed.Name.Name}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if imported == module {
				one.imports = append(one.imports, ".")
			} else if room, ours := strings.CutPrefix(imported, module+"/"); ours {
				one.imports = append(one.imports, room)
			}
		}
		files = append(files, one)
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// faults are the ways in which files break the table.
func faults(files []file, table map[string]floor) []string {
	var found []string
	seen := map[string]bool{}
	for _, one := range files {
		row, known := table[one.room]
		if !known && !seen[one.room] {
			found = append(found, one.room+" is not in the table of floors: say what it may import")
		}
		seen[one.room] = true
		for _, part := range append(strings.Split(one.room, "/"), strings.TrimSuffix(one.name, "_test")) {
			if slices.Contains(bucketNames, part) {
				found = append(found, one.path+": a package called "+part+" says nothing of what is in it")
			}
		}
		if !known || strings.HasSuffix(one.path, "_test.go") || slices.Contains(row.mayImport, everything) {
			continue
		}
		for _, room := range one.imports {
			if !slices.Contains(row.mayImport, room) {
				found = append(found, one.path+" imports "+room+", which "+one.room+" may not")
			}
		}
	}
	for room, row := range table {
		if row.built && !seen[room] {
			found = append(found, room+" is in the table of floors as built, but has no Go file")
		}
		for _, under := range row.mayImport {
			if _, known := table[under]; !known && under != everything {
				found = append(found, room+" may import "+under+", which is not in the table of floors")
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func TestImportsFallOneWay(t *testing.T) {
	t.Parallel()
	require.Empty(t, faults(filesRead(t), floors))
}

func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	table := map[string]floor{
		"api":  {mayImport: []string{"db"}, built: true},
		"cmd":  {mayImport: []string{everything}},
		"db":   {built: true},
		"gone": {built: true},
		"odd":  {mayImport: []string{"nowhere"}},
	}
	files := []file{
		{path: "api/a.go", room: "api", name: "api", imports: []string{"db"}},
		{path: "cmd/c.go", room: "cmd", name: "main", imports: []string{"api", "db"}},
		{path: "db/d.go", room: "db", name: "db", imports: []string{"api"}},
		{path: "db/d_test.go", room: "db", name: "db_test", imports: []string{"api"}},
		{path: "db/util/u.go", room: "db/util", name: "util"},
		{path: "db/x_test.go", room: "db", name: "helpers_test"},
	}
	require.Equal(t, []string{
		"db/d.go imports api, which db may not",
		"db/util is not in the table of floors: say what it may import",
		"db/util/u.go: a package called util says nothing of what is in it",
		"db/x_test.go: a package called helpers says nothing of what is in it",
		"gone is in the table of floors as built, but has no Go file",
		"odd may import nowhere, which is not in the table of floors",
	}, faults(files, table))
}
