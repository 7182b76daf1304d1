package embedded_test

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db/embedded"
)

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be kept apart from the server's user")
	}
}

func TestRootStartsUnderAClosedDirectory(t *testing.T) {
	t.Parallel()
	asRoot(t)
	closed := dirMake(t) // 0700, as /root is
	dir := filepath.Join(closed, "clone", ".sluice")

	cluster := start(t, embedded.Config{Dir: dir})
	require.Equal(t, "/var/tmp", filepath.Dir(filepath.Dir(cluster.DataDir())))
	requireAnswer(t, cluster.URL("postgres"), "create table kept as select 'here'::text as v", "")
	require.NoError(t, cluster.Stop(embedded.StopFast))

	cluster = start(t, embedded.Config{Dir: dir})
	requireAnswer(t, cluster.URL("postgres"), "select v from kept", "here")
	require.NoError(t, cluster.Stop(embedded.StopFast))

	// As `make clean` does.
	require.NoError(t, os.RemoveAll(dir))
	cluster = start(t, embedded.Config{Dir: dir})
	requireAnswer(t, cluster.URL("postgres"), "select coalesce(to_regclass('kept')::text, 'gone')", "gone")

	require.NoError(t, cluster.Erase())
	require.NoDirExists(t, filepath.Dir(cluster.DataDir()))
	require.NoDirExists(t, dir)
}

func TestAnOrdinaryUserStartsAndRootGoesOn(t *testing.T) {
	t.Parallel()
	asRoot(t)
	nobody, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	require.NoError(t, err)

	// The test's own binary lies in a directory that is closed to others.
	place := dirMake(t)
	require.NoError(t, os.Chmod(place, 0o755))
	self, err := os.Executable()
	require.NoError(t, err)
	code, err := os.ReadFile(self)
	require.NoError(t, err)
	binary := filepath.Join(place, "helper")
	require.NoError(t, os.WriteFile(binary, code, 0o755))
	dir := filepath.Join(place, "theirs")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chown(dir, int(uid), int(gid)))

	cmd, stdin, url := helperStart(t, binary, dir, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)})
	requireAnswer(t, url, "create table kept as select 'here'::text as v", "")
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())

	cluster := start(t, embedded.Config{Dir: dir})
	requireAnswer(t, cluster.URL("postgres"), "select v from kept", "here")
	info, err := os.Stat(cluster.DataDir())
	require.NoError(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Equal(t, uint32(uid), stat.Uid)
}
