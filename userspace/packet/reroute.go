// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"

	"github.com/spliceway/spliceway/maps"
)

// reroute leads a side's packets to the device that the route to the other end takes
// now. A destination without a route keeps the device it had: it may come back.
func (e *Engine) reroute(id maps.FlowID, side maps.Side, device int, to, from netip.AddrPort) {
	now, err := e.routes.Device(to.Addr(), from.Addr())
	if err != nil || now == device || !e.attach(now) {
		return
	}
	if err := e.kernel.Reroute(id, side, now); err != nil {
		e.complain.about(e.logger, "cannot follow a route", err)
	}
}

// attachAddressed puts the programs on every device by which an end's packets may come
// once ways change: from one without them the kernel would take such a packet, have no
// socket for it, and reset the flow, before the agent has heard of the change.
func (e *Engine) attachAddressed() {
	devices, err := e.routes.Devices()
	if err != nil {
		e.complain.about(e.logger, "flows may not survive a change of routes", err)
		return
	}
	for _, device := range devices {
		_ = e.kernel.Attach(device) // a flow that needs the device meets the error again
	}
}
