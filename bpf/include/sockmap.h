/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What sockmap.bpf.c shares with user space and with packet.bpf.c. As with packet.h,
 * maps of these types are pinned: a change of their layout is a new LAYOUT.
 */
#ifndef SPLICEWAY_SOCKMAP_H
#define SPLICEWAY_SOCKMAP_H

#include "vmlinux.h"
#include "packet.h"

/* How many local connections may wait at once for their flow to be spliced. */
#define CANDIDATES_MAX 32768

/* How many flows can take the short cut at once. A bucket each is allocated. */
#define SHORTCUTS_MAX 32768

/*
 * A connection as its own host's end sees it: the first sequence numbers, which are
 * random (RFC 6528). They stand for the connection in any network namespace and
 * behind any translation of addresses, where tuples do not.
 */
struct connection {
	__u32 own, peer;
};

/* A local connection that may turn out to be an end of a flow. */
struct candidate {
	__u64 flow;  /* 0: none yet */
	__u32 side;  /* enum side */
	__u16 looks; /* how often it was looked at in vain */
	__u16 asked; /* somebody else had asked for callbacks before */
};

/* Whose socket it is. */
struct owner {
	__u64 flow;
	__u32 side; /* enum side */
	__u32 asked;
};

/*
 * Why a socket of a spliced flow is left alone. Labels of a metric; the order is an
 * interface: append only, before MISFITS.
 */
enum misfit {
	FITS,
	BLOCKING,  /* it is in blocking mode: tcp_bpf_recvmsg would tell its reader EAGAIN */
	ULP,       /* it has an upper layer protocol: kernel TLS */
	USED,      /* it is in somebody's sockmap, or something else has its sk_user_data */
	ZEROCOPY,  /* SO_ZEROCOPY: sends would never be reported complete */
	LOWAT,     /* SO_RCVLOWAT */
	INQUIRES,  /* TCP_INQ: wants to hear with each read how much there is */
	READER,   /* it is read otherwise than by recv(2) and its like: splice(2) does not see the short cut */
	UNOWNED,   /* no process has accepted it */
	MISFITS,
};

enum end_state {
	UNKNOWN, /* not found among the host's sockets */
	FOUND,
	FIT,     /* nothing is against it */
	JOINED,  /* in the sockets' map */
};

/*
 * One side's socket and what it sent. Written under its lock, but for state and
 * misfit. On a cache line of its own.
 */
struct shortcut_end {
	__u64 peer;     /* the address of the other side's socket; 0: not known */
	__u64 bytes;    /* sent by the short cut */
	__u64 messages; /* how many sends these were */
	__u64 road;     /* bytes sent by TCP since the socket joined */
	__u32 switches; /* how often it changed from one to the other */
	__u32 delta;    /* what translation adds to its sequence numbers */
	__u32 seen;     /* time of the last send by the short cut, see TICK_SHIFT */
	enum end_state state;
	enum misfit misfit;
	__u32 since;    /* bytes sent since the other side last sent any */
	__u32 heard;    /* how many it had sent then, by either way; wraps */
	__u8 by_road;   /* which way the last send took */
	__u8 stuck;     /* was read so with data from the short cut in its queue */
	__u8 pad[2];
};

/* A flow that may take the short cut. */
struct shortcut {
	struct shortcut_end ends[2]; /* by enum side */
};

/* What kind of port one is, as the remote end of a local connection. */
enum port_kind {
	PORT_LISTENER = 1, /* the gateway listens there */
	PORT_SOURCE = 2,   /* the gateway dials from there */
	PORT_SEGMENTS = 4, /* a listener's: what comes by the loopback device may go on by another */
};

/* The agent's orders. */
struct settings {
	/*
	 * Bytes from which on sends go by TCP: in the receiver's queue, or sent since
	 * the receiver has sent any itself. 0: all go by TCP.
	 */
	__u32 mark;
	__u32 packets; /* packets that must have come from either side since the flip */
	/*
	 * With PORT_SEGMENTS, the largest segments that a client is to send by the
	 * loopback device; 0: any.
	 */
	__u16 mss4, mss6;
	__u8 ports[65536]; /* enum port_kind, by number */
};

/* Key of the sockets' map. */
struct socket_key {
	__u64 flow;
	__u64 side;
};

#endif
