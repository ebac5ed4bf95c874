// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes tells by which device an address is reached, in the network namespace that
// it was opened in. It asks the kernel once per address and forgets all answers when
// a route, an address or a device changes. Its methods may be called from any
// goroutine.
type Routes struct {
	handle *netlink.Handle
	stop   chan struct{}

	mu      sync.Mutex
	devices map[pair]int
	// generation counts changes: an answer from before one is not kept.
	generation uint64

	// Changed has a token after a change.
	Changed chan struct{}
	// Gone has the index of each device that goes.
	Gone chan int
}

// pair is a destination and the address that packets to it come from, which rules may
// go by.
type pair struct{ to, from netip.Addr }

// routesKept bounds the memory that many clients take.
const routesKept = 65536

// OpenRoutes watches the routes of the calling thread's network namespace.
func OpenRoutes() (*Routes, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	r := &Routes{handle: h, stop: make(chan struct{}), devices: make(map[pair]int), Changed: make(chan struct{}, 1), Gone: make(chan int, 64)}
	if err := r.watch(); err != nil {
		h.Close()
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	return r, nil
}

func (r *Routes) watch() error {
	routes, links, addrs := make(chan netlink.RouteUpdate, 64), make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	lost := func(error) { r.change() } // an overrun: something has changed
	if err := errors.Join(
		netlink.RouteSubscribeWithOptions(routes, r.stop, netlink.RouteSubscribeOptions{ErrorCallback: lost}),
		netlink.LinkSubscribeWithOptions(links, r.stop, netlink.LinkSubscribeOptions{ErrorCallback: lost}),
		netlink.AddrSubscribeWithOptions(addrs, r.stop, netlink.AddrSubscribeOptions{ErrorCallback: lost}),
	); err != nil {
		close(r.stop)
		return err
	}
	go func() {
		for range routes {
			r.change()
		}
	}()
	go func() {
		for u := range links {
			if u.Header.Type == unix.RTM_DELLINK && u.Attrs() != nil {
				select {
				case r.Gone <- u.Attrs().Index:
				default:
				}
			}
			r.change()
		}
	}()
	go func() {
		for range addrs {
			r.change()
		}
	}()
	return nil
}

func (r *Routes) change() {
	r.mu.Lock()
	r.generation++
	clear(r.devices)
	r.mu.Unlock()
	select {
	case r.Changed <- struct{}{}:
	default:
	}
}

// Device is the index of the device by which the route to an address goes, for
// packets from one of this host's own.
func (r *Routes) Device(to, from netip.Addr) (int, error) {
	r.mu.Lock()
	index, ok := r.devices[pair{to, from}]
	generation := r.generation
	r.mu.Unlock()
	if ok {
		return index, nil
	}
	routes, err := r.handle.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{SrcAddr: from.AsSlice()})
	if err != nil {
		return 0, fmt.Errorf("route to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return 0, fmt.Errorf("route to %s: none", to)
	}
	index = routes[0].LinkIndex
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		if len(r.devices) >= routesKept {
			clear(r.devices)
		}
		r.devices[pair{to, from}] = index
	}
	return index, nil
}

// Devices are the indexes of the devices that have an address which others reach.
func (r *Routes) Devices() ([]int, error) {
	addrs, err := r.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var indexes []int
	for _, a := range addrs {
		if a.Scope == int(netlink.SCOPE_UNIVERSE) && !slices.Contains(indexes, a.LinkIndex) {
			indexes = append(indexes, a.LinkIndex)
		}
	}
	return indexes, nil
}

// Close ends the watch.
func (r *Routes) Close() {
	close(r.stop)
	r.handle.Close()
}

// minMTU is the least that a device has that IPv6 runs on (RFC 8200, section 5). What
// has less, by mistake or for a purpose of its own, does not count.
const minMTU = 1280

// SmallestMTU is that of the devices that are up, but for the loopback device. 0: there
// are none.
func SmallestMTU() (int, error) {
	devices, err := netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list devices: %w", err)
	}
	smallest := 0
	for _, d := range devices {
		a := d.Attrs()
		if a.RawFlags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_LOOPBACK != 0 || a.MTU < minMTU {
			continue
		}
		if smallest == 0 || a.MTU < smallest {
			smallest = a.MTU
		}
	}
	return smallest, nil
}
