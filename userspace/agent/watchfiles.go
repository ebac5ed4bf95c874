// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// filesWatch reports that some of many files may have changed, by the directories that
// they are in: who renews a certificate replaces its file, or a link on the way to it.
type filesWatch struct {
	changed chan struct{}
	watcher *fsnotify.Watcher
	done    chan struct{}

	mu     sync.Mutex
	files  []string
	places places
	last   map[string]likeness // what each file was like
}

func newFilesWatch() (*filesWatch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	f := &filesWatch{changed: make(chan struct{}, 1), watcher: w, done: make(chan struct{})}
	go f.run()
	return f, nil
}

// set replaces the files that are watched; directories stand for all that is in them.
// Whatever is new among them was read after since.
func (f *filesWatch) set(files []string, since time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files = files
	err := f.watchDirs()
	now := f.look()
	for path, like := range now {
		// What is known stays as it was: it may have changed since it was read,
		// and an event is to say so.
		if known, ok := f.last[path]; ok {
			now[path] = known
		} else if like.changed.After(since) {
			f.signal()
		}
	}
	f.last = now
	return err
}

// watchDirs has the directories watched that the files are in now. It is done again
// whenever something happened, since a directory may be another one by then. f.mu is
// held.
func (f *filesWatch) watchDirs() error {
	next := places{dirs: make(map[string]bool), steps: make(map[string]bool)}
	for _, file := range f.files {
		if err := next.add(file); err != nil {
			return err
		}
	}
	var errs []error
	for dir := range next.dirs {
		// Known ones, too: if a directory was made anew, the watch went with the
		// old one.
		if err := f.watcher.Add(dir); err != nil {
			errs = append(errs, fmt.Errorf("watch %s: %w", dir, err))
			delete(next.dirs, dir)
		}
	}
	for dir := range f.places.dirs {
		if _, ok := next.dirs[dir]; !ok {
			_ = f.watcher.Remove(dir)
		}
	}
	f.places = next
	return errors.Join(errs...)
}

// places are where something has to happen for a file to become another one.
type places struct {
	dirs  map[string]bool // watched; true: whatever happens in it counts
	steps map[string]bool // what else counts: a link, or a directory on the way
}

// maxLinks is Linux's own limit (path_resolution(7)).
const maxLinks = 40

// add adds the places of a file: the directory that it is in, each link on the way to it,
// and that directory's own name, because it may be exchanged as well. A file that is a
// directory stands for all that is in it.
func (p *places) add(file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		p.dirs[file] = true
	}
	for range maxLinks {
		next, ok := p.follow(file)
		if !ok {
			break
		}
		file = next
	}
	dir := filepath.Dir(file)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		p.dirs[dir] = true
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		p.step(dir)
		if _, err := os.Stat(filepath.Dir(dir)); err == nil {
			break // else what is to come into being is further up
		}
	}
	return nil
}

// follow resolves the first link in a path.
func (p *places) follow(file string) (next string, ok bool) {
	at := "/"
	for rest := strings.Split(file[1:], "/"); len(rest) > 0; rest = rest[1:] {
		at = filepath.Join(at, rest[0])
		target, err := os.Readlink(at)
		if err != nil {
			continue
		}
		p.step(at)
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(at), target)
		}
		return filepath.Join(append([]string{target}, rest[1:]...)...), true
	}
	return "", false
}

func (p *places) step(path string) {
	p.steps[path] = true
	if dir := filepath.Dir(path); !p.dirs[dir] {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			p.dirs[dir] = false
		}
	}
}

// concerns tells whether an event at path may be about a file.
func (f *filesWatch) concerns(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.places.steps[path] || f.places.dirs[path] || f.places.dirs[filepath.Dir(path)]
}

// likeness tells two versions of a file apart.
type likeness struct {
	inode   uint64
	size    int64
	changed time.Time // the inode's ctime: of its content, mode and owner
}

func (f *filesWatch) signal() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// look tells what the files are like. f.mu is held.
func (f *filesWatch) look() map[string]likeness {
	seen := make(map[string]likeness)
	like := func(path string, info fs.FileInfo) {
		l := likeness{size: info.Size(), changed: info.ModTime()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			l.inode, l.changed = st.Ino, time.Unix(st.Ctim.Unix())
		}
		seen[path] = l
	}
	for _, file := range f.files {
		info, err := os.Stat(file)
		if err != nil {
			continue
		}
		if !info.IsDir() {
			like(file, info)
			continue
		}
		entries, _ := os.ReadDir(file)
		for _, e := range entries {
			path := filepath.Join(file, e.Name())
			if info, err := os.Stat(path); err == nil {
				like(path, info)
			}
		}
	}
	return seen
}

// unseenLook is how often the files are looked at although no event has come: changes on
// a network's file system make none, nor those further up than is watched.
const unseenLook = time.Minute

func (f *filesWatch) run() {
	defer close(f.done)
	unseen := time.NewTicker(unseenLook)
	defer unseen.Stop()
	var settled <-chan time.Time
	var first time.Time
	for {
		select {
		case e, ok := <-f.watcher.Events:
			if !ok {
				return
			}
			if !f.concerns(e.Name) {
				continue
			}
			if settled == nil {
				first = time.Now()
			}
			if time.Since(first) < 10*settleTime {
				settled = time.After(settleTime)
			}
		case _, ok := <-f.watcher.Errors:
			if !ok {
				return
			}
			settled = time.After(settleTime) // events were lost: look
		case <-unseen.C:
			if settled == nil && f.differ() {
				f.signal()
			}
		case <-settled:
			settled = nil
			if f.differ() {
				f.signal()
			}
		}
	}
}

// differ tells whether any file is not like it was.
func (f *filesWatch) differ() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.watchDirs() // told by set
	now := f.look()
	same := maps.Equal(now, f.last)
	f.last = now
	return !same
}

func (f *filesWatch) close() {
	_ = f.watcher.Close()
	<-f.done
}
