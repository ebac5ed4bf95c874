// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file. Line and Column count from 1, Column in
// characters.
type Position struct {
	File         string
	Line, Column int
}

// String returns FILE:LINE:COLUMN.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File // an object of a cluster
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is one thing that is wrong in a file.
type Error struct {
	Pos Position
	// Path is the key that it is about, such as "endpoints[2].url"; empty if
	// it is about the whole file or its syntax.
	Path string
	Msg  string
}

// Error returns FILE:LINE:COLUMN: PATH: MESSAGE.
func (e *Error) Error() string {
	return e.Pos.String() + ": " + e.Text()
}

// Text returns PATH: MESSAGE, for where the position has a place of its own.
func (e *Error) Text() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// Errors is everything that is wrong in a file, in the file's order.
type Errors []*Error

// Error returns one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
}
