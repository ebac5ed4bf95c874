// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/spliceway/spliceway/userspace/manifest"
)

// The file of the last state is a line with the format and the SHA-256 of the rest, in
// hexadecimal, then one object of JSON per line.
const stateFormat = "spliceway-state-1"

// stateDelay is how long changes are collected before they are kept.
const stateDelay = 2 * time.Second

// keepState writes the last state whenever it is another one, until ctx ends.
func (c *Cluster) keepState(ctx context.Context) {
	if c.opts.State == "" {
		return
	}
	var last [sha256.Size]byte
	for {
		select {
		case <-c.reported:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(stateDelay):
		case <-ctx.Done():
		}
		if c.complete() {
			last = c.save(last)
		}
	}
}

// save writes the last state unless it is the one with the given sum, and returns its sum.
func (c *Cluster) save(last [sha256.Size]byte) [sha256.Size]byte {
	data, err := encodeState(c.collect(), c.opts.StateSecrets)
	sum := sha256.Sum256(data)
	if err == nil && sum == last {
		return last
	}
	if err == nil {
		err = writeWhole(c.opts.State, data)
	}
	if err != nil {
		sum = last
		c.log.Warn("the last state cannot be kept: a start while the API server is away will have nothing to serve", "file", c.opts.State, "error", err.Error())
	}
	return sum
}

func encodeState(set *manifest.Set, secrets bool) ([]byte, error) {
	var body bytes.Buffer
	for _, o := range set.Objects {
		if o.Kind == "Secret" && !secrets {
			continue
		}
		line, err := json.Marshal(o.Value)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", o.Key, err)
		}
		body.Write(line)
		body.WriteByte('\n')
	}
	sum := sha256.Sum256(body.Bytes())
	return append([]byte(stateFormat+" "+hex.EncodeToString(sum[:])+"\n"), body.Bytes()...), nil
}

// writeWhole writes a file that is there as it was, or as it is to be: never in between.
func writeWhole(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".spliceway-state-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// load is the last state; nil: there is none that can be used. It is read once.
func (c *Cluster) load() *manifest.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.State == "" || c.loaded {
		return c.saved
	}
	c.loaded = true
	data, err := os.ReadFile(c.opts.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		c.saved, err = c.decodeState(data)
	}
	if err != nil {
		c.log.Warn("the last state cannot be used", "file", c.opts.State, "error", err.Error())
	}
	return c.saved
}

func (c *Cluster) decodeState(data []byte) (*manifest.Set, error) {
	head, body, _ := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if string(head) != stateFormat+" "+hex.EncodeToString(sum[:]) {
		return nil, errors.New("it is damaged, or of another version: its checksum is not that of its content")
	}
	set := &manifest.Set{}
	for line := range bytes.Lines(body) {
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal(line, &u.Object); err != nil {
			return nil, err
		}
		for i := range c.kinds {
			k := &c.kinds[i]
			if gvk := u.GroupVersionKind(); k.group != gvk.Group || k.name != gvk.Kind {
				continue
			}
			it := k.read(u)
			set.Problems, set.Warnings = append(set.Problems, it.problems...), append(set.Warnings, it.warnings...)
			if it.object != nil {
				set.Objects = append(set.Objects, it.object)
			}
		}
	}
	return set, nil
}
