// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
//go:build ignore

/*
 * Flows whose two ends are sockets of this host. Once they are spliced, and each
 * other's TCP peers, what one end sends is put straight into the other's receive
 * queue: the short cut. Whatever does not take it goes the road: TCP, translated
 * packet by packet.
 *
 * Two rules make it right. Order: the reader gets what came by the short cut before
 * what came by the road, so the short cut is taken only when the road is empty, up to
 * the reader. Memory: that queue has no limit of its own, so above a mark the road is
 * taken, whose end-to-end windows hold the sender back.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "packet.h"
#include "packet_maps.h"
#include "sockmap.h"
#include "sockmap_maps.h"

/* A candidate that hears so many ACKs without being a flow's is none. */
#define LOOKS_MAX 64

/* Whose socket one is. Goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct owner);
} owners SEC(".maps");

/*
 * The sockets that are to join: what sockmap_join walks. Put in by sockmap_ack, taken
 * out by sockmap_join.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct owner);
} joining SEC(".maps");

/* The sockets that can be sent to. They leave it when they are closed. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2 * SHORTCUTS_MAX);
	__type(key, struct socket_key);
	__type(value, __u64);
} sockets SEC(".maps");

/* One element. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} sockmap_settings SEC(".maps");

static __always_inline const struct settings *orders(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sockmap_settings, &zero);
}

/* Bounded where it is used: verifiers before Linux 6.3 forget bounds of what is spilled. */
static __always_inline struct shortcut_end *end_of(struct shortcut *s, __u64 side)
{
	asm volatile("%0 &= 1" : "+r"(side));
	return &s->ends[side];
}

static __always_inline __u8 kind_of_remote(const struct settings *s, const struct bpf_sock_ops *ctx)
{
	__u64 port = bpf_ntohl(ctx->remote_port);

	/* Verifiers before Linux 6.18 do not know what a swap of bytes leaves. */
	asm volatile("%0 &= 0xffff" : "+r"(port));
	return s->ports[port];
}

/*
 * A connection is about to be made. The loopback device takes segments of 64 KB; those
 * of a flow that goes on by another device must fit that, too.
 */
static __always_inline void connects(struct bpf_sock_ops *ctx)
{
	const struct settings *s = orders();
	struct bpf_sock *sk = ctx->sk;
	struct dst_entry *dst;
	struct net_device *dev;
	struct tcp_sock *tp;
	int mss;

	if (!s || !sk || !(kind_of_remote(s, ctx) & PORT_SEGMENTS))
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	dst = tp->inet_conn.icsk_inet.sk.sk_dst_cache;
	if (!dst)
		return;
	dev = dst->dev;
	if (!dev || !(dev->flags & IFF_LOOPBACK))
		return;
	mss = ctx->family == AF_INET6 ? s->mss6 : s->mss4;
	if (mss && (!tp->rx_opt.user_mss || tp->rx_opt.user_mss > mss))
		bpf_setsockopt(ctx, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof(mss));
}

/* A connection is there. One whose other end may be the gateway is remembered. */
static __always_inline void established(struct bpf_sock_ops *ctx, __u8 wanted)
{
	struct connection k = { .own = ctx->snd_nxt, .peer = ctx->rcv_nxt };
	const struct settings *s = orders();
	struct candidate c = { .asked = !!(ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_RTT_CB_FLAG) };

	if (!s || !(kind_of_remote(s, ctx) & wanted))
		return;
	if (bpf_map_update_elem(&candidates, &k, &c, BPF_ANY))
		return;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
}

/*
 * What is against a socket in the map: with it, it has other functions for sending and
 * receiving (tcp_bpf_sendmsg, tcp_bpf_recvmsg), which lack some of what TCP's do.
 */
static __always_inline enum misfit misfit_of(const struct tcp_sock *tp)
{
	const struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	const struct socket *socket = sk->sk_socket;
	const struct file *file;

	if (!socket)
		return UNOWNED;
	file = socket->file;
	if (!file)
		return UNOWNED;
	if (!(file->f_flags & O_NONBLOCK))
		return BLOCKING;
	if (tp->inet_conn.icsk_ulp_ops)
		return ULP;
	if (sk->sk_user_data)
		return USED;
	if (sk->__sk_common.skc_flags & 1UL << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY))
		return ZEROCOPY;
	if (sk->sk_rcvlowat > 1)
		return LOWAT;
	if (BPF_CORE_READ_BITFIELD(tp, recvmsg_inq))
		return INQUIRES;
	return FITS;
}

/*
 * No more callbacks, unless somebody else wants them: the flag is the socket's, and
 * programs of others see the same socket, too.
 */
static __always_inline void enough(struct bpf_sock_ops *ctx, __u32 asked)
{
	if (!asked)
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
}

/* Finds the flow that a candidate belongs to. */
static __always_inline void find(struct bpf_sock_ops *ctx, struct bpf_sock *sk, const struct tcp_sock *tp)
{
	/* bytes_acked has the SYN in it where this end was the first to send one. */
	struct connection k = { .own = tp->snd_una - (__u32)tp->bytes_acked + 1, .peer = tp->rcv_nxt - (__u32)tp->bytes_received };
	struct candidate *c = bpf_map_lookup_elem(&candidates, &k);
	struct shortcut fresh = {};
	struct shortcut *s;
	struct owner *o;
	struct flow *f;
	__u32 asked;
	__u64 id;
	__u32 side;

	if (!c) {
		k.own--;
		c = bpf_map_lookup_elem(&candidates, &k);
	}
	if (!c)
		return; /* whoever has asked for this, it was not for us */
	id = c->flow;
	asked = c->asked;
	if (!id) {
		if (++c->looks == LOOKS_MAX) {
			bpf_map_delete_elem(&candidates, &k);
			enough(ctx, asked);
		}
		return;
	}
	side = c->side & 1;
	bpf_map_delete_elem(&candidates, &k);
	f = bpf_map_lookup_elem(&flows, &id);
	if (!f)
		return;
	o = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!o)
		return;
	s = bpf_map_lookup_elem(&shortcuts, &id);
	if (!s) {
		bpf_map_update_elem(&shortcuts, &id, &fresh, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&shortcuts, &id);
		if (!s)
			return;
	}
	end_of(s, side)->delta = f->legs[side].seq_delta;
	end_of(s, !side)->peer = (__u64)tp;
	end_of(s, side)->state = FOUND;
	o->side = side;
	o->asked = asked;
	o->flow = id;
}

/* An ACK of data. */
static __always_inline void acked(struct bpf_sock_ops *ctx)
{
	const struct settings *orders_now = orders();
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tp;
	struct shortcut *s;
	struct owner *o, *j;
	enum misfit misfit;
	struct flow *f;
	__u64 id;
	__u32 side;

	if (!sk || !orders_now)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	o = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!o) {
		find(ctx, sk, tp);
		return;
	}
	id = o->flow;
	side = o->side & 1;
	f = bpf_map_lookup_elem(&flows, &id);
	s = bpf_map_lookup_elem(&shortcuts, &id);
	/*
	 * Not before the TLS handshake is over: then it shows whether an end has
	 * turned on kernel TLS, or reads by splice(2). And not for the few packets of
	 * a short flow.
	 */
	if (f && s && (f->moved[CLIENT].packets < orders_now->packets || f->moved[BACKEND].packets < orders_now->packets))
		return;
	enough(ctx, o->asked);
	if (!f || !s || end_of(s, side)->state != FOUND || tp->inet_conn.icsk_inet.sk.__sk_common.skc_state != TCP_ESTABLISHED)
		return; /* too late */
	misfit = end_of(s, side)->misfit;
	if (!misfit)
		misfit = misfit_of(tp);
	end_of(s, side)->misfit = misfit;
	if (misfit)
		return;
	j = bpf_sk_storage_get(&joining, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!j)
		return;
	j->flow = id;
	j->side = side;
	end_of(s, side)->state = FIT;
	if (end_of(s, !side)->state == FIT)
		emit(id, EVENT_LOCAL, OK, 0);
}

/*
 * Hook: sock_ops of the root cgroup: every TCP connection of the host, in all network
 * namespaces. It changes nothing but its own flag for callbacks, and the segment size of
 * connections to the gateway by the loopback device.
 */
SEC("sockops")
int sockmap_watch(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connects(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		established(ctx, PORT_LISTENER);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		established(ctx, PORT_SOURCE);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		acked(ctx);
		break;
	}
	return 1;
}

/*
 * Hook: iterator over joining, run by user space when it has heard that both ends of a
 * flow are fit. It alone puts sockets into the map: a program that sees a socket's
 * callbacks may do so only when the connection is established, which is too early.
 */
SEC("iter/bpf_sk_storage_map")
int sockmap_join(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct owner *o = ctx->value;
	struct sock *sk = ctx->sk;
	struct socket_key k;
	struct tcp_sock *tp;
	struct shortcut *s;
	enum misfit misfit;
	__u64 id;
	__u32 side;

	if (!sk || !o)
		return 0;
	if (sk->__sk_common.skc_state != TCP_ESTABLISHED) {
		bpf_sk_storage_delete(&joining, sk); /* it is closing, and cannot join any more */
		return 0;
	}
	id = o->flow;
	side = o->side & 1;
	s = bpf_map_lookup_elem(&shortcuts, &id);
	if (s && end_of(s, !side)->state < FIT && !end_of(s, !side)->misfit)
		return 0; /* its time comes with the other end's */
	if (s && end_of(s, !side)->state >= FIT) {
		tp = bpf_skc_to_tcp_sock(sk);
		/* It may have been read by splice(2) since it was found fit. */
		misfit = end_of(s, side)->misfit;
		if (!misfit)
			misfit = tp ? misfit_of(tp) : USED;
		if (!misfit) {
			k.flow = id;
			k.side = side;
			if (bpf_map_update_elem(&sockets, &k, sk, BPF_NOEXIST))
				misfit = USED;
			else
				end_of(s, side)->state = JOINED;
		}
		if (misfit)
			end_of(s, side)->misfit = misfit;
	}
	bpf_sk_storage_delete(&joining, sk);
	return 0;
}

/* Linux 6.2; before it there is bpf_probe_read_kernel, at many times the cost. */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

/* What is read of the receiving socket, which is not locked, and may be gone. */
struct view {
	bool open; /* it can be sent to, and its reader reads by ordinary means */
	bool busy; /* its reader has it locked */
	__u32 copied_seq;
	__u32 queued;
	__u32 room; /* how much its queue may hold before TCP drops what comes */
};

/* The size of a receive buffer that nobody has set grows, at need (tcp_clamp_window). */
static __always_inline __u32 room_of(__u32 rcvbuf, __u32 userlocks, __u32 most)
{
	return userlocks & SOCK_RCVBUF_LOCK || rcvbuf > most ? rcvbuf : most;
}

static __always_inline bool is_open(__u8 state, __u8 shutdown, int rcvlowat, unsigned int f_flags, const void *ulp)
{
	return (state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSE_WAIT) &&
	       !(shutdown & RCV_SHUTDOWN) && rcvlowat <= 1 && f_flags & O_NONBLOCK && !ulp;
}

static __always_inline struct view view_of(__u64 address)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)address;
	const struct sock *sk = (const struct sock *)tp;
	struct view v = {};

	if (bpf_rdonly_cast) {
		tp = bpf_rdonly_cast(tp, bpf_core_type_id_kernel(struct tcp_sock));
		sk = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct sock));
		v.open = is_open(sk->__sk_common.skc_state, sk->sk_shutdown, sk->sk_rcvlowat, sk->sk_socket->file->f_flags,
				 tp->inet_conn.icsk_ulp_ops);
		v.busy = sk->sk_lock.owned;
		v.copied_seq = tp->copied_seq;
		v.queued = sk->sk_backlog.rmem_alloc.counter;
		v.room = room_of(sk->sk_rcvbuf, BPF_CORE_READ_BITFIELD(sk, sk_userlocks), sk->__sk_common.skc_net.net->ipv4.sysctl_tcp_rmem[2]);
	} else {
		v.open = is_open(BPF_CORE_READ(sk, __sk_common.skc_state), BPF_CORE_READ(sk, sk_shutdown), BPF_CORE_READ(sk, sk_rcvlowat),
				 BPF_CORE_READ(sk, sk_socket, file, f_flags), BPF_CORE_READ(tp, inet_conn.icsk_ulp_ops));
		v.busy = BPF_CORE_READ(sk, sk_lock.owned);
		v.copied_seq = BPF_CORE_READ(tp, copied_seq);
		v.queued = BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter);
		v.room = room_of(BPF_CORE_READ(sk, sk_rcvbuf), BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks),
				 BPF_CORE_READ(sk, __sk_common.skc_net.net, ipv4.sysctl_tcp_rmem[2]));
	}
	return v;
}

/* What a receiver always gets, short as memory may be: tcp_rmem[0] (__sk_mem_raise_allocated). */
#define RECEIVE_MIN 4096

/* Under pressure the short cut would fail where TCP waits. */
static __always_inline bool memory_is_short(const struct sock *sk)
{
	unsigned long *pressure = sk->__sk_common.skc_prot->memory_pressure;
	unsigned long since = 0;

	return !pressure || bpf_probe_read_kernel(&since, sizeof(since), pressure) || since;
}

/*
 * Hook: sk_msg of sockets: a send of a socket that has joined, or a part of one. It
 * runs under the socket's lock.
 *
 * Verdict: SK_PASS; what is to be redirected goes into the other end's queue. SK_DROP,
 * which the sender hears of as EACCES, while a flow that cannot go on is not ended yet.
 */
SEC("sk_msg")
int sockmap_send(struct sk_msg_md *msg)
{
	const struct settings *orders_now = orders();
	struct shortcut_end *own, *peer;
	struct bpf_sock *sk = msg->sk;
	struct socket_key key;
	struct tcp_sock *tp;
	struct shortcut *s;
	struct owner *o;
	struct view to;
	__u32 heard;
	__u64 id;
	bool road;
	__u32 side;

	if (!sk || !orders_now)
		return SK_PASS;
	o = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!o)
		return SK_PASS;
	id = o->flow;
	side = o->side & 1;
	s = bpf_map_lookup_elem(&shortcuts, &id);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!s || !tp)
		return SK_PASS;
	own = end_of(s, side);
	peer = end_of(s, !side);
	/* More would come to the reader before what waits for it and it does not see. */
	if (peer->stuck)
		return SK_DROP;
	to = view_of(own->peer);
	heard = peer->bytes + peer->road;
	if (heard != own->heard) {
		own->heard = heard;
		own->since = 0;
	}
	/*
	 * After shutdown(2) there is nothing to be sent, which TCP knows to say. With
	 * kernel TLS turned on after all, this is what is yet to be encrypted. A reader
	 * that has used splice(2) once may do so again. And a long stream one way
	 * does not wait for the reader's lock, again and again: TCP need not.
	 *
	 * Most of the receive buffer is left to TCP: reading what came by the short cut
	 * opens no window that has closed.
	 */
	road = peer->state != JOINED || peer->misfit || tp->inet_conn.icsk_inet.sk.sk_shutdown & SEND_SHUTDOWN ||
	       tp->inet_conn.icsk_ulp_ops ||
	       !to.open || to.copied_seq != tp->write_seq + own->delta ||
	       (own->since >= orders_now->mark && to.busy) || (own->by_road && to.queued) ||
	       to.queued + msg->size > orders_now->mark || to.queued + msg->size > to.room / 4 ||
	       (to.queued + msg->size > RECEIVE_MIN && memory_is_short(&tp->inet_conn.icsk_inet.sk));
	if (!road) {
		key.flow = id;
		key.side = !side;
		/* The other end is gone: let TCP find out. */
		road = bpf_msg_redirect_hash(msg, &sockets, &key, BPF_F_INGRESS) != SK_PASS;
	}
	if (own->since < orders_now->mark)
		own->since += msg->size;
	if (own->by_road != road) {
		own->by_road = road;
		own->switches++;
	}
	if (road) {
		own->road += msg->size;
	} else {
		own->bytes += msg->size;
		own->messages++;
		own->seen = ticks();
	}
	return SK_PASS;
}

/* Is the process in a system call that reads by recvmsg? All others are doubted. */
static __always_inline bool reads(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());

	if (bpf_core_field_exists(regs->orig_ax)) {
		switch (BPF_CORE_READ(regs, orig_ax)) {
		case 0:   /* read */
		case 19:  /* readv */
		case 45:  /* recvfrom */
		case 47:  /* recvmsg */
		case 299: /* recvmmsg */
			return true;
		}
	} else if (bpf_core_field_exists(regs->syscallno)) {
		switch (BPF_CORE_READ(regs, syscallno)) {
		case 63:  /* read */
		case 65:  /* readv */
		case 207: /* recvfrom */
		case 212: /* recvmsg */
		case 243: /* recvmmsg */
			return true;
		}
	}
	return false;
}

/* Is there anything unread that came by the short cut? */
static __always_inline bool waits(const struct sock *sk)
{
	/* The lower bits of sk_user_data are flags (SK_USER_DATA_PTRMASK). */
	const struct sk_psock *psock = (const struct sk_psock *)((unsigned long)sk->sk_user_data & ~7UL);
	const struct list_head *first;

	if (!psock)
		return false;
	first = BPF_CORE_READ(psock, ingress_msg.next);
	return first && first != (const struct list_head *)&psock->ingress_msg;
}

/*
 * Hook: tcp_rcv_space_adjust, where all that read what came by TCP go by: recvmsg, but
 * also splice(2), TCP_ZEROCOPY_RECEIVE and the kernel itself, and these do not see what
 * came by the short cut. A socket that is read like that gets no more of it.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(sockmap_read, struct sock *sk)
{
	struct shortcut *s;
	struct owner *o;
	__u64 id;
	__u32 side;

	o = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (!o || reads())
		return 0;
	id = o->flow;
	side = o->side & 1;
	s = bpf_map_lookup_elem(&shortcuts, &id);
	if (!s)
		return 0;
	end_of(s, side)->misfit = READER;
	if (end_of(s, side)->state == JOINED && waits(sk)) {
		end_of(s, side)->stuck = 1;
		emit(id, EVENT_LOCAL, OK, 0);
	}
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
