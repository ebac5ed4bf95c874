// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/config"
)

const (
	// maxFile is the largest file that is read, in bytes.
	maxFile = 64 << 20
	// maxValues bounds a document's lines and list elements: the library takes some hundred
	// bytes of memory for each value.
	maxValues = 4 << 20
	// maxAliased bounds how many values the aliases of all files stand for.
	maxAliased = 1 << 20
	// maxDepth is how deep a document may nest.
	maxDepth = 100
)

// suffixes are of the files of a directory that are read.
var suffixes = []string{".yaml", ".yml", ".json"}

// Load reads files, and directories with all their files, not those of their own
// directories. A file that is there twice is read once. What cannot be read is a problem
// like any other.
func Load(paths []string) *Set {
	l := newLoader()
	for _, path := range paths {
		l.files = append(l.files, path)
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			l.read(path)
			continue
		}
		entries, err := os.ReadDir(path) // in order
		if err != nil {
			l.unreadable(path, err)
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") || !slices.Contains(suffixes, strings.ToLower(filepath.Ext(e.Name()))) {
				continue
			}
			file := filepath.Join(path, e.Name())
			if info, err := os.Stat(file); err == nil && info.IsDir() {
				continue
			}
			l.files = append(l.files, file)
			l.read(file)
		}
	}
	return l.set()
}

// Parse is Load for one file's content.
func Parse(file string, data []byte) *Set {
	l := newLoader()
	l.parse(file, data)
	return l.set()
}

// loader collects a Set.
type loader struct {
	objects     []*Object
	problems    config.Errors
	warnings    []Warning
	broken      []Key
	brokenFiles []string
	files       []string
	seen        map[Key]config.Position
	done        map[string]bool // files, by where their links lead
	aliased     int             // what is left of maxAliased
}

func newLoader() *loader {
	return &loader{seen: make(map[Key]config.Position), done: make(map[string]bool), aliased: maxAliased}
}

func (l *loader) set() *Set {
	return &Set{l.objects, l.problems, l.warnings, l.broken, l.brokenFiles, l.files}
}

func (l *loader) unreadable(path string, err error) {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	l.problems = append(l.problems, &config.Error{Pos: config.Position{File: path, Line: 1, Column: 1}, Msg: "cannot be read: " + err.Error()})
	l.breaks(path)
}

// breaks notes that there may be objects in a file of which nothing is known.
func (l *loader) breaks(file string) {
	if !slices.Contains(l.brokenFiles, file) {
		l.brokenFiles = append(l.brokenFiles, file)
	}
}

func (l *loader) read(path string) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		if real, err = filepath.Abs(real); err == nil {
			if l.done[real] {
				return
			}
			l.done[real] = true
		}
	}
	data, err := readFile(path)
	if err != nil {
		l.unreadable(path, err)
		return
	}
	l.parse(path, data)
}

// readFile is a file's content, if it is of a sane size.
func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, to open a named pipe would wait for who writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a file, but of the kind %s", info.Mode().Type())
	}
	var data bytes.Buffer
	data.Grow(int(min(info.Size(), maxFile)) + bytes.MinRead)
	if _, err := data.ReadFrom(io.LimitReader(f, maxFile+1)); err != nil {
		return nil, err
	}
	if data.Len() > maxFile {
		return nil, fmt.Errorf("larger than %d bytes; is it the right file?", maxFile)
	}
	return data.Bytes(), nil
}

// lineOf finds the line in the library's messages, which have it nowhere else.
var lineOf = regexp.MustCompile(`^yaml: (?:line (\d+): )?(?s:(.*))`)

// parse reads a file's documents. The library cannot go on after an error: it is given
// them one by one.
func (l *loader) parse(file string, data []byte) {
	for part := range parts(data) {
		if values(part.text) > maxValues {
			l.problems = append(l.problems, &config.Error{Pos: config.Position{File: file, Line: part.line + 1, Column: 1}, Msg: fmt.Sprintf("has more than %d lines and values: split it into several documents", maxValues)})
			l.breaks(file)
			continue
		}
		d := yaml.NewDecoder(bytes.NewReader(part.text))
		for {
			var doc yaml.Node
			err := d.Decode(&doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				at, text := 1, err.Error()
				if m := lineOf.FindStringSubmatch(text); m != nil {
					text = m[2]
					if n, err := strconv.Atoi(m[1]); err == nil {
						at = n
					}
				}
				l.problems = append(l.problems, &config.Error{Pos: config.Position{File: file, Line: part.line + at, Column: 1}, Msg: "no YAML from here on to the next document: " + clean(text)})
				l.breaks(file)
				break
			}
			if len(doc.Content) > 0 {
				l.document(file, doc.Content[0], part)
			}
		}
	}
}

// document reads one document: an object, or a list of them.
func (l *loader) document(file string, n *yaml.Node, part part) {
	v := &validation{file: file}
	why := l.settle(n, part, 0, false)
	switch {
	case why == "" && isNull(n):
		return
	case why == "" && n.Kind != yaml.MappingNode:
		why = "expected an object with apiVersion, kind and metadata"
	}
	if why != "" {
		v.wrong(n, nil, "%s", why)
		l.problems = append(l.problems, v.problems...)
		l.breaks(file)
		return
	}
	l.entry(file, n)
}

// entry reads an object, or a list's.
func (l *loader) entry(file string, n *yaml.Node) {
	if n = resolve(n); n.Kind == yaml.MappingNode && text(n, "kind") == "List" {
		switch items := child(n, "items"); {
		case items != nil && isNull(items):
			return
		case items != nil && items.Kind == yaml.SequenceNode:
			for _, item := range items.Content {
				l.entry(file, item)
			}
			return
		}
		v := &validation{file: file}
		v.wrong(n, []any{"items"}, "a List has its objects in the list items")
		l.problems = append(l.problems, v.problems...)
		l.breaks(file)
		return
	}
	l.object(file, n)
}

// settle gives a document's nodes their places in the file, and walks it as it will be
// walked, aliases and all. It returns what is wrong with it. inAlias: n was seen before.
func (l *loader) settle(n *yaml.Node, in part, depth int, inAlias bool) string {
	if inAlias {
		if l.aliased--; l.aliased < 0 {
			return fmt.Sprintf("too large once aliases are written out: at most %d values are taken in all files", maxAliased)
		}
	} else {
		if n.Line == 1 {
			n.Column += in.column
		}
		n.Line += in.line
	}
	if depth > maxDepth {
		return fmt.Sprintf("nested too deeply: at most %d levels are taken", maxDepth)
	}
	if n.Kind == yaml.AliasNode {
		return l.settle(n.Alias, in, depth+1, true)
	}
	for _, c := range n.Content {
		if why := l.settle(c, in, depth+1, inAlias); why != "" {
			return why
		}
	}
	return ""
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// text is a scalar below a mapping, "" if there is none.
func text(n *yaml.Node, path ...any) string {
	for _, step := range path {
		if n = child(n, step); n == nil {
			return ""
		}
	}
	if n.Kind != yaml.ScalarNode || isNull(n) {
		return ""
	}
	return n.Value
}
