// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"os"
	"reflect"
)

// maxSize is the largest file that is read, in bytes: several million
// endpoints. It keeps a wrong path, such as a device's, from taking all memory.
const maxSize = 1 << 30

// Load reads and parses the file at path. What is wrong in the file comes back
// as Errors.
func Load(path string) (*Config, error) {
	data, err := Read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Read returns the content of the file at path, if it is of a sane size.
func Read(path string) ([]byte, error) { return read(path, maxSize) }

func read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read configuration: %s is larger than %d bytes; is it the right file?", path, limit)
	}
	return data, nil
}

// Parse decodes and checks a file's content; file is its name in positions. The
// error, if any, is Errors with everything that is wrong, or only the first
// mistake if what is wrong is the YAML itself.
func Parse(file string, data []byte) (*Config, error) {
	root, syntax := parseYAML(file, data)
	if syntax != nil {
		return nil, Errors{syntax}
	}
	r := &report{file: file, root: root}
	p := defaults()
	cfg := &p.config
	newDecoder(r, p).decode(root, nil, reflect.ValueOf(cfg).Elem())
	check(r, cfg)
	if len(r.errs) > 0 {
		r.errs.sort()
		return nil, r.errs
	}
	derive(cfg)
	return cfg, nil
}
