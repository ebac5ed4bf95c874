// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
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

	mu    sync.Mutex
	files []string
	dirs  map[string]bool
	last  map[string]likeness // what each file was like
}

func newFilesWatch() (*filesWatch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	f := &filesWatch{changed: make(chan struct{}, 1), watcher: w, done: make(chan struct{}), dirs: make(map[string]bool)}
	go f.run()
	return f, nil
}

// set replaces the files that are watched; directories stand for all that is in them.
// Whatever is new among them was read after since.
func (f *filesWatch) set(files []string, since time.Time) error {
	dirs := make(map[string]bool)
	for _, file := range files {
		dirs[filepath.Dir(file)] = true
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			dirs[file] = true
		}
		// The file behind a link may be changed in place.
		if real, err := filepath.EvalSymlinks(file); err == nil {
			dirs[filepath.Dir(real)] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files = files
	var errs []error
	for dir := range dirs {
		if !f.dirs[dir] {
			if err := f.watcher.Add(dir); err != nil {
				errs = append(errs, fmt.Errorf("watch %s: %w", dir, err))
				delete(dirs, dir)
			}
		}
	}
	for dir := range f.dirs {
		if !dirs[dir] {
			_ = f.watcher.Remove(dir)
		}
	}
	f.dirs = dirs
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
	return errors.Join(errs...)
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

func (f *filesWatch) run() {
	defer close(f.done)
	var settled <-chan time.Time
	var first time.Time
	for {
		select {
		case _, ok := <-f.watcher.Events:
			if !ok {
				return
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
	now := f.look()
	same := maps.Equal(now, f.last)
	f.last = now
	return !same
}

func (f *filesWatch) close() {
	_ = f.watcher.Close()
	<-f.done
}
