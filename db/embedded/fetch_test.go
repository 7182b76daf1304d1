package embedded_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db/embedded"
)

// TestFetchedServerRuns downloads 24 MB, so it asks for SLUICE_TEST_FETCH=1.
func TestFetchedServerRuns(t *testing.T) {
	t.Parallel()
	if os.Getenv("SLUICE_TEST_FETCH") != "1" {
		t.Skip("SLUICE_TEST_FETCH is not 1")
	}
	place := dirMake(t)
	require.NoError(t, os.Chmod(place, 0o755))
	config := embedded.Config{
		CacheDir: filepath.Join(place, "cache"),
		Dir:      filepath.Join(place, "cluster"),
		Version:  embedded.VersionFetch,
	}
	cluster := start(t, config)
	require.Equal(t, "18.4", cluster.Version())
	requireAnswer(t, cluster.URL("postgres"), "create extension pgcrypto", "")
	requireAnswer(t, cluster.URL("postgres"), "create table kept as select 'here'::text as v", "")
	require.NoError(t, cluster.Stop(embedded.StopFast))

	entries, err := os.ReadDir(config.CacheDir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no half of a fetch is left")
	cluster = start(t, config)
	requireAnswer(t, cluster.URL("postgres"), "select v from kept", "here")
}

type entry struct {
	name, body, link string
	kind             byte
	mode             int64
}

func archive(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	writer := tar.NewWriter(zipped)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.body))}
		require.NoError(t, writer.WriteHeader(header))
		_, err := writer.Write([]byte(e.body))
		require.NoError(t, err)
	}
	require.NoError(t, writer.Close())
	require.NoError(t, zipped.Close())
	return &out
}

func TestUnpackMakesFilesAndLinks(t *testing.T) {
	t.Parallel()
	tree := filepath.Join(t.TempDir(), "tree")
	packed := archive(t,
		entry{name: "package/package.json", kind: tar.TypeReg, body: "{}"},
		entry{name: "package/native/bin/postgres", kind: tar.TypeReg, body: "#!/bin/sh", mode: 0o711},
		entry{name: "package/native/lib/libpq.so.5.18", kind: tar.TypeReg, body: "pq", mode: 0o600},
		entry{
			name: "package/native/pg-symlinks.json", kind: tar.TypeReg,
			body: `[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]`,
		},
	)
	require.NoError(t, embedded.Unpack(packed, tree))
	body, err := os.ReadFile(filepath.Join(tree, "lib", "libpq.so.5"))
	require.NoError(t, err)
	require.Equal(t, "pq", string(body))
	link, err := os.Readlink(filepath.Join(tree, "lib", "libpq.so.5"))
	require.NoError(t, err)
	require.Equal(t, "libpq.so.5.18", link)
	for name, mode := range map[string]os.FileMode{"bin": 0o755, "bin/postgres": 0o755, "lib/libpq.so.5.18": 0o644} {
		info, err := os.Stat(filepath.Join(tree, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), name)
	}
	require.NoFileExists(t, filepath.Join(tree, "package.json"))
}

func TestUnpackStaysInsideItsTree(t *testing.T) {
	t.Parallel()
	list := func(body string) entry {
		return entry{name: "package/native/pg-symlinks.json", kind: tar.TypeReg, body: body}
	}
	cases := []struct {
		name    string
		entries []entry
		want    string
	}{
		{"AbsoluteName", []entry{{name: "package/native//etc/x", kind: tar.TypeReg}}, "want a plain file"},
		{"Climbing", []entry{{name: "package/native/../../x", kind: tar.TypeReg}}, "want a plain file"},
		{"ClimbingLink", []entry{list(`[{"source":"native/../../x","target":"native/y"}]`)}, "inside the package"},
		{"ClimbingTarget", []entry{list(`[{"source":"native/y","target":"native/../../x"}]`)}, "inside the package"},
		{"HardLink", []entry{{name: "package/native/x", kind: tar.TypeLink, link: "/etc/passwd"}}, "want a plain file"},
		{"NoList", []entry{{name: "package/native/x", kind: tar.TypeReg}}, "list of links"},
		{"SymbolicLink", []entry{{name: "package/native/x", kind: tar.TypeSymlink, link: "/etc"}}, "want a plain file"},
		{"Twice", []entry{{name: "package/native/x", kind: tar.TypeReg}, {name: "package/native/x", kind: tar.TypeReg}}, "file exists"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			err := embedded.Unpack(archive(t, c.entries...), filepath.Join(dir, "tree"))
			require.ErrorContains(t, err, c.want)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 1)
		})
	}
}

func TestUnpackRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tarball := filepath.Join(dir, "x.tgz")
	require.NoError(t, os.WriteFile(tarball, archive(t).Bytes(), 0o600))
	for platform, integrity := range embedded.FetchedIntegrity {
		encoded, isSHA512 := strings.CutPrefix(integrity, "sha512-")
		sum, err := base64.StdEncoding.DecodeString(encoded)
		require.NoError(t, err, platform)
		require.True(t, isSHA512 && len(sum) == 64, platform)
		err = embedded.UnpackVerified(tarball, integrity, filepath.Join(dir, "tree"))
		require.ErrorContains(t, err, "want "+integrity)
		require.NoDirExists(t, filepath.Join(dir, "tree"))
	}
}
