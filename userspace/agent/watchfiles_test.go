// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// put replaces a file by another one, as who renews certificates does.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"~", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+"~"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

// watched watches a file, and has it set again as the agent does after each change.
func watched(t *testing.T, file string) (expect func(what string)) {
	t.Helper()
	f, err := newFilesWatch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	set := func() {
		if err := f.set([]string{file}, time.Now()); err != nil {
			t.Error(err)
		}
	}
	set()
	return func(what string) {
		t.Helper()
		select {
		case <-f.changed:
		case <-time.After(patience):
			t.Fatalf("%s: not noticed", what)
		}
		set()
	}
}

func TestFilesWatchSeesLinksOnTheWay(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/store/v1/live/c.pem", "one")
	put(t, dir+"/store/v2/live/c.pem", "two!")
	link(t, "v1", dir+"/store/current")
	if err := os.Mkdir(dir+"/etc", 0o700); err != nil {
		t.Fatal(err)
	}
	link(t, "../store/current", dir+"/etc/certs")
	expect := watched(t, dir+"/etc/certs/live/c.pem")
	link(t, "v2", dir+"/store/current")
	expect("a link further up that is exchanged")
	put(t, dir+"/store/v2/live/c.pem", "three")
	expect("the file behind it that is replaced")
	link(t, dir+"/store/v1", dir+"/etc/certs")
	expect("the first link that is exchanged")
	put(t, dir+"/store/v1/live/c.pem", "four....")
	expect("the file behind that")
}

func TestFilesWatchSeesDirectoriesMadeAnew(t *testing.T) {
	for name, away := range map[string]func(dir string) error{
		"removed":    os.RemoveAll,
		"moved away": func(dir string) error { return os.Rename(dir, dir+".old") },
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "live", "c.pem")
			put(t, file, "one")
			expect := watched(t, file)
			if err := away(filepath.Dir(file)); err != nil {
				t.Fatal(err)
			}
			expect("the directory's end")
			put(t, file, "two!")
			expect("the new directory's file")
			put(t, file, "three")
			expect("what came next")
		})
	}
}

func TestFilesWatchSeesADirectoryThatIsYetToCome(t *testing.T) {
	dir := t.TempDir()
	expect := watched(t, dir+"/a/b/c.pem")
	put(t, dir+"/a/b/c.pem", "one")
	expect("the file and its directories")
}
