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
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("read config: %s is larger than %d MiB", path, maxSize>>20)
	}
	return Parse(path, data)
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
