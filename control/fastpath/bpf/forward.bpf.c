// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Forwards what vswitchd has decided: a frame between two ports whose stations it knows. Everything else is left to vswitchd.
// These programs never drop, learn, flood or answer.
//
//   container ── eth0 ═ vp-a ──tap──> vs_filter   on vswitchd's packet socket: "forwarded here", or "copy it to me"
//                        └────tcx──> vs_port      carries that verdict out: redirect_peer ──> eth0 of the other container
//
// Packet sockets see a frame before tcx does (__netif_receive_skb_core, net/core/dev.c), so without the filter vswitchd would
// get a copy of each frame that is forwarded here. One of the two programs decides, and the other does what it said: if both
// looked into the tables, an entry that changes in between would lose the frame or send it twice.
//
// The types below are mirrored in src/layout.rs; LAYOUT there is their version.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define MAP(kind, entries, k, v, bits)                                                                                       \
	struct {                                                                                                             \
		int(*type)[kind], (*max_entries)[entries], (*map_flags)[bits];                                               \
		k *key;                                                                                                      \
		v *value;                                                                                                    \
	}

static void *(*const lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const load_bytes)(const void *skb, __u32 at, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const change_type)(void *skb, __u32 type) = (void *)BPF_FUNC_skb_change_type;
static long (*const redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*const loop)(__u32 rounds, void *round, void *context, __u64 flags) = (void *)BPF_FUNC_loop;
static __u64 (*const ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u64 (*const coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u32 (*const cpu)(void) = (void *)BPF_FUNC_get_smp_processor_id;

#define BE16(x) __builtin_bswap16(x)
#define TCX_NEXT_PROGRAM -1
#define PACKET_FOR_HOST 0 // PACKET_HOST, include/uapi/linux/if_packet.h

enum { LANES = 4096, STATIONS = 65536 };
enum { ETHERNET = 14, IPV4 = 20, IPV6 = 40, UDP_HEADER = 8 };
enum { TCP = 6, UDP = 17, ICMP = 1, ICMP6 = 58 };
enum { STUCK_MS = 1000, WAIT_MS = 1000, BRAKE_FROM_MS = 10, BRAKE_TO_MS = 50, BRAKE_NS = 100000, BRAKE_LOOKS = 1 << 16 };

// A station, in vswitchd's table.
struct key {
	__u16 network;
	__u8 mac[6];
} __attribute__((aligned(8)));

struct station {
	__u32 lane;
	__u32 epoch; // valid while its lane has this one
	__u32 seen;  // the last tick in which it sent
	__u32 flags;
};
enum { OWN = 1, AGES = 2 }; // station.flags: the address of the interface itself; it expires

// A port, as the destination of frames. The first part is vswitchd's, the second is about the order of frames.
struct lane {
	__u32 ifindex; // of the host's end
	__u32 flags;
	__u32 mtu; // of the longest packet
	__u32 epoch;
	__u32 ageing; // ticks
	__u32 horizon;
	__u32 network;
	__u32 pad[9];
	// Unicast frames left to vswitchd, counted before they are queued in the socket, and behind it; of the latter, those that
	// vswitchd is done with. Equal: nothing that it has yet to forward can be overtaken.
	__u32 up, queued, done;
	// Since which millisecond frames are left to vswitchd for the sake of their order only, and since which of these it has taken
	// nothing from its socket; 0: they are not.
	__u32 waiting, stuck;
	__u32 pad2[11];
};
enum { READY = 1, ISOLATED = 2 }; // lane.flags

struct pair4 {
	__u32 first, last;
};
struct pair6 {
	__u64 first[2], last[2];
};
enum { MACS = 4, RANGES = 4 };

// What the station of a port may claim to be: switch/src/guard/.
struct guard {
	__u32 judges, judges_ip, macs, v4, v6, pad;
	struct key mac[MACS];
	struct pair4 range4[RANGES];
	struct pair6 range6[RANGES];
};

// A port, as the source of frames: by the index of its host's end.
struct port {
	__u32 lane;
	__u32 network;
	struct guard guard;
};

// What was forwarded here, by CPU and lane.
struct tally {
	__u64 rx_frames, rx_bytes, rx_super;
	__u64 tx_frames, tx_bytes, tx_super;
	__u64 pad[2];
};

struct verdict {
	__u32 what;
	__u32 ifindex, len; // of the frame it is about
	__u32 from, to;     // lanes
	__u32 flags;        // of the destination
	__u32 out;          // ifindex of the destination
	__u32 pad;
};
enum { NONE = 0, FORWARD = 1, UP = 2, UP_COUNTED = 3 }; // verdict.what

MAP(BPF_MAP_TYPE_HASH, LANES, __u32, struct port, 0) ports SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, STATIONS, struct key, struct station, 0) stations SEC(".maps");
MAP(BPF_MAP_TYPE_ARRAY, LANES, __u32, struct lane, BPF_F_MMAPABLE) lanes SEC(".maps");
MAP(BPF_MAP_TYPE_ARRAY, LANES, __u32, struct tally, BPF_F_MMAPABLE) tallies SEC(".maps"); // entries: by the CPUs, when loaded
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, struct verdict, 0) verdicts SEC(".maps");

INLINE __u32 ticks(void)
{
	return coarse_ns() >> 26; // 67 ms
}

// A station that vswitchd knows and that has not expired. Those that do not age, every container's, cost no look at the clock.
INLINE struct station *find(struct port *port, const __u8 *mac, struct lane **lane)
{
	struct key key = { .network = port->network };
	__builtin_memcpy(key.mac, mac, 6);
	struct station *it = lookup(&stations, &key);
	if (!it)
		return 0;
	__u32 at = it->lane;
	*lane = lookup(&lanes, &at);
	if (!*lane || (*lane)->epoch != it->epoch)
		return 0;
	if ((it->flags & AGES) && (__s32)(ticks() - it->seen) > (__s32)(*lane)->ageing)
		return 0;
	return it;
}

INLINE int is_tag(__u16 type)
{
	return type == 0x8100 || type == 0x88a8 || type == 0x9100 || type == 0x9200 || type == 0x9300;
}

INLINE int holds4(const struct guard *guard, __u32 address)
{
	int found = 0;
#pragma unroll
	for (int i = 0; i < RANGES; i++)
		found |= i < guard->v4 && guard->range4[i].first <= address && address <= guard->range4[i].last;
	return found;
}

INLINE int is_least(const __u64 *one, const __u64 *other)
{
	return one[0] < other[0] || (one[0] == other[0] && one[1] <= other[1]);
}

INLINE int holds6(const struct guard *guard, const __u64 *address)
{
	int found = 0;
#pragma unroll
	for (int i = 0; i < RANGES; i++)
		found |= i < guard->v6 && is_least(guard->range6[i].first, address) && is_least(address, guard->range6[i].last);
	return found;
}

// Whether the ports of a datagram are neither of a server of DHCP nor of its clients.
INLINE int is_not_dhcp(const __u8 *ports, __u16 server, __u16 client)
{
	return (ports[0] << 8 | ports[1]) != server && (ports[2] << 8 | ports[3]) != client;
}

INLINE int accepts4(struct __sk_buff *skb, const struct guard *guard)
{
	// With the first bytes of what it carries, which a packet that is forwarded here has.
	__u8 ip[IPV4 + 4];
	if (load_bytes(skb, ETHERNET, ip, sizeof ip) || ip[0] != 0x45)
		return 0;
	__u32 source = (__u32)ip[12] << 24 | ip[13] << 16 | ip[14] << 8 | ip[15];
	if (guard->judges_ip && !holds4(guard, source))
		return 0;
	if (ip[9] == TCP || (ip[6] & 0x1f) || ip[7])
		return 1;
	if (ip[9] == UDP)
		return is_not_dhcp(ip + IPV4, 67, 68);
	if (ip[9] == ICMP) // neither "redirect" nor "router advertisement"
		return ip[IPV4] != 5 && ip[IPV4] != 9;
	return 1;
}

INLINE int accepts6(struct __sk_buff *skb, const struct guard *guard)
{
	struct {
		__u8 version, rest[3];
		__be16 length;
		__u8 next, hops;
		__be64 source[2], destination[2];
		__u8 carried[4];
	} __attribute__((packed)) ip __attribute__((aligned(8)));
	if (load_bytes(skb, ETHERNET, &ip, sizeof ip) || ip.version >> 4 != 6)
		return 0;
	__u64 source[2] = { __builtin_bswap64(ip.source[0]), __builtin_bswap64(ip.source[1]) };
	if (guard->judges_ip && !holds6(guard, source))
		return 0;
	if (ip.next == TCP)
		return 1;
	if (BE16(ip.length) < UDP_HEADER) // padding may not be taken for a header
		return 0;
	if (ip.next == UDP)
		return is_not_dhcp(ip.carried, 547, 546);
	if (ip.next == ICMP6) // no neighbour discovery
		return ip.carried[0] < 133 || ip.carried[0] > 137;
	return 0; // extension headers among others
}

// Whether the guard surely accepts the frame.
INLINE int accepts(struct __sk_buff *skb, const struct guard *guard, const __u8 *h, __u16 type)
{
	struct key source = {};
	int is_own = 0;
	__builtin_memcpy(source.mac, h + 6, 6);
#pragma unroll
	for (int i = 0; i < MACS; i++)
		is_own |= i < guard->macs && *(__u64 *)&source == *(const __u64 *)&guard->mac[i];
	if (!is_own)
		return 0;
	if (type == 0x0800)
		return accepts4(skb, guard);
	if (type == 0x86dd)
		return accepts6(skb, guard);
	return type != 0x0806 && type >= 0x0600;
}

// Length of the longest packet that the frame stands for.
INLINE __u32 longest(struct __sk_buff *skb, __u16 type)
{
	__u32 ip, transport = UDP_HEADER;
	__u8 byte, protocol;
	if (!skb->gso_size)
		return skb->len - ETHERNET;
	if (type == 0x0800) {
		if (load_bytes(skb, ETHERNET, &byte, 1) || load_bytes(skb, ETHERNET + 9, &protocol, 1))
			return ~0U;
		ip = (byte & 15) * 4;
	} else if (type == 0x86dd) {
		if (load_bytes(skb, ETHERNET + 6, &protocol, 1))
			return ~0U;
		ip = IPV6;
	} else {
		return ~0U;
	}
	if (protocol == TCP) {
		if (load_bytes(skb, ETHERNET + ip + 12, &byte, 1))
			return ~0U;
		transport = (byte >> 4) * 4;
	} else if (protocol != UDP) {
		return ~0U;
	}
	return skb->gso_size + ip + transport;
}

INLINE int is_done(const volatile struct lane *own)
{
	return own->up == own->done;
}

struct brake {
	const volatile struct lane *own;
	__u64 until;
	int is_done;
};

static long look(__u32 round, struct brake *it)
{
	(void)round;
	it->is_done = is_done(it->own);
	return it->is_done || ns() > it->until;
}

// Holds the frame, and with it its sender, until vswitchd is done with those before it. Returns whether it is.
INLINE int brake(const struct lane *own)
{
	struct brake it = { own, ns() + BRAKE_NS, 0 };
	loop(BRAKE_LOOKS, look, &it, 0);
	return it.is_done;
}

// Whether vswitchd is to forward a frame first that came before.
//
// Its socket may never be empty while frames come faster than it forwards, and what waits there may not be overtaken. So for
// some milliseconds of each second the port is braked: each frame waits for vswitchd, up to 100 us. Only a vswitchd that takes
// nothing from the socket for a second is not waited for: what is in there then comes late, when it goes on.
INLINE int is_behind(struct lane *own)
{
	if (is_done(own)) {
		if (own->waiting)
			own->waiting = own->stuck = 0;
		return 0;
	}
	__u32 now = (coarse_ns() >> 20) | 1;
	if (!own->waiting)
		own->waiting = now;
	if (!own->stuck)
		own->stuck = now;
	if (now - own->stuck > STUCK_MS)
		return 0;
	__u32 waited = now - own->waiting;
	if (waited > WAIT_MS)
		own->waiting = now;
	return waited < BRAKE_FROM_MS || waited > BRAKE_TO_MS || !brake(own);
}

// Decides about a frame of `port`, whose first bytes are `h`.
INLINE void decide(struct __sk_buff *skb, struct port *port, struct lane *own, const __u8 *h, struct verdict *said)
{
	struct lane *home, *to;
	__u16 type = BE16(*(__u16 *)(h + 12));
	__u32 flags = own->flags;
	said->what = UP;
	if (h[0] & 1)
		return;
	said->what = UP_COUNTED;
	if (!(flags & READY) || skb->vlan_present || is_tag(type))
		return;
	struct station *from = find(port, h + 6, &home);
	if (!from || from->lane != port->lane)
		return;
	struct station *there = find(port, h, &to);
	if (!there || there->lane == port->lane || !(to->flags & READY) || to->network != port->network)
		return;
	if ((to->flags & flags & ISOLATED) || (own->horizon && own->horizon == to->horizon) || longest(skb, type) > to->mtu)
		return;
	if (port->guard.judges && !accepts(skb, &port->guard, h, type))
		return;
	if (from->flags & AGES) {
		__u32 now = ticks();
		if (from->seen != now)
			from->seen = now;
	}
	said->to = there->lane;
	said->flags = there->flags;
	said->out = to->ifindex;
	said->what = FORWARD;
}

INLINE struct tally *tally(__u32 lane)
{
	__u32 at = cpu() * LANES + lane;
	return lookup(&tallies, &at);
}

// On vswitchd's packet socket: 0 for what vs_port forwards, so that it is not copied; -1 for all of the frame.
SEC("socket")
int vs_filter(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, zero = 0;
	__u8 h[16] __attribute__((aligned(8)));
	struct port *port = lookup(&ports, &ifindex);
	struct verdict *said = lookup(&verdicts, &zero);
	if (!port || !said || load_bytes(skb, 0, h, ETHERNET))
		return -1;
	struct lane *own = lookup(&lanes, &port->lane);
	if (!own)
		return -1;
	said->ifindex = ifindex;
	said->len = skb->len;
	said->from = port->lane;
	decide(skb, port, own, h, said);
	if (said->what == FORWARD && is_behind(own))
		said->what = UP_COUNTED;
	if (said->what == UP_COUNTED)
		__sync_fetch_and_add(&own->up, 1);
	return said->what == FORWARD ? 0 : -1;
}

// The host's end of a port's veth pair, on the way in.
SEC("classifier")
int vs_port(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, zero = 0;
	struct verdict *said = lookup(&verdicts, &zero);
	if (!said)
		return TCX_NEXT_PROGRAM;
	if (!said->what || said->ifindex != ifindex || said->len != skb->len) {
		// No filter has seen it: vswitchd is not running, and nothing waits in its socket.
		__u8 h[16] __attribute__((aligned(8)));
		struct port *port = lookup(&ports, &ifindex);
		if (!port || load_bytes(skb, 0, h, ETHERNET))
			return TCX_NEXT_PROGRAM;
		struct lane *own = lookup(&lanes, &port->lane);
		if (!own)
			return TCX_NEXT_PROGRAM;
		said->from = port->lane;
		decide(skb, port, own, h, said);
		if (said->what == UP_COUNTED)
			said->what = UP;
	}
	__u32 what = said->what;
	said->what = NONE;
	if (what == UP_COUNTED) {
		struct lane *own = lookup(&lanes, &said->from);
		if (own)
			__sync_fetch_and_add(&own->queued, 1);
	}
	if (what != FORWARD)
		return TCX_NEXT_PROGRAM;
	__u32 is_super = skb->gso_size != 0;
	struct tally *in = tally(said->from), *out = tally(said->to);
	if (in) {
		in->rx_frames++;
		in->rx_bytes += skb->len;
		in->rx_super += is_super;
	}
	if (out) {
		out->tx_frames++;
		out->tx_bytes += skb->len;
		out->tx_super += is_super;
	}
	// Of the host's own frames: a mark is for the host's rules, not for the container's.
	if (skb->mark)
		skb->mark = 0;
	// Without a second pass through the receive queue, and only to the interface itself: what stands behind it, a bridge, must see
	// whom the frame is for (the kernel marks it as the interface's own).
	if (said->flags & OWN) {
		if (skb->pkt_type != PACKET_FOR_HOST)
			change_type(skb, PACKET_FOR_HOST);
		return redirect_peer(said->out, 0);
	}
	return redirect(said->out, 0);
}

// A string of the kernel's list (include/linux/license.h); none of the helpers above needs it.
char _license[] SEC("license") = "Dual MIT/GPL";
