package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// accountNames are the users that run the server for root, who may not.
var accountNames = []string{"postgres", "nobody"}

// An account is the user that runs the server programs.
type account struct {
	uid, gid uint32
	switched bool // from root
}

// accountFind is the caller's own account, or an unprivileged one if that is
// root's: Postgres refuses to run as root.
func accountFind() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	for _, name := range accountNames {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(found.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(found.Gid, 10, 32)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return account{uid: uint32(uid), gid: uint32(gid), switched: true}, nil
	}
	return account{}, fmt.Errorf("postgres does not run as root, and there is no user %q or %q to run it: start as another user", accountNames[0], accountNames[1])
}

// may tells whether the account has the permission (0 to 7, as in a mode's last
// digit) on a file. Access lists are not looked at.
func (a account) may(info fs.FileInfo, permission fs.FileMode) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	mode := info.Mode().Perm()
	switch {
	case stat.Uid == a.uid:
		mode >>= 6
	case stat.Gid == a.gid:
		mode >>= 3
	}
	return mode&permission == permission
}

// enters is nil if the account can pass through every directory of a path, the
// last one too.
func (a account) enters(dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", dir, err)
	}
	for at := resolved; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("look at %s: %w", at, err)
		}
		if !a.may(info, 1) {
			return &entryError{account: a, dir: at}
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// An entryError names the directory that keeps the account out.
type entryError struct {
	account account
	dir     string
}

func (e *entryError) Error() string {
	return fmt.Sprintf("user id %d, which runs the server, cannot enter %s", e.account.uid, e.dir)
}

// owner is the user id that a file belongs to.
func owner(info fs.FileInfo) (uint32, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("this system tells no owner of a file")
	}
	return stat.Uid, nil
}
