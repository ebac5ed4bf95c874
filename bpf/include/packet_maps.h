/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The engine's state. All of it is pinned and outlives the agent. */
#ifndef SPLICEWAY_PACKET_MAPS_H
#define SPLICEWAY_PACKET_MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "packet.h"

/*
 * Whose packets a tuple is. User space puts both of a flow's tuples after the flow
 * itself and takes them out before it. Read for every TCP packet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * FLOWS_MAX);
	__type(key, struct tuple);
	__type(value, struct direction);
} tuples SEC(".maps");

/*
 * The flows, by number. User space puts one in ARMED and takes it out a while
 * after its tuples, when no program can have it any more: elements are used again
 * at once. All states in between are the programs'.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, __u64);
	__type(value, struct flow);
} flows SEC(".maps");

/* What the agent remembers of a flow. No program reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, __u64);
	__type(value, struct record);
} records SEC(".maps");

/* The devices that have programs, by index. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

/*
 * What happens, for the agent. It can be lost, if the agent is slow or is not there:
 * everything it says can be read from the flow, too.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__type(value, struct event);
} events SEC(".maps");

/* enum packet_count -> how often, on each CPU. Never reset. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PACKET_COUNTS);
	__type(key, enum packet_count);
	__type(value, __u64);
} packet_counts SEC(".maps");

static __always_inline void count(enum packet_count what, __u64 n)
{
	__u64 *c = bpf_map_lookup_elem(&packet_counts, &what);

	if (c)
		*c += n;
}

static __always_inline void emit(__u64 flow, enum event_kind kind, enum reason reason, __u32 ifindex)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(EVENTS_LOST, 1);
		return;
	}
	e->flow = flow;
	e->kind = kind;
	e->reason = reason;
	e->ifindex = ifindex;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
}

/* The state before; the flow has changed from one to the other if it was from. */
static __always_inline enum state transit(struct flow *f, enum state from, enum state to)
{
	return __sync_val_compare_and_swap(&f->state, from, to);
}

/*
 * Does the packet's tuple belong to the flow? A tuple's element may be used again
 * between its lookup and the flow's.
 */
static __always_inline bool is_of(const struct flow *f, __u32 side, const struct tuple *k)
{
	const struct tuple *back = &f->legs[!side].to;

	return k->sport == back->dport && k->dport == back->sport &&
	       k->src[3] == back->dst[3] && k->dst[3] == back->src[3];
}

static __always_inline enum state state_of(struct flow *f)
{
	return *(volatile __u32 *)&f->state;
}

static __always_inline __u32 ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

#endif
