package embedded

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The major versions that are taken. 15 is the oldest that Sluice's schema is
// tested on.
const (
	majorMin = 15
	majorMax = 18
)

// binDirGlobs are the usual places of the server programs; of one glob the
// newest version is looked at first.
var binDirGlobs = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu, and their PGDG
	"/usr/pgsql-*/bin",          // Red Hat's PGDG
	"/usr/libexec/postgresql*",  // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// binaries is a directory with a server's programs.
type binaries struct {
	dir     string
	version string // "15.18"
	major   int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

func (b binaries) String() string { return "PostgreSQL " + b.version + " in " + b.dir }

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[.\w]*)`)

// binariesIn looks at a directory: both programs must be there, be open to the
// account, and run.
func binariesIn(ctx context.Context, dir string, account account) (binaries, error) {
	for _, program := range []string{"initdb", "postgres"} {
		path := filepath.Join(dir, program)
		info, err := os.Stat(path)
		if err != nil {
			return binaries{}, fmt.Errorf("look for a server: %w", err)
		}
		if info.IsDir() || !account.may(info, 1) {
			return binaries{}, fmt.Errorf("look for a server: user id %d cannot run %s", account.uid, path)
		}
	}
	if account.switched {
		if err := account.enters(dir); err != nil {
			return binaries{}, fmt.Errorf("look for a server in %s: %w", dir, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	path := filepath.Join(dir, "postgres")
	output, err := command(ctx, account, path, "--version").CombinedOutput()
	if err != nil {
		return binaries{}, fmt.Errorf("ask %s for its version: %w: %s", path, err, strings.TrimSpace(string(output)))
	}
	match := versionPattern.FindStringSubmatch(string(output))
	if match == nil {
		return binaries{}, fmt.Errorf("ask %s for its version: got %q", path, strings.TrimSpace(string(output)))
	}
	major, err := strconv.Atoi(match[2])
	if err != nil {
		return binaries{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return binaries{dir: dir, version: match[1], major: major}, nil
}

// find is the server to run. major is the version of the data that is there, 0
// for none.
func find(ctx context.Context, config Config, at *place, major int) (binaries, error) {
	if config.BinDir != "" {
		found, err := binariesIn(ctx, config.BinDir, at.account)
		if err != nil {
			return binaries{}, err
		}
		if found.major < majorMin {
			return binaries{}, fmt.Errorf("%s is too old: want %d or newer", found, majorMin)
		}
		if major != 0 && found.major != major {
			return binaries{}, unfitError(at, major, []binaries{found})
		}
		return found, nil
	}

	asked := major
	if config.Version != "" && config.Version != VersionFetch {
		asked, _ = strconv.Atoi(config.Version) // validated
		if major != 0 && asked != major {
			return binaries{}, fmt.Errorf("version %d was asked for, but %s holds the data of version %d, made by %s", asked, at.dataDir(), major, at.madeBy())
		}
	}
	var unfit []binaries
	if config.Version != VersionFetch {
		for _, dir := range candidates() {
			found, err := binariesIn(ctx, dir, at.account)
			if err != nil {
				continue // not a server we can run; the next may be
			}
			if found.major < majorMin || found.major > majorMax || (asked != 0 && found.major != asked) {
				unfit = append(unfit, found)
				continue
			}
			return found, nil
		}
	}
	if asked != 0 && asked != fetchedMajor {
		if major != 0 {
			return binaries{}, unfitError(at, major, unfit)
		}
		return binaries{}, fmt.Errorf("no PostgreSQL %d is installed, and only %s can be fetched; found %s", asked, fetchedVersion, list(unfit))
	}
	dir, err := fetch(ctx, config.CacheDir, at.account)
	if err != nil {
		return binaries{}, err
	}
	return binariesIn(ctx, dir, at.account)
}

func unfitError(at *place, major int, found []binaries) error {
	return fmt.Errorf("%s holds the data of PostgreSQL %d, made by %s, and only a server of that version can read it; found %s: install PostgreSQL %d, or remove %s to begin anew",
		at.dataDir(), major, at.madeBy(), list(found), major, at.dir)
}

func list(found []binaries) string {
	if len(found) == 0 {
		return "none"
	}
	var names []string
	for _, one := range found {
		names = append(names, one.String())
	}
	return strings.Join(names, ", ")
}

// candidates are the directories to look at, in order.
func candidates() []string {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, glob := range binDirGlobs {
		matches, err := filepath.Glob(glob)
		if err != nil {
			continue // the globs are constants; a test matches each
		}
		slices.SortFunc(matches, func(a, b string) int { return dirMajor(b) - dirMajor(a) })
		dirs = append(dirs, matches...)
	}
	return dirs
}

var digits = regexp.MustCompile(`\d+`)

// dirMajor is the version in a directory's name, 0 for none ("latest").
func dirMajor(dir string) int {
	major, err := strconv.Atoi(digits.FindString(strings.TrimPrefix(dir, "/usr/lib/")))
	if err != nil {
		return 0
	}
	return major
}
