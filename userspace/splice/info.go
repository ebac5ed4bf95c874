// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// FlowInfo is what an engine tells of a flow that it has.
type FlowInfo struct {
	ID           string         `json:"id"` // of its log line
	Engine       string         `json:"engine"`
	EngineReason string         `json:"engine_reason,omitempty"` // why it is not a faster one
	Endpoint     string         `json:"endpoint"`
	SNI          string         `json:"sni,omitempty"`
	Client       netip.AddrPort `json:"client"` // as the gateway's socket has, or had it
	Listener     netip.AddrPort `json:"listener"`
	Local        netip.AddrPort `json:"local"` // the gateway's end towards the upstream
	Upstream     netip.AddrPort `json:"upstream"`
	Start        time.Time      `json:"start"`
	Age          float64        `json:"age_seconds"`
	Idle         float64        `json:"idle_seconds"` // since something moved
	BytesIn      int64          `json:"bytes_in"`     // client to upstream
	BytesOut     int64          `json:"bytes_out"`
	PacketsIn    uint64         `json:"packets_in"` // 0 where the engine does not see them
	PacketsOut   uint64         `json:"packets_out"`
	HalfClosed   bool           `json:"half_closed"` // one side has sent FIN
	// Of BytesIn and BytesOut, what went from socket to socket; and how often that
	// began or ended.
	SockmapBytesIn  int64 `json:"sockmap_bytes_in,omitempty"`
	SockmapBytesOut int64 `json:"sockmap_bytes_out,omitempty"`
	SockmapSwitches int   `json:"sockmap_switches,omitempty"`
}

// Describe fills in what a flow's record says.
func (i *FlowInfo) Describe(r *telemetry.Record) {
	i.ID, i.Engine, i.EngineReason, i.Endpoint, i.SNI, i.Start = r.ID, r.Engine, r.EngineReason, r.Endpoint, r.SNI, r.Start
	i.Age = time.Since(r.Start).Seconds()
	i.SockmapBytesIn, i.SockmapBytesOut, i.SockmapSwitches = r.SockmapIn, r.SockmapOut, r.SockmapSwitches
}

// List tells of every flow.
func (s *Splicer) List() []FlowInfo {
	var list []FlowInfo
	for _, w := range s.workers {
		w.each(func(f *flow) { list = append(list, f.info()) })
	}
	return list
}

// Kill ends the flows for which match is true with a reset on both sides.
func (s *Splicer) Kill(match func(*FlowInfo) bool) (killed int) {
	for _, w := range s.workers {
		w.each(func(f *flow) {
			if i := f.info(); match(&i) {
				f.finish(telemetry.EndKilled, telemetry.SideAgent, true)
				killed++
			}
		})
	}
	return killed
}

// info is called under f.mu.
func (f *flow) info() FlowInfo {
	i := FlowInfo{
		BytesIn: f.dir[In].bytes, BytesOut: f.dir[Out].bytes, HalfClosed: f.first != none,
		Idle: (f.w.clock() - f.last).Seconds(),
	}
	if f.record != nil {
		i.Describe(f.record)
	}
	i.Listener, i.Client = names(f.fds[In])
	i.Local, i.Upstream = names(f.fds[Out])
	return i
}

// names are a socket's two ends, as far as it has them still.
func names(fd int) (local, remote netip.AddrPort) {
	if sa, err := unix.Getsockname(fd); err == nil {
		local = sock.AddrPort(sa)
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		remote = sock.AddrPort(sa)
	}
	return local, remote
}
