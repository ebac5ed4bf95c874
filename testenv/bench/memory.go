// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory is what a subject holds, in bytes.
type memory struct{ process, sockets, maps int64 }

// idleBefore is how long flows are idle before they are measured.
const idleBefore = 10 * time.Second

// idle opens flows, uses each once and reads what they cost the subject.
func (b *bed) idle(ctx context.Context, flows int, settle time.Duration) ([]float64, error) {
	if b.process == nil {
		return nil, nil
	}
	before, err := b.memory()
	if err != nil {
		return nil, err
	}
	conns, err := b.dialAll(ctx, "echo", flows, 0)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	buf := make([]byte, messageSize)
	for _, c := range conns {
		if err := echo(c, buf); err != nil {
			return nil, err
		}
	}
	// An engine may give sockets back a moment after a flow is up.
	if _, err := quiet(ctx, b.idleBusy); err != nil {
		return nil, err
	}
	// What a flow costs while it is idle, not what setting it up did.
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := b.memory()
	if err != nil {
		return nil, err
	}
	perFlow := func(bytes int64) float64 { return float64(bytes) / 1e3 / float64(flows) }
	process, sockets, maps := after.process-before.process, after.sockets-before.sockets, after.maps-before.maps
	return []float64{perFlow(process + sockets + maps), perFlow(process), perFlow(sockets), perFlow(maps),
		float64(before.process) / 1e6, float64(before.maps) / 1e6}, nil
}

// memory is that of all of the subject's processes.
func (b *bed) memory() (memory, error) {
	process, err := b.gatewayMemory()
	if err != nil {
		return memory{}, err
	}
	pids, err := b.gatewayProcesses()
	if err != nil {
		return memory{}, err
	}
	var fds descriptors
	for _, pid := range pids {
		one, err := openFiles(pid)
		if err != nil {
			return memory{}, err
		}
		fds.sockets, fds.maps = fds.sockets+one.sockets, fds.maps+one.maps
	}
	inUse, err := tcpInUse(b.process.Pid())
	if err != nil {
		return memory{}, err
	}
	size, err := socketSize()
	if err != nil {
		return memory{}, err
	}
	// A socket in use may have no descriptor (nobody's any more), and one with a
	// descriptor may not be in use (bound to keep a port).
	return memory{process: process, sockets: max(inUse, fds.sockets) * size, maps: fds.maps}, nil
}

// descriptors is what the open files of a process are.
type descriptors struct {
	sockets int64 // how many
	maps    int64 // memory of BPF maps, in bytes
}

func openFiles(pid int) (descriptors, error) {
	var d descriptors
	dir := fmt.Sprintf("/proc/%d", pid)
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return d, fmt.Errorf("read open files: %w", err)
	}
	seen := make(map[string]bool) // maps by ID: one may have several descriptors
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, "fd", entry.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if strings.HasPrefix(target, "socket:") {
			d.sockets++
		}
		if target != "anon_inode:bpf-map" {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", entry.Name()))
		if err != nil {
			continue
		}
		if id := value(info, "map_id:", 0); !seen[id] {
			seen[id] = true
			bytes, err := strconv.ParseInt(value(info, "memlock:", 0), 10, 64)
			if err != nil {
				return d, fmt.Errorf("read memory of BPF map %s: %w", id, err)
			}
			d.maps += bytes
		}
	}
	return d, nil
}

// tcpInUse counts the sockets of a process's network namespace: IPv4 is all that
// the bed uses.
func tcpInUse(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/net/sockstat", pid)
	page, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("count sockets: %w", err)
	}
	n, err := strconv.ParseInt(value(page, "TCP:", 1), 10, 64) // "TCP: inuse N ..."
	if err != nil {
		return 0, fmt.Errorf("count sockets: %s: %w", path, err)
	}
	return n, nil
}

// socketSize is what the kernel keeps for a TCP socket with empty buffers: the
// socket, its inode, and the file and the name of a descriptor.
func socketSize() (int64, error) {
	page, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, fmt.Errorf("read object sizes: %w", err)
	}
	var size int64
	for _, slab := range []string{"TCP", "sock_inode_cache", "filp", "dentry"} {
		n, err := strconv.ParseInt(value(page, slab, 2), 10, 64) // name, active, all, size
		if err != nil {
			return 0, fmt.Errorf("read object sizes: %s in /proc/slabinfo: %w", slab, err)
		}
		size += n
	}
	return size, nil
}

// value is the nth field, from 0, behind the first field of a line; empty if there
// is none.
func value(page []byte, first string, n int) string {
	for line := range bytes.Lines(page) {
		fields := strings.Fields(string(line))
		if len(fields) > n+1 && fields[0] == first {
			return fields[n+1]
		}
	}
	return ""
}
