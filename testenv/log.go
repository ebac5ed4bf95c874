// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// errLogEnded means that no further line will come.
var errLogEnded = errors.New("output ended")

// Log keeps the lines of a process. All of them: it is not for a process that
// logs by the gigabyte.
type Log struct {
	tee io.Writer

	mu      sync.Mutex
	lines   []string
	partial []byte
	changed chan struct{} // closed and replaced with each addition
	ended   bool
}

func newLog(tee io.Writer) *Log { return &Log{tee: tee, changed: make(chan struct{})} }

// Lines returns the whole lines that came so far, without their ends.
func (l *Log) Lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// String returns the lines as one text.
func (l *Log) String() string { return strings.Join(l.Lines(), "\n") }

// Wait waits for a line that match accepts, among those that came already too,
// and returns the first. The error shows the last lines.
func (l *Log) Wait(ctx context.Context, match func(line string) bool) (string, error) {
	for next := 0; ; {
		l.mu.Lock()
		lines, ended, changed := l.lines[next:], l.ended, l.changed
		l.mu.Unlock()
		for _, line := range lines {
			if match(line) {
				return line, nil
			}
		}
		next += len(lines)
		if ended {
			return "", fmt.Errorf("wait for a line: %w; %s", errLogEnded, l.Tail())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a line: %w; %s", context.Cause(ctx), l.Tail())
		}
	}
}

// Write takes output as it comes. It is for the process alone.
func (l *Log) Write(p []byte) (int, error) {
	if l.tee != nil {
		if n, err := l.tee.Write(p); err != nil {
			return n, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			break
		}
		l.lines = append(l.lines, string(line))
		l.partial = rest
	}
	l.wake()
	return len(p), nil
}

func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.lines = append(l.lines, string(l.partial))
		l.partial = nil
	}
	l.ended = true
	l.wake()
}

func (l *Log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Tail is the end of the output, for error messages.
func (l *Log) Tail() string {
	const shown = 10
	lines := l.Lines()
	if len(lines) == 0 {
		return "no output"
	}
	return "the last lines are:\n" + strings.Join(lines[max(0, len(lines)-shown):], "\n")
}
