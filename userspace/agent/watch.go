// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settleTime is how long a file must be left alone before it is read: an editor
// truncates, writes and renames.
const settleTime = 100 * time.Millisecond

// fileWatch reports when a file's content has changed. It watches the directory,
// since an editor or a mounted ConfigMap replaces the file and not its content.
type fileWatch struct {
	changed <-chan struct{}
	watcher *fsnotify.Watcher
	done    chan struct{}

	mu   sync.Mutex
	last [sha256.Size]byte // of the content that was read last, by whomever
}

// seen tells that data has been read from the file: the same content is no change.
func (f *fileWatch) seen(data []byte) { f.isNew(sha256.Sum256(data)) }

func (f *fileWatch) isNew(sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	isNew := sum != f.last
	f.last = sum
	return isNew
}

// watchFile watches path, of which loaded is what is known already.
func watchFile(path string, loaded []byte) (*fileWatch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	// The file behind a link may be changed in place.
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(real) != filepath.Dir(path) {
		_ = w.Add(filepath.Dir(real))
	}
	changed := make(chan struct{}, 1)
	f := &fileWatch{changed: changed, watcher: w, done: make(chan struct{})}
	f.seen(loaded)
	go func() {
		defer close(f.done)
		first := time.Now()
		settled := time.After(settleTime) // for what changed before the watch began
		for {
			select {
			case _, ok := <-w.Events:
				if !ok {
					return
				}
				if settled == nil || time.Since(first) < 10*settleTime {
					if settled == nil {
						first = time.Now()
					}
					settled = time.After(settleTime)
				}
			case _, ok := <-w.Errors:
				if !ok {
					return
				}
				settled = time.After(settleTime) // events were lost: look
			case <-settled:
				settled = nil
				// A file that is gone is between two versions; it says so
				// itself if it does not come back, at the next SIGHUP.
				if sum := contentSum(path); sum != ([sha256.Size]byte{}) && f.isNew(sum) {
					select {
					case changed <- struct{}{}:
					default:
					}
				}
			}
		}
	}()
	return f, nil
}

func contentSum(path string) [sha256.Size]byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(b)
}

func (f *fileWatch) close() {
	_ = f.watcher.Close()
	<-f.done
}
