/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Decides whether the moment is there to take a flow out of the two sockets. */
#ifndef SPLICEWAY_PACKET_FLIP_H
#define SPLICEWAY_PACKET_FLIP_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "packet.h"
#include "packet_maps.h"
#include "packet_parse.h"
#include "sockmap_maps.h"

/* The kernel's include/net/tcp_ecn.h: bits of tcp_sock.ecn_flags. */
#define TCP_ECN_MODE_RFC3168 1
#define TCP_ECN_MODE_ACCECN 16

/* What is read of one of the agent's two sockets. */
struct end {
	__u32 rcv_nxt, copied_seq, snd_una, write_seq;
	__u32 sent, received; /* bytes since the connection was made */
	__u32 ts_recent;      /* last TSval of the peer */
	__u32 ts_now;         /* TSval that this socket would send now */
	__u32 max_window, advmss, peer_mss, pmtu;
	__u32 device_in, device_out;
	__u8 tstamp_ok, sack_ok, snd_wscale, rcv_wscale, ecn;
};

/*
 * Looks up the socket that packets with this tuple belong to. Its fields are read
 * without its lock, which its owner may hold: each is one load, and the caller's
 * conditions are such that they hold only if nothing is going on.
 */
static __noinline enum reason read_end(struct __sk_buff *skb, const struct tuple *k, bool ipv6, struct end *e)
{
	struct bpf_sock_tuple t = {};
	enum reason reason = NO_SOCKET;
	struct dst_entry *dst;
	struct net_device *dev;
	struct bpf_sock *sk;
	struct tcp_sock *tp;
	__u64 now;

	if (ipv6) {
		__builtin_memcpy(t.ipv6.saddr, k->src, sizeof(t.ipv6.saddr));
		__builtin_memcpy(t.ipv6.daddr, k->dst, sizeof(t.ipv6.daddr));
		t.ipv6.sport = k->sport;
		t.ipv6.dport = k->dport;
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), -1 /* BPF_F_CURRENT_NETNS */, 0);
	} else {
		t.ipv4.saddr = k->src[3];
		t.ipv4.daddr = k->dst[3];
		t.ipv4.sport = k->sport;
		t.ipv4.dport = k->dport;
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), -1, 0);
	}
	if (!sk)
		return NO_SOCKET;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		goto out;
	if (tp->inet_conn.icsk_inet.sk.__sk_common.skc_state != TCP_ESTABLISHED) {
		reason = CLOSING;
		goto out;
	}
	e->rcv_nxt = tp->rcv_nxt;
	e->copied_seq = tp->copied_seq;
	e->snd_una = tp->snd_una;
	e->write_seq = tp->write_seq;
	/* bytes_acked has the SYN in it (tcp_snd_una_update). */
	e->sent = e->write_seq - e->snd_una + (__u32)tp->bytes_acked - 1;
	e->received = tp->bytes_received;
	e->ts_recent = tp->rx_opt.ts_recent;
	e->max_window = tp->max_window;
	e->advmss = tp->advmss;
	e->peer_mss = tp->rx_opt.mss_clamp; /* or more: TCP_MAXSEG is in it, too */
	e->pmtu = tp->inet_conn.icsk_pmtu_cookie;
	e->tstamp_ok = BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok);
	e->sack_ok = BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok) & 1;
	e->snd_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
	e->rcv_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
	e->ecn = tp->ecn_flags & (TCP_ECN_MODE_RFC3168 | TCP_ECN_MODE_ACCECN);
	now = bpf_ktime_get_ns() / 1000;
	if (!bpf_core_field_exists(tp->tcp_usec_ts) || !BPF_CORE_READ_BITFIELD(tp, tcp_usec_ts))
		now /= 1000;
	e->ts_now = (__u32)now + tp->tsoffset;
	e->device_in = tp->inet_conn.icsk_inet.sk.sk_rx_dst_ifindex;
	e->device_out = 0;
	dst = tp->inet_conn.icsk_inet.sk.sk_dst_cache;
	if (dst) {
		dev = dst->dev;
		if (dev)
			e->device_out = dev->ifindex;
	}
	reason = OK;
out:
	bpf_sk_release(sk);
	return reason;
}

/* What segments a leg's path takes: RFC 9293, section 3.7.1. */
static __always_inline __u32 room(const struct end *e, bool ipv6)
{
	return e->pmtu - (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) - sizeof(struct tcphdr);
}

/* What segments of one leg may carry must fit the other. */
static __always_inline bool segments_fit(const struct end *from, const struct end *to, bool ipv6)
{
	return from->advmss <= room(to, ipv6) && from->advmss <= to->peer_mss;
}

/*
 * What A told the client is no limit if the client has a smaller one of its own
 * (TCP_MAXSEG), which can be seen where its socket is beside A.
 */
static __noinline __u32 sends_at_most(struct __sk_buff *skb, const struct flow *f, bool ipv6, const struct end *a)
{
	const struct tuple *to = &f->legs[BACKEND].to;
	__u32 ifindex = a->device_in, limit = a->advmss;
	struct device *d = bpf_map_lookup_elem(&devices, &ifindex);
	struct bpf_sock_tuple t = {};
	struct tcp_sock *tp;
	struct bpf_sock *sk;

	if (!d || !(d->flags & DEVICE_LOOPBACK))
		return limit;
	if (ipv6) {
		__builtin_memcpy(t.ipv6.saddr, to->src, sizeof(t.ipv6.saddr));
		__builtin_memcpy(t.ipv6.daddr, to->dst, sizeof(t.ipv6.daddr));
		t.ipv6.sport = to->sport;
		t.ipv6.dport = to->dport;
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), -1, 0);
	} else {
		t.ipv4.saddr = to->src[3];
		t.ipv4.daddr = to->dst[3];
		t.ipv4.sport = to->sport;
		t.ipv4.dport = to->dport;
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), -1, 0);
	}
	if (!sk)
		return limit;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && tp->inet_conn.icsk_inet.sk.__sk_common.skc_state == TCP_ESTABLISHED && tp->rx_opt.mss_clamp < limit)
		limit = tp->rx_opt.mss_clamp;
	bpf_sk_release(sk);
	return limit;
}

/*
 * A window of less than two units of the scale that the other end takes it for
 * would be rounded to nothing: RFC 7323, section 2.3.
 */
static __always_inline bool windows_fit(const struct end *from, const struct end *to)
{
	return from->max_window >= 2U << (to->rcv_wscale & 15);
}

static __always_inline bool has_program(__u32 ifindex, __u8 *way)
{
	struct device *d = bpf_map_lookup_elem(&devices, &ifindex);

	if (!d)
		return false;
	*way = d->flags & DEVICE_RAW ? WAY_RAW : WAY_NEIGH;
	return true;
}

/* The two ends and what became of looking at them. */
struct flip {
	struct end a, b; /* the client's and the backend's */
	__u8 way[2];     /* for packets from client and backend */
	__u32 missing;   /* with DEVICE: which has no program */
};

/*
 * Is nothing in flight anywhere? A has exactly the hello unread and the client has
 * acknowledged all that A sent, which is nothing; B has written what the agent said
 * and this packet acknowledges all of it; B received nothing before. Then the two
 * sequence spaces differ by constants from here on.
 */
static __always_inline enum reason quiet(struct __sk_buff *skb, struct flow *f, const struct packet *p, struct flip *flip)
{
	struct tuple a = { .sport = f->legs[BACKEND].to.dport, .dport = f->legs[BACKEND].to.sport };
	enum reason reason;

	if (p->flags & (TH_FIN | TH_SYN | TH_RST))
		return CLOSING;
	if (p->flags & TH_URG)
		return URGENT;
	__builtin_memcpy(a.src, f->legs[BACKEND].to.dst, sizeof(a.src));
	__builtin_memcpy(a.dst, f->legs[BACKEND].to.src, sizeof(a.dst));
	reason = read_end(skb, &p->key, p->ipv6, &flip->b);
	if (reason)
		return reason;
	if (flip->b.sent != f->base[BACKEND] || flip->b.write_seq != p->ack)
		return BACKEND_EARLY;
	if (flip->b.rcv_nxt != p->seq || flip->b.copied_seq != p->seq || flip->b.received)
		return BACKEND_QUEUE;
	reason = read_end(skb, &a, p->ipv6, &flip->a);
	if (reason)
		return reason;
	if (flip->a.rcv_nxt - flip->a.copied_seq != f->base[CLIENT])
		return CLIENT_QUEUE;
	if (flip->a.snd_una != flip->a.write_seq)
		return IN_FLIGHT;
	return OK;
}

/* Can the legs be one connection? Nothing here changes in a connection's life. */
static __always_inline enum reason parity(struct __sk_buff *skb, const struct flow *f, const struct packet *p, struct flip *flip)
{
	struct end *a = &flip->a, *b = &flip->b;

	if (b->peer_mss < f->backend_mss)
		b->peer_mss = f->backend_mss;
	/* By the loopback device, the client's own socket knows what it will send. */
	if (a->advmss > b->peer_mss || a->advmss > room(b, p->ipv6))
		a->advmss = sends_at_most(skb, f, p->ipv6, a);

	if (a->tstamp_ok != b->tstamp_ok)
		return TIMESTAMPS;
	if (a->sack_ok != b->sack_ok)
		return SACK;
	if ((a->ecn | b->ecn) & TCP_ECN_MODE_ACCECN)
		return ACCECN;
	if (!segments_fit(a, b, p->ipv6) || !segments_fit(b, a, p->ipv6))
		return MSS;
	if (!windows_fit(a, b) || !windows_fit(b, a))
		return WINDOW;
	flip->missing = a->device_in;
	if (!has_program(a->device_in, &flip->way[BACKEND]))
		return DEVICE;
	flip->missing = a->device_out;
	if (!has_program(a->device_out, &flip->way[BACKEND]))
		return DEVICE;
	flip->missing = b->device_out;
	if (!has_program(b->device_out, &flip->way[CLIENT]))
		return DEVICE;
	return OK;
}

/* Fills in what translation needs. Only the holder of FLIPPING does so. */
static __always_inline void join(struct __sk_buff *skb, struct flow *f, const struct flip *flip)
{
	const struct end *a = &flip->a, *b = &flip->b;
	struct leg *client = &f->legs[CLIENT], *backend = &f->legs[BACKEND];
	__u32 now = ticks();

	client->seq_delta = b->write_seq - a->rcv_nxt;
	backend->seq_delta = a->write_seq - b->rcv_nxt;
	/* At least what was sent so far, as timestamps must not go back (RFC 7323, section 5). */
	client->tsval_delta = b->ts_now - a->ts_recent;
	backend->tsval_delta = a->ts_now - b->ts_recent;
	client->wscale_in = a->snd_wscale;
	client->wscale_out = b->rcv_wscale;
	backend->wscale_in = b->snd_wscale;
	backend->wscale_out = a->rcv_wscale;
	if ((a->ecn ^ b->ecn) & TCP_ECN_MODE_RFC3168) {
		client->flags |= LEG_NO_ECN;
		backend->flags |= LEG_NO_ECN;
	}
	client->ifindex = b->device_out;
	client->way = flip->way[CLIENT];
	backend->ifindex = a->device_out;
	backend->way = flip->way[BACKEND];
	/*
	 * Between two sockets of the loopback device the packet has its route already.
	 */
	if (client->ifindex == backend->ifindex && a->device_in == client->ifindex && skb->ifindex == client->ifindex) {
		struct device *d = bpf_map_lookup_elem(&devices, &client->ifindex);

		if (d && d->flags & DEVICE_LOOPBACK)
			client->way = backend->way = WAY_UP;
	}
	f->moved[CLIENT].acked = f->base[CLIENT] = a->write_seq;
	f->moved[BACKEND].acked = f->base[BACKEND] = b->write_seq;
	f->moved[CLIENT].seen = f->moved[BACKEND].seen = now;
	f->spliced = now;
}

/* Remembers the ends' sockets if they are this host's. */
static __always_inline void join_sockets(__u64 id, struct flow *f, const struct flip *flip)
{
	const struct end *a = &flip->a, *b = &flip->b;
	/* Of A, which was accepted, bytes_acked does not have the SYN in it. */
	struct connection client = { .own = a->rcv_nxt - a->received, .peer = a->write_seq - a->sent - 1 };
	struct connection backend = { .own = b->rcv_nxt - b->received, .peer = b->write_seq - b->sent };

	if (f->flags & FLOW_SHORTCUT && claim(id, &client, &backend))
		f->flags |= FLOW_LOCAL;
}

/*
 * A packet of an armed flow's backend. Returns true if the flow is spliced now.
 */
static __noinline bool try_flip(struct __sk_buff *skb, __u64 id, struct flow *f, const struct packet *p)
{
	struct flip flip = {};
	enum reason reason;

	/*
	 * First without FLIPPING, in which nothing can be sent: what is not yet
	 * acknowledged may still be on its way out.
	 */
	reason = quiet(skb, f, p, &flip);
	if (!reason)
		reason = parity(skb, f, p, &flip);
	if (reason == BACKEND_EARLY && !p->payload && !(p->flags & (TH_FIN | TH_SYN | TH_RST)))
		return false; /* not all is acknowledged: wait */
	if (!reason) {
		if (transit(f, ARMED, FLIPPING) != ARMED)
			goto lost;
		/*
		 * Now for good. What A has acknowledged by now is seen here; what it
		 * acknowledges from now on the guard drops.
		 */
		reason = is_of(f, BACKEND, &p->key) ? quiet(skb, f, p, &flip) : NO_SOCKET;
		if (!reason) {
			__u32 unread = f->base[CLIENT], written = f->base[BACKEND];

			join(skb, f, &flip);
			join_sockets(id, f, &flip);
			if (transit(f, FLIPPING, SPLICED) == FLIPPING) {
				count(FLIPS, 1);
				emit(id, EVENT_SPLICED, OK, 0);
				return true;
			}
			f->base[CLIENT] = unread;
			f->base[BACKEND] = written;
			goto lost;
		}
		if (transit(f, FLIPPING, DECLINED) != FLIPPING)
			goto lost;
		emit(id, EVENT_DECLINED, reason, 0);
		return false;
	}
	if (transit(f, ARMED, DECLINED) == ARMED)
		emit(id, EVENT_DECLINED, reason, reason == DEVICE ? flip.missing : 0);
	return false;
lost:
	count(FLIPS_LOST, 1);
	return state_of(f) == SPLICED;
}

#endif
