// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"iter"
	"regexp"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// part is a piece of a file that is read by itself: one document as a rule.
type part struct {
	text         []byte
	line, column int // what is in front of it
}

// byteOrderMark may stand in front of each document (YAML 1.2, section 9.1.1).
var byteOrderMark = []byte("\uFEFF")

// parts takes a file apart: JSON values, one behind the other, as far as it is JSON; then
// YAML documents.
func parts(data []byte) iter.Seq[part] {
	return func(yield func(part) bool) {
		line, column := 0, 0
		advance := func(over []byte) {
			if n := bytes.Count(over, []byte("\n")); n > 0 {
				line, column = line+n, 0
				over = over[bytes.LastIndexByte(over, '\n')+1:]
			}
			column += utf8.RuneCount(over)
		}
		for {
			skip, size := jsonValue(data)
			if size == 0 {
				break
			}
			advance(data[:skip])
			if !yield(part{yamlEscapes(data[skip : skip+size]), line, column}) {
				return
			}
			advance(data[skip : skip+size])
			data = data[skip+size:]
		}
		start := part{data, line, column}
		content := false // something other than directives was in this part
		for at := 0; at < len(data); {
			next := len(data)
			if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
				next = at + i + 1
			}
			text := bytes.TrimPrefix(data[at:next], byteOrderMark)
			if content && marker(text, "---") {
				if !yield(part{start.text[:len(start.text)-len(data)+at], start.line, start.column}) {
					return
				}
				start, content = part{data[at:], line, 0}, false
			}
			end := marker(text, "...")
			content = content || len(bytes.TrimSpace(text)) > 0 && text[0] != '%' && text[0] != '#' && !end
			at, line = next, line+1
			if end {
				if content && !yield(part{start.text[:len(start.text)-len(data)+at], start.line, start.column}) {
					return
				}
				start, content = part{data[at:], line, 0}, false
			}
		}
		if content {
			yield(start)
		}
	}
}

// values is how many values a document has at most, by a third: what it costs to read it.
func values(data []byte) int {
	n := max(bytes.Count(data, []byte("\n")), bytes.Count(data, []byte("\r")))
	for _, sign := range []string{",", "[", "{", "- ", "? "} {
		n += bytes.Count(data, []byte(sign))
	}
	return n
}

// marker tells whether a line begins with three characters that stand by themselves.
func marker(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// jsonValue finds a JSON object that data begins with, behind white space; size is 0 if
// there is none.
func jsonValue(data []byte) (skip, size int) {
	rest := bytes.TrimLeft(bytes.TrimPrefix(data, byteOrderMark), " \t\r\n")
	if len(rest) == 0 || rest[0] != '{' {
		return 0, 0
	}
	var raw json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(rest)).Decode(&raw); err != nil {
		return 0, 0
	}
	return len(data) - len(rest), len(raw)
}

// escapes are JSON's; the groups take those that come in pairs.
var escapes = regexp.MustCompile(`\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)`)

// yamlEscapes writes out what JSON escapes in a way that is not YAML's, or not the
// library's: characters as two of UTF-16, and slashes.
func yamlEscapes(data []byte) []byte {
	if !bytes.Contains(data, []byte(`\ud`)) && !bytes.Contains(data, []byte(`\uD`)) && !bytes.Contains(data, []byte(`\/`)) {
		return data
	}
	return escapes.ReplaceAllFunc(data, func(escape []byte) []byte {
		switch {
		case string(escape) == `\/`:
			return escape[1:]
		case len(escape) == len(`\ud83d\ude00`):
			high, _ := strconv.ParseUint(string(escape[2:6]), 16, 16)
			low, _ := strconv.ParseUint(string(escape[8:12]), 16, 16)
			return []byte(string(utf16.DecodeRune(rune(high), rune(low))))
		}
		return escape
	})
}
