// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"

	"github.com/spliceway/spliceway/testenv"
)

// layout is where client, gateway and backend are.
type layout int

const (
	// routed: hosts of their own, behind veth. The client and the backend are this
	// process.
	routed layout = iota
	// loopback: three processes of one namespace, all at 127.0.0.1.
	loopback
	// namespaces: three processes in namespaces of their own, like pods.
	namespaces
	// terminating is routed, but the subject ends the client's TLS, without session
	// tickets; resuming: with them.
	terminating
	resuming
)

func (l layout) sameHost() bool { return l != routed && !l.terminates() }

func (l layout) terminates() bool { return l == terminating || l == resuming }

func (l layout) String() string {
	return [...]string{"routed", "loopback", "namespaces", "terminating", "resuming"}[l]
}

// clientAddresses: ports in TIME_WAIT make one address slow to dial from.
const clientAddresses = 16

// place is a layout that was built.
type place struct {
	client, gateway, backend *testenv.Namespace
	gatewayIP, backendIP     netip.Addr
	sources                  []netip.Addr      // the client's addresses
	services                 map[string]uint16 // ports of the backend
	first                    string            // the service by which a subject is tried
	closers                  []func() error
}

func (p *place) close() error {
	var errs []error
	for _, c := range p.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// build leaves what it has made to close, on an error too.
func (p *place) build(l layout) error {
	p.services, p.first = services, "echo"
	if l.sameHost() {
		p.services, p.first = hostServices, "host"
	}
	if l.terminates() {
		p.services = map[string]uint16{tlsService: 21003}
	}
	if l == loopback {
		return p.buildLoopback()
	}
	n, err := testenv.NewNetwork(testenv.NetworkOptions{CongestionControl: "cubic"})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, n.Close)
	p.client, p.gateway, p.backend = n.Clients[0].Namespace, n.Gateway, n.Backends[0].Namespace
	p.gatewayIP, p.backendIP = n.IPv4, n.Backends[0].IPv4()
	for i := range clientAddresses {
		a := netip.AddrFrom4([4]byte{10, 1, 0, byte(10 + i)})
		if err := n.Clients[0].AddAddress(a); err != nil {
			return err
		}
		p.sources = append(p.sources, a)
	}
	return nil
}

func (p *place) buildLoopback() error {
	n, err := testenv.NewNamespace("host")
	if err != nil {
		return err
	}
	p.closers = append(p.closers, n.Close)
	p.client, p.gateway, p.backend = n, n, n
	local := netip.MustParseAddr("127.0.0.1")
	p.gatewayIP, p.backendIP, p.sources = local, local, []netip.Addr{local}
	return n.SetCongestionControl("cubic")
}
