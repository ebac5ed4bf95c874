// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	reservedPorts = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	localPorts    = "/proc/sys/net/ipv4/ip_local_port_range"
)

// ReservePorts keeps the kernel from choosing TCP and UDP ports of a range by itself,
// in this network namespace: it adds those to net.ipv4.ip_local_reserved_ports which
// are in net.ipv4.ip_local_port_range. Ports that a process asks for by number are
// not concerned.
func ReservePorts(first, last uint16) error {
	var low, high uint16
	text, err := os.ReadFile(localPorts)
	if err != nil {
		return fmt.Errorf("reserve source ports: %w", err)
	}
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return fmt.Errorf("reserve source ports: %s: %w", localPorts, err)
	}
	if last < low || first > high {
		return nil
	}
	return changeReserved(func(set *portSet) { set.put(first, last, true) })
}

// ReleasePorts undoes ReservePorts.
func ReleasePorts(first, last uint16) error {
	return changeReserved(func(set *portSet) { set.put(first, last, false) })
}

func changeReserved(change func(*portSet)) error {
	text, err := os.ReadFile(reservedPorts)
	if err != nil {
		return fmt.Errorf("reserve source ports: %w", err)
	}
	set, err := parsePorts(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("reserve source ports: %s: %w", reservedPorts, err)
	}
	before := set.String()
	change(set)
	after := set.String()
	if after == before {
		return nil
	}
	if err := os.WriteFile(reservedPorts, []byte(after+"\n"), 0o644); err != nil {
		return fmt.Errorf("reserve source ports: %w", err)
	}
	return nil
}

// portSet is a set of ports, written as the kernel does: "1-3,80".
type portSet [1 << 16]bool

func (s *portSet) put(first, last uint16, in bool) {
	for p := int(first); p <= int(last); p++ {
		s[p] = in
	}
}

func parsePorts(text string) (*portSet, error) {
	s := new(portSet)
	if text == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", from, err)
		}
		last, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", to, err)
		}
		s.put(uint16(first), uint16(last), true)
	}
	return s, nil
}

func (s *portSet) String() string {
	var parts []string
	for p := 0; p < len(s); p++ {
		if !s[p] {
			continue
		}
		first := p
		for p+1 < len(s) && s[p+1] {
			p++
		}
		part := strconv.Itoa(first)
		if p > first {
			part += "-" + strconv.Itoa(p)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}
