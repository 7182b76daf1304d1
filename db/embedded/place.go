package embedded

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The files of a place. The lock is held by this process and, through a file
// descriptor it inherits, by every process of the server: it is free only when
// all of them have ended, so no process id has to be trusted.
const (
	lockFile     = "lock"
	dataName     = "data"
	passwordFile = "password"
	madeByFile   = "made-by"
	initPattern  = "init-*"
	placedFile   = "data-is-in" // in Config.Dir, if the place is elsewhere

	// placeElsewhere is world-traversable on every Unix and, unlike /tmp, kept
	// across restarts.
	placeElsewhere = "/var/tmp"

	passwordBytes = 24
	dyingWait     = 10 * time.Second // for the server of a starter that was killed
	dyingPoll     = 20 * time.Millisecond
	commandWait   = 5 * time.Second
)

// A place is the directory of one cluster, locked.
type place struct {
	account account
	dir     string // Config.Dir
	root    string // dir, or a directory elsewhere that the account can reach
	lock    *os.File
}

func (p *place) dataDir() string { return filepath.Join(p.root, dataName) }

// placeOpen makes the place of a directory, if it must, and locks it.
func placeOpen(ctx context.Context, dir string, account account) (*place, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", dir, err)
	}
	resolved, err := filepath.EvalSymlinks(absolute)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", dir, err)
	}
	at := &place{account: account, dir: resolved, root: resolved}
	if err := at.settle(); err != nil {
		return nil, err
	}
	if err := at.acquire(ctx); err != nil {
		return nil, err
	}
	if err := at.tidy(); err != nil {
		return nil, errors.Join(err, at.close())
	}
	return at, nil
}

// settle chooses the place's root and account.
func (p *place) settle() error {
	if info, err := os.Stat(p.dataDir()); err == nil {
		uid, err := owner(info)
		if err != nil {
			return fmt.Errorf("look at %s: %w", p.dataDir(), err)
		}
		switch {
		case uid == p.account.uid:
		case p.account.switched && uid != 0:
			// An ordinary user made it; root goes on as that user.
			p.account.uid = uid
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				p.account.gid = stat.Gid
			}
		default:
			return fmt.Errorf("the data in %s belongs to user id %d: start as that user, or use another directory", p.dataDir(), uid)
		}
	}
	if !p.account.switched {
		return nil
	}
	err := p.account.enters(p.dir)
	var kept *entryError
	if errors.As(err, &kept) && kept.dir == p.dir {
		// Only the directory itself keeps the account out, as one from mktemp
		// does. Passage is not sight: its list stays closed.
		err = p.passage(p.dir)
		if err == nil {
			err = p.account.enters(p.dir)
		}
	}
	if err == nil {
		return nil
	}
	if !errors.As(err, &kept) {
		return err
	}
	return p.settleElsewhere()
}

// passage lets others pass through a directory of ours.
func (p *place) passage(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if err := os.Chmod(dir, info.Mode().Perm()|0o711); err != nil {
		return fmt.Errorf("let user id %d pass through %s: %w", p.account.uid, dir, err)
	}
	return nil
}

// settleElsewhere makes the root in a directory that everyone can write to, so
// what is there may be a stranger's trap.
func (p *place) settleElsewhere() error {
	sum := sha256.Sum256([]byte(p.dir))
	p.root = filepath.Join(placeElsewhere, "sluice-"+hex.EncodeToString(sum[:8]))
	err := os.Mkdir(p.root, 0o711)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a place for the data of %s: %w", p.dir, err)
	}
	info, err := os.Lstat(p.root)
	if err != nil {
		return fmt.Errorf("look at the place for the data of %s: %w", p.dir, err)
	}
	uid, err := owner(info)
	if err != nil {
		return fmt.Errorf("look at %s: %w", p.root, err)
	}
	if !info.IsDir() || uid != 0 {
		return fmt.Errorf("%s shall hold the data of %s, but is not a directory of root's: remove it", p.root, p.dir)
	}
	if err := p.passage(p.root); err != nil {
		return err
	}
	return p.account.enters(p.root)
}

// acquire takes the lock. A server whose starter was killed is given time to
// end; a living starter is an error at once.
func (p *place) acquire(ctx context.Context) error {
	lock, err := os.OpenFile(filepath.Join(p.root, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the cluster's directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dyingWait)
	defer cancel()
	poll := time.NewTicker(dyingPoll)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
		}
		living := &LivingError{Dir: p.dir, PID: pidRead(lock.Name()), Postmaster: p.postmaster()}
		if living.PID != 0 && pidAlive(living.PID) {
			return errors.Join(living, lock.Close())
		}
		select {
		case <-ctx.Done():
			return errors.Join(living, lock.Close())
		case <-poll.C:
		}
	}
	p.lock = lock
	if err := os.WriteFile(lock.Name(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return errors.Join(fmt.Errorf("write this process's id: %w", err), p.close())
	}
	return nil
}

// close frees the lock; the file loses the id of this process, which may live on.
func (p *place) close() error {
	if p.lock == nil {
		return nil
	}
	err := errors.Join(p.lock.Truncate(0), p.lock.Close())
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// tidy removes what a killed start left and, if Config.Dir was removed since, the
// data that belonged to it.
func (p *place) tidy() error {
	halves, err := filepath.Glob(filepath.Join(p.root, initPattern))
	if err != nil {
		return fmt.Errorf("look for halves of a cluster: %w", err)
	}
	for _, half := range halves {
		if err := os.RemoveAll(half); err != nil {
			return fmt.Errorf("remove half a cluster: %w", err)
		}
	}
	if p.root == p.dir {
		return nil
	}
	placed := filepath.Join(p.dir, placedFile)
	if _, err := os.Stat(placed); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range []string{dataName, passwordFile, madeByFile} {
		if err := os.RemoveAll(filepath.Join(p.root, name)); err != nil {
			return fmt.Errorf("remove the data of the removed %s: %w", p.dir, err)
		}
	}
	if err := os.WriteFile(placed, []byte(p.root+"\n"), 0o600); err != nil {
		return fmt.Errorf("write where the data is: %w", err)
	}
	return nil
}

// erase removes all of the place but files that are not its own.
func (p *place) erase() error {
	var errs []error
	for _, name := range []string{dataName, passwordFile, madeByFile, lockFile} {
		errs = append(errs, os.RemoveAll(filepath.Join(p.root, name)))
	}
	if p.root != p.dir {
		errs = append(errs, os.Remove(p.root), os.RemoveAll(filepath.Join(p.dir, placedFile)))
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// dataMajor is the major version of the data, 0 if there is none.
func (p *place) dataMajor() (int, error) {
	text, err := os.ReadFile(filepath.Join(p.dataDir(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(p.dataDir()); err == nil {
			return 0, fmt.Errorf("%s is there, but is not a cluster's data: use another directory", p.dataDir())
		}
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the data's version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read the data's version in %s: %w", p.dataDir(), err)
	}
	return major, nil
}

// madeBy names the server that made the data, as far as is known.
func (p *place) madeBy() string {
	text, err := os.ReadFile(filepath.Join(p.root, madeByFile))
	if err != nil {
		return "an unknown server"
	}
	return strings.TrimSpace(string(text))
}

// initialise makes the cluster beside its final name, so that a killed start
// leaves no half of one there.
func (p *place) initialise(ctx context.Context, binaries binaries, durable bool) error {
	half, err := os.MkdirTemp(p.root, initPattern)
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(half) }() // tidy removes it at the next start
	random := make([]byte, passwordBytes)
	_, _ = rand.Read(random) // never fails: crypto/rand
	password := []byte(hex.EncodeToString(random))
	given := filepath.Join(half, passwordFile)
	if err := os.WriteFile(given, password, 0o600); err != nil {
		return fmt.Errorf("write the password: %w", err)
	}
	if p.account.switched {
		uid, gid := int(p.account.uid), int(p.account.gid)
		if err := errors.Join(os.Chown(half, uid, gid), os.Chown(given, uid, gid)); err != nil {
			return fmt.Errorf("give the directory to user id %d: %w", uid, err)
		}
	}

	args := []string{
		"-D", filepath.Join(half, dataName), "-U", superuser, "--pwfile", given,
		"-A", "scram-sha-256", "-E", "UTF8",
		"--locale=C", // the same order of text on every machine and with every build
		"--no-instructions",
	}
	if !durable {
		args = append(args, "--no-sync")
	}
	ctx, cancel := context.WithTimeout(ctx, initdbWait)
	defer cancel()
	output, err := command(ctx, p.account, binaries.path("initdb"), args...).CombinedOutput()
	if err != nil {
		tail := &tailWriter{}
		_, _ = tail.Write(output)
		return fmt.Errorf("initdb: %w; its last words: %s", err, tail)
	}

	if err := os.WriteFile(filepath.Join(p.root, madeByFile), []byte(binaries.String()+"\n"), 0o644); err != nil {
		return fmt.Errorf("write which server made it: %w", err)
	}
	if err := os.WriteFile(filepath.Join(p.root, passwordFile), password, 0o600); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	if err := os.Rename(filepath.Join(half, dataName), p.dataDir()); err != nil {
		return fmt.Errorf("put it in its place: %w", err)
	}
	return nil
}

func (p *place) passwordRead() (string, error) {
	text, err := os.ReadFile(filepath.Join(p.root, passwordFile))
	if err != nil {
		return "", fmt.Errorf("read the superuser's password (remove %s to begin anew): %w", p.root, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// ready tells whether the server of this process id accepts connections: the
// eighth line of postmaster.pid says so, which is what pg_ctl waits for
// (PostgreSQL's src/include/utils/pidfile.h).
func (p *place) ready(pid int) bool {
	text, err := os.ReadFile(filepath.Join(p.dataDir(), "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(text), "\n")
	return len(lines) > 7 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

func (p *place) postmaster() int { return pidRead(filepath.Join(p.dataDir(), "postmaster.pid")) }

// staleRemove removes the postmaster.pid of a server that has ended. Postgres
// does so itself unless another process has the number by now. The lock says that
// no server of ours is alive, but someone may have started one by hand.
func (p *place) staleRemove() error {
	pid := p.postmaster()
	if pid == 0 || !pidAlive(pid) {
		return nil
	}
	line, err := commandLine(pid)
	if err != nil || strings.Contains(line, p.dataDir()) {
		return &LivingError{Dir: p.dir, Postmaster: pid}
	}
	if err := os.Remove(filepath.Join(p.dataDir(), "postmaster.pid")); err != nil {
		return fmt.Errorf("remove the mark of a server that has ended: %w", err)
	}
	return nil
}

// pidRead is the process id on the first line of a file, 0 if there is none.
func pidRead(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}

func pidAlive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// commandLine is what a process was started with; a zombie's is empty.
func commandLine(pid int) (string, error) {
	id := strconv.Itoa(pid)
	text, err := os.ReadFile(filepath.Join("/proc", id, "cmdline"))
	if err == nil {
		return strings.ReplaceAll(string(text), "\x00", " "), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	text, err = exec.CommandContext(ctx, "ps", "-p", id, "-o", "command=").Output()
	if err != nil {
		return "", fmt.Errorf("look at process %d: %w", pid, err)
	}
	return string(text), nil
}
