/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The short cut's state. All of it is pinned and outlives the agent. */
#ifndef SPLICEWAY_SOCKMAP_MAPS_H
#define SPLICEWAY_SOCKMAP_MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "sockmap.h"

/*
 * Local connections to and from the gateway, put in when they are established. The
 * flip writes the flow of those that turn out to be a flow's two ends, and the owner
 * of the connection takes it out when it next hears an ACK. What nobody takes out
 * others push out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CANDIDATES_MAX);
	__type(key, struct connection);
	__type(value, struct candidate);
} candidates SEC(".maps");

/*
 * By flow: the two sockets and what went by the short cut. Put in by the first end
 * that is found, taken out by user space when the flow is over.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, __u64);
	__type(value, struct shortcut);
} shortcuts SEC(".maps");

/*
 * Are the two connections of a flow this host's at both ends? From here on their
 * sockets know whose they are, as soon as they hear an ACK.
 */
static __always_inline bool claim(__u64 flow, const struct connection *client, const struct connection *backend)
{
	struct candidate *c = bpf_map_lookup_elem(&candidates, client);
	struct candidate *b = bpf_map_lookup_elem(&candidates, backend);

	if (!c || !b)
		return false;
	c->side = CLIENT;
	c->flow = flow;
	b->side = BACKEND;
	b->flow = flow;
	return true;
}

#endif
