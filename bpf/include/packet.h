/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What packet.bpf.c shares with user space. Go gets these types by BTF. Maps of
 * these types are pinned and outlive the agent: a change of their layout is a new
 * LAYOUT in package maps, and agents of different layouts do not share state.
 */
#ifndef SPLICEWAY_PACKET_H
#define SPLICEWAY_PACKET_H

#include "vmlinux.h"

/*
 * How many flows there can be at once. Elements are allocated one by one, so this
 * costs only the tables' buckets (16 bytes each, and as many again for tuples).
 */
#define FLOWS_MAX 262144

/* Bytes of a flow's record, which is the agent's own. */
#define RECORD_BYTES 440

/* One way of a connection, as it stands in a packet. IPv4 is mapped (RFC 4291). */
struct tuple {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
};

/* The two ends of a flow, as indices: whose packets are meant. */
enum side {
	CLIENT,
	BACKEND,
};

/* Whose packets a tuple is. */
struct direction {
	__u64 flow;
	enum side side;
	__u32 pad;
};

/*
 * FREE never stands in a map. The ways between states are compare-and-swap:
 *
 *   ARMED -> FLIPPING -> SPLICED -> DONE
 *     |  <-    |
 *     +--------+-> DECLINED
 *
 * ARMED: both connections are the agent's; the program waits for its moment.
 * FLIPPING: a program looks whether it is the moment. It lasts a microsecond, and
 * in it nothing of the two sockets may leave the host: what they acknowledged
 * before is seen, and what they acknowledge after does not arrive.
 * SPLICED: packets are translated and redirected.
 * DECLINED: the agent moves the bytes.
 * DONE: the flow is over by decree, or its tuple has a new connection: packets
 * are the kernel's, who answers with a reset if it knows nothing of them.
 */
enum state {
	FREE,
	ARMED,
	FLIPPING,
	SPLICED,
	DECLINED,
	DONE,
};

/* How a translated packet goes on. */
enum way {
	WAY_UP,    /* to this host's own stack: both ends are on the loopback device */
	WAY_NEIGH, /* out of a device with link-layer addresses */
	WAY_RAW,   /* out of a device without */
};

enum leg_flags {
	LEG_NO_ECN = 1, /* the other leg did not negotiate ECN (RFC 3168): clear it */
	LEG_IPV6 = 2,
};

/*
 * What is done to packets that come from one side. Set before the flow is
 * SPLICED, constant after it but for ifindex and way, which follow the routes.
 */
struct leg {
	struct tuple to;     /* addresses and ports that the packets get */
	__u32 seq_delta;     /* added to SEQ; the other leg's is taken from ACK and SACK */
	__u32 tsval_delta;   /* added to TSval; the other leg's is taken from TSecr */
	__wsum address_csum; /* one's complement: new addresses minus old ones */
	__u32 ifindex;       /* where to */
	__u8 way;            /* enum way */
	__u8 flags;          /* enum leg_flags */
	__u8 wscale_in;      /* scale of the window in the packets */
	__u8 wscale_out;     /* scale that the receiver takes it for */
};

/* What has come from one side. */
struct moved {
	__u64 packets; /* segments, as on the wire */
	__u64 acked;   /* its ACK, as sent, with the wraps above the low 32 bits */
	__u32 fin;     /* sequence number after its FIN, as sent */
	__u32 seen;    /* time of its last packet but RST, see TICK_SHIFT */
};

/* Times in a flow are nanoseconds of CLOCK_MONOTONIC shifted by this: 1.05 ms. */
#define TICK_SHIFT 20

enum mark {
	MARK_FIN_CLIENT = 1,        /* FIN seen, from that side */
	MARK_FIN_BACKEND = 2,
	MARK_FIN_ACKED_CLIENT = 4,  /* that side's FIN has been acknowledged */
	MARK_FIN_ACKED_BACKEND = 8,
	MARK_RST_CLIENT = 16,       /* a plausible RST seen, from that side */
	MARK_RST_BACKEND = 32,
	MARK_FIRST_BACKEND = 64,    /* the backend's FIN was the first */
	MARK_RST_EXACT = 128,       /* an RST had the very number that the other side expects */
	MARK_RST_DOUBTED = 256,     /* a bare ACK came after an RST: not believed unless one was exact */
};

enum flow_flags {
	FLOW_SHORTCUT = 1, /* it may take the short cut, if both ends are on this host */
	FLOW_LOCAL = 2,    /* they are */
};

/*
 * Its size is chosen: a hash table's element with it fits 256 bytes of slab.
 */
struct flow {
	enum state state;
	enum mark marks;
	/*
	 * Until the flip: of CLIENT the bytes in its socket's queue, which are forwarded
	 * and not read; of BACKEND the bytes that the agent writes to it, all told.
	 * From then on: the first of moved.acked.
	 */
	__u32 base[2];
	__u32 backend_mss; /* what the backend takes, from earlier connections; 0: not known */
	__u32 spliced;     /* time of the flip */
	__u32 closed;      /* time of the last RST, or of the last FIN's ACK */
	enum flow_flags flags;
	struct leg legs[2];
	struct moved moved[2];
};

/* What the agent remembers of a flow, for whoever is the agent when it ends. */
struct record {
	__u8 bytes[RECORD_BYTES];
};

/*
 * Why a flow is not spliced. Labels of a metric; the order is an interface:
 * append only, before REASONS.
 */
enum reason {
	OK,
	CLIENT_SPOKE,    /* the client did not wait for the server's answer */
	BACKEND_EARLY,   /* the backend sent before it had the whole hello */
	CLOSING,         /* FIN, RST or SYN before the flip, or a state that is not established */
	NO_SOCKET,       /* the sockets are not where the packet came in */
	CLIENT_QUEUE,    /* the client's queue is not as the agent saw it */
	IN_FLIGHT,       /* something was in flight to the client */
	BACKEND_QUEUE,   /* the backend's queue is not empty, or its packet is out of order */
	TIMESTAMPS,      /* one leg has TCP timestamps, the other has not */
	SACK,            /* one leg has selective acknowledgements, the other has not */
	ACCECN,          /* accurate ECN was negotiated */
	MSS,             /* one leg's segments do not fit the other */
	WINDOW,          /* one leg's windows are too small for the other's scale */
	DEVICE,          /* a device that packets take has no program */
	URGENT,          /* urgent data */
	REASONS,
};

/* What became of packets. The order is an interface: append only. */
enum packet_count {
	TRANSLATED,        /* translated and sent on */
	TRANSLATED_ICMP,   /* an ICMP error about a spliced flow, translated and sent on */
	PASSED_ARMED,      /* of a flow that is not spliced (yet) */
	PASSED_DONE,       /* of a flow that was given back to the kernel */
	PASSED_MALFORMED,  /* of a spliced flow, but not a whole TCP header */
	PASSED_FRAGMENT,   /* of a spliced flow's addresses, but a fragment */
	PASSED_SYN,        /* SYN of a new connection on an ended flow's tuple */
	DROPPED_GUARD,     /* the kernel's own sockets tried to send on a spliced flow */
	DROPPED_TTL,       /* time to live was over */
	DROPPED_CE,        /* congestion experienced, told to a leg without ECN by a loss */
	DROPPED_ERROR,     /* a packet could not be written to */
	FLIPS,             /* flows spliced */
	FLIPS_LOST,        /* another packet decided first */
	EVENTS_LOST,       /* the ring buffer was full; the agent finds out by itself */
	PACKET_COUNTS,
};

enum event_kind {
	EVENT_SPLICED,
	EVENT_DECLINED,
	EVENT_ENDED,    /* both FINs acknowledged, or an RST */
	EVENT_REPLACED, /* a new connection has an ended flow's tuple */
	EVENT_LOCAL,    /* both ends are sockets of this host that may take the short cut */
};

struct event {
	__u64 flow;
	enum event_kind kind;
	enum reason reason;
	__u32 ifindex; /* with DEVICE: which has no program */
	__u32 pad;
};

enum device_flags {
	DEVICE_RAW = 1, /* no link-layer header */
	DEVICE_LOOPBACK = 2,
};

/* A device with programs. */
struct device {
	enum device_flags flags;
};

/* Argument of the syscall programs. */
struct transition {
	__u64 flow;
	enum state from, to;
	enum state was; /* out: the state that was found; FREE: no such flow */
	enum side side; /* reroute: whose packets */
	__u32 ifindex;  /* reroute */
	enum way way;   /* reroute */
};

#endif
