// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AttachTC has a program see the packets of an interface of the calling thread's
// namespace, at ebpf.AttachTCXIngress or ebpf.AttachTCXEgress. Closing what is returned
// ends it. Before Linux 6.6, which brought tcx, it is a filter of clsact, of which there
// is one at each of the two.
func AttachTC(ifindex int, program *ebpf.Program, where ebpf.AttachType) (io.Closer, error) {
	attached, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: where})
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return attachFilter(ifindex, program, where)
	case err != nil:
		return nil, fmt.Errorf("attach tcx: %w", err)
	}
	return attached, nil
}

// filter is a filter of clsact, and the way to the namespace that it is in.
type filter struct {
	*netlink.Handle
	*netlink.BpfFilter
}

func attachFilter(ifindex int, program *ebpf.Program, where ebpf.AttachType) (io.Closer, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("attach clsact filter: %w", err)
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := handle.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		handle.Close()
		return nil, fmt.Errorf("add clsact: %w", err)
	}
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if where == ebpf.AttachTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	f := &filter{handle, &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          program.FD(), Name: "testenv", DirectAction: true,
	}}
	if err := handle.FilterReplace(f.BpfFilter); err != nil {
		handle.Close()
		return nil, fmt.Errorf("attach clsact filter: %w", err)
	}
	return f, nil
}

// Close takes the filter away. A device that is gone took it along.
func (f *filter) Close() error {
	defer f.Handle.Close()
	if err := f.FilterDel(f.BpfFilter); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete clsact filter: %w", err)
	}
	return nil
}
