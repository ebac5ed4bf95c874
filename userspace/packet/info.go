// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"fmt"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// List tells of every flow that is spliced.
func (e *Engine) List() []splice.FlowInfo {
	var list []splice.FlowInfo
	for _, f := range flowsOf(e.kernel.Flows, e.kernel.Records) {
		list = append(list, f)
	}
	return list
}

// Kill ends the flows for which match is true with a reset on both sides.
func (e *Engine) Kill(match func(*splice.FlowInfo) bool) (killed int) {
	for id, i := range flowsOf(e.kernel.Flows, e.kernel.Records) {
		if !match(&i) {
			continue
		}
		e.mu.Lock()
		s := e.spliced[id]
		e.mu.Unlock()
		if s != nil && e.kill(s, telemetry.EndKilled) {
			killed++
		}
	}
	return killed
}

// flowsOf tells of flows that have not ended, from the maps alone. One whose record
// cannot be read has its addresses only.
func flowsOf(flows maps.Flows, records maps.Records) map[maps.FlowID]splice.FlowInfo {
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
		i := splice.FlowInfo{
			Client: f.Client, Listener: f.Listener, Local: f.Local, Upstream: f.Backend,
			Idle:    (now - max(f.Seen, f.Spliced)).Seconds(),
			BytesIn: int64(f.Delivered[maps.Backend]), BytesOut: int64(f.Delivered[maps.Client]),
			PacketsIn: f.Packets[maps.Client], PacketsOut: f.Packets[maps.Backend],
			HalfClosed: f.FIN != [2]bool{},
		}
		if m, err := readMemo(b); err == nil {
			i.Describe(m.record)
			i.BytesIn += int64(m.hello)
		}
		i.Engine = Name
		list[id] = i
	}
	return list
}

// ListPinned tells of the flows in the state at path, without an agent and without
// disturbing one.
func ListPinned(path string) ([]splice.FlowInfo, error) {
	flows, records, done, err := loader.ReadPacket(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var list []splice.FlowInfo
	for _, f := range flowsOf(flows, records) {
		list = append(list, f)
	}
	return list, nil
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
	for id, i := range flowsOf(kernel.Flows, kernel.Records) {
		if !match(&i) {
			continue
		}
		was, err := kernel.Transit(id, maps.FlowSpliced, maps.FlowDone)
		if err != nil || was != maps.FlowSpliced {
			errs = append(errs, err)
			continue
		}
		killed++
		f, err := kernel.Flows.Get(id)
		if err == nil {
			err = resets.send(&f)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("flow %s: %w", i.ID, err))
		}
	}
	return killed, errors.Join(errs...)
}
