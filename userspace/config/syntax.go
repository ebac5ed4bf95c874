// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// parseYAML returns the root of the one document in data.
func parseYAML(file string, data []byte) (*yaml.Node, *Error) {
	docs := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	err := docs.Decode(&first)
	if err == nil {
		err = docs.Decode(&second)
	}
	switch {
	case err == nil:
		return nil, &Error{
			Pos: Position{File: file, Line: second.Line, Column: second.Column},
			Msg: "a second document starts here, the file must be one document",
		}
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(file, data, err)
	case first.IsZero() || isNull(first.Content[0]):
		return nil, &Error{
			Pos: Position{File: file, Line: 1, Column: 1},
			Msg: "the file is empty, at least one endpoint is needed: " +
				"endpoints: [{name: a, url: tls://a.example.com, upstream: {url: tls://10.0.0.1:443}}]",
		}
	}
	return first.Content[0], nil
}

// syntaxError finds the place of what the library refused. The line in the
// library's own message is of no use: it is missing, or that of the block
// around the mistake, or one too low.
func syntaxError(file string, data []byte, err error) *Error {
	message := syntaxMessage(err)
	lines := lineEnds(data)
	line := giveUpLine(data)
	// Searching parses the beginning of the file a few times over.
	if len(data) <= 1<<20 {
		line = firstLine(line, func(n int) bool {
			err := parseAll(bytes.NewReader(data[:lines[n-1]]))
			return err != nil && syntaxMessage(err) == message
		})
	}
	start := 0
	if line > 1 {
		start = lines[line-2]
	}
	text := data[start:lines[line-1]]
	indent := len(text) - len(bytes.TrimLeft(text, " \t"))
	return &Error{
		Pos: Position{File: file, Line: line, Column: 1 + indent},
		Msg: "YAML syntax: " + message,
	}
}

// firstLine returns the first line n of a run of lines that ends with line
// last, for all of which the first n lines are wrong in the same way. The run
// is short, because the parser does not read far ahead, or it begins where
// something was opened that nothing closes.
func firstLine(last int, wrong func(n int) bool) int {
	low, step := last-1, 1
	for low > 0 && wrong(low) {
		last, low, step = low, low-step, 2*step
	}
	low = max(low, 0)
	for last-low > 1 { // the first low lines are not wrong, the first last are
		if mid := (low + last) / 2; wrong(mid) {
			last = mid
		} else {
			low = mid
		}
	}
	return last
}

// giveUpLine returns the line up to which the parser reads before it refuses
// data.
func giveUpLine(data []byte) int {
	r := &byteReader{data: data}
	_ = parseAll(r) // known to fail: what matters is how far it gets
	read := bytes.TrimRight(data[:r.n], " \t\r\n")
	return 1 + bytes.Count(read, []byte{'\n'})
}

// byteReader hands out one byte at a time, so that n tells what the reader's
// user has asked for and not what it has buffered.
type byteReader struct {
	data []byte
	n    int
}

func (r *byteReader) Read(p []byte) (int, error) {
	if r.n == len(r.data) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1)], r.data[r.n:])
	r.n += n
	return n, nil
}

func parseAll(r io.Reader) error {
	docs := yaml.NewDecoder(r)
	for {
		var n yaml.Node
		if err := docs.Decode(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// lineEnds returns the offset behind each line, its newline included.
func lineEnds(data []byte) []int {
	var ends []int
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	if len(ends) == 0 || ends[len(ends)-1] != len(data) {
		ends = append(ends, len(data))
	}
	return ends
}

func syntaxMessage(err error) string {
	return libraryPrefix.ReplaceAllString(err.Error(), "")
}

var libraryPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)
