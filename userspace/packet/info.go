// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"fmt"
	stdmaps "maps"
	"slices"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// List tells of every flow that is spliced.
func (e *Engine) List() []splice.FlowInfo {
	return slices.Collect(stdmaps.Values(flowsOf(e.kernel.Flows, e.kernel.Records, e.kernel.Shortcuts)))
}

// Kill ends the flows for which match is true with a reset on both sides.
func (e *Engine) Kill(match func(*splice.FlowInfo) bool) (killed int) {
	for id, i := range flowsOf(e.kernel.Flows, e.kernel.Records, e.kernel.Shortcuts) {
		if !match(&i) {
			continue
		}
		e.mu.Lock()
		s := e.spliced[id]
		e.mu.Unlock()
		var ended bool
		var err error
		if s != nil {
			ended = e.kill(s, telemetry.EndKilled)
		} else { // Leave gave it up, or its event is still to come
			ended, err = endPinned(e.kernel, e.resets, id)
		}
		if err != nil {
			e.complain.about(e.logger, "cannot end a flow", err)
		}
		if ended {
			killed++
		}
	}
	return killed
}

// flowsOf tells of flows that have not ended, from the maps alone. One whose record
// cannot be read has its addresses only.
func flowsOf(flows maps.Flows, records maps.Records, cuts maps.Shortcuts) map[maps.FlowID]splice.FlowInfo {
	list := make(map[maps.FlowID]splice.FlowInfo)
	now := maps.Monotonic()
	for id, f := range flows.All() {
		if f.State != maps.FlowSpliced || f.FINAcked == [2]bool{true, true} {
			continue
		}
		b, err := records.Get(id)
		if errors.Is(err, maps.ErrNotFound) {
			continue // its end was told
		}
		withShortcut(cuts, id, &f)
		i := splice.FlowInfo{
			Client: f.Client, Listener: f.Listener, Local: f.Local, Upstream: f.Backend,
			Idle:    (now - max(f.Seen, f.Spliced)).Seconds(),
			BytesIn: int64(f.Delivered[maps.Backend]), BytesOut: int64(f.Delivered[maps.Client]),
			PacketsIn: f.Packets[maps.Client], PacketsOut: f.Packets[maps.Backend],
			HalfClosed: f.FIN != [2]bool{},
		}
		record := new(telemetry.Record)
		if m, err := readMemo(b); err == nil {
			record = m.record
			i.BytesIn += int64(m.hello)
		}
		record.Engine = Name
		describeShortcut(record, &f)
		i.Describe(record)
		list[id] = i
	}
	return list
}

// ListPinned tells of the flows in the state at path, without an agent and without
// disturbing one.
func ListPinned(path string) ([]splice.FlowInfo, error) {
	state, err := loader.ReadPacket(path)
	if err != nil {
		return nil, err
	}
	defer state.Close()
	return slices.Collect(stdmaps.Values(flowsOf(state.Flows, state.Records, state.Shortcuts))), nil
}

// KillPinned ends flows in the state at path while no agent is running (else
// loader.ErrInUse). Their log lines are the next agent's to write.
func KillPinned(path string, match func(*splice.FlowInfo) bool) (killed int, err error) {
	kernel, err := loader.OpenPacket(path)
	if err != nil {
		return 0, err
	}
	defer kernel.Close()
	resets, err := openResetSender()
	if err != nil {
		return 0, err
	}
	defer resets.close()
	var errs []error
	for id, i := range flowsOf(kernel.Flows, kernel.Records, kernel.Shortcuts) {
		if !match(&i) {
			continue
		}
		ended, err := endPinned(kernel, resets, id)
		if ended {
			killed++
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("flow %s: %w", i.ID, err))
		}
	}
	return killed, errors.Join(errs...)
}

// endPinned ends a flow in the kernel and on the wire, and tells whether it did. Its
// log line is left to whoever finds it in state done.
func endPinned(kernel *loader.Packet, resets resetSender, id maps.FlowID) (ended bool, err error) {
	was, err := kernel.Transit(id, maps.FlowSpliced, maps.FlowDone)
	if err != nil || was != maps.FlowSpliced {
		return false, err
	}
	f, err := kernel.Flows.Get(id)
	if err == nil {
		err = resets.send(&f)
	}
	return true, err
}
