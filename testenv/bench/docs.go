// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
)

// What is between these lines of a Markdown file is made anew.
const (
	docsBegin = "<!-- make bench-peers writes from here -->\n"
	docsEnd   = "<!-- to here -->\n"
)

// updateDocs puts the report between the marks of a file.
func (r *results) updateDocs(file string, todo []work, subjects []subject) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(old, []byte(docsBegin))
	_, after, foundEnd := bytes.Cut(rest, []byte(docsEnd))
	if !found || !foundEnd {
		return fmt.Errorf("%s: no lines %q and %q: nothing is written", file, docsBegin, docsEnd)
	}
	text := bytes.NewBuffer(bytes.Clone(before))
	text.WriteString(docsBegin + "\n")
	r.report(text, todo, subjects)
	text.WriteString("\n" + docsEnd)
	text.Write(after)
	return os.WriteFile(file, text.Bytes(), 0o644)
}
