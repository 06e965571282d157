//! Keeps the host's own IP stack off an interface that belongs to the switch alone.
//!
//! The switch reads the host's end of a veth pair by an AF_PACKET socket, which gets a *copy*: the frame itself goes on into the
//! host's stack. There a container would find a second gateway that answers ARP with another MAC address, a router that
//! forwards past the switch's limits and counters, and, out of an internal network, a way into the host. The order in
//! `__netif_receive_skb_core` (net/core/dev.c) is: packet sockets of all protocols, ingress filters, bridges and VLANs on top,
//! ARP and IP. So an ingress filter that drops everything takes nothing from the switch and leaves nothing to the host,
//! whatever `rp_filter`, `arp_ignore` or `forwarding` are set to.
//!
//! What the host would send by itself is disabled as well: ARP by the interface's flag, IPv6 (MLD reports are sent without
//! an address, too) by its sysctl. Egress is not filtered: the switch's own frames would pass that filter too.

use std::{fs, io};

use futures_util::StreamExt;
use rtnetlink::{
    LinkUnspec,
    packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
        tc::{
            TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
        },
    },
};
use rustix::io::Errno;
use tracing::warn;

use super::{Link, LinkError, Links, error::errno};
use crate::netns::run_in;

/// One classic BPF instruction, `ret #2`: `TC_ACT_SHOT` for every frame (`struct sock_filter` of
/// include/uapi/linux/filter.h: code, two jumps, value). It needs no loader, no privilege beyond that of setting filters, and
/// no module for actions besides `cls_bpf`.
fn drop_all() -> Vec<u8> {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const SHOT: u32 = 2; // TC_ACT_SHOT, include/uapi/linux/pkt_cls.h
    [&RETURN.to_ne_bytes()[..], &[0, 0], &SHOT.to_ne_bytes()].concat()
}

impl Links {
    /// Stops the host's IP stack from receiving and sending on `link`. Idempotent.
    ///
    /// Returns warnings about what this kernel lacks, as sentences; the interface can be used all the same.
    ///
    /// # Errors
    /// The interface is gone, or there is no permission to change it.
    pub async fn seclude(&self, link: &Link) -> Result<Vec<String>, LinkError> {
        let ifname = &link.name;
        // A request of its own: together with others the kernel would set the link up before it reads the address mode.
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet = LinkUnspec::new_with_index(link.index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet]))
            .build();
        let no_arp = LinkUnspec::new_with_index(link.index).arp(false).build();
        for message in [quiet, no_arp] {
            match self.handle.link().set(message).execute().await {
                // A kernel without IPv6 sends nothing.
                Err(error) if errno(&error) == Some(Errno::AFNOSUPPORT) => {}
                result => result.map_err(|error| self.error(&format!("set up {ifname}"), error))?,
            }
        }
        let mut warnings = Vec::new();
        if let Err(error) = self.sysctl(&format!("ipv6/conf/{ifname}/disable_ipv6"), "1") {
            warnings.push(format!(
                "the host's IPv6 may send by {ifname}: its disable_ipv6 cannot be set ({error}); make /proc/sys/net writable, or \
                 set it on the host"
            ));
        }
        if let Err(error) = self.drop_ingress(link).await {
            match errno(&error) {
                Some(Errno::PERM | Errno::ACCESS | Errno::NODEV) => {
                    return Err(self.error(&format!("keep the host's stack off {ifname}"), error));
                }
                _ => warnings.push(self.seclude_by_sysctl(ifname, &error)),
            }
        }
        Ok(warnings)
    }

    /// Lets the host believe no router that it hears by an interface of its own: containers are none. Its addresses and routes
    /// there are configured, so nothing is lost; a LAN's routers are heard by the interface to the LAN.
    pub(super) fn distrust(&self, ifname: &str) {
        let settings = [
            ("ipv6", "accept_ra"),
            ("ipv6", "autoconf"),
            ("ipv6", "accept_redirects"),
            ("ipv4", "accept_redirects"),
        ];
        for (family, setting) in settings {
            if let Err(error) = self.sysctl(&format!("{family}/conf/{ifname}/{setting}"), "0") {
                warn!(
                    "the host may take a container behind {ifname} for a router: {setting} cannot be set ({error})"
                );
            }
        }
    }

    /// Drops what comes in, after the packet sockets' copy.
    async fn drop_ingress(&self, link: &Link) -> Result<(), rtnetlink::Error> {
        let index = i32::try_from(link.index).expect("the kernel numbers interfaces with an int");
        // `ingress`, not `clsact`, which costs 26 ns more for every frame sent (see docs/ARCHITECTURE.md).
        match self.handle.qdisc().add(index).ingress().execute().await {
            Err(error) if errno(&error) == Some(Errno::EXIST) => {}
            result => result?,
        }
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(drop_filter(index)));
        // Without NLM_F_EXCL the filter of an earlier run is replaced atomically.
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(message) = answer.payload
                && message.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(message));
            }
        }
        Ok(())
    }

    /// The next best: ARP and IPv6 are off already; for IPv4 strict reverse path filtering drops every sender, as no route
    /// leads there, and forwarding is off.
    fn seclude_by_sysctl(&self, ifname: &str, why: &rtnetlink::Error) -> String {
        let strict = self.sysctl(&format!("ipv4/conf/{ifname}/rp_filter"), "1");
        let rest = match strict.and_then(|()| self.sysctl(&format!("ipv4/conf/{ifname}/forwarding"), "0")) {
            Ok(()) => "rp_filter and forwarding of the interface stand in for it".to_owned(),
            Err(error) => format!("nor can its rp_filter and forwarding be set ({error})"),
        };
        let why = errno(why).map_or_else(|| why.to_string(), |errno| io::Error::from(errno).to_string());
        format!(
            "the host's IPv4 hears what comes in by {ifname}: the kernel takes no filter that drops it there ({why}), and {rest}; load \
             its modules sch_ingress and cls_bpf"
        )
    }

    /// Writes a setting below /proc/sys/net of this namespace; one that the kernel lacks is skipped.
    pub(super) fn sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        let written = run_in(&self.namespace, || match fs::read_to_string(&path) {
            Ok(now) if now.trim_end() == value => Ok(()),
            _ => fs::write(&path, value),
        });
        match written.and_then(|result| result) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The filter, first in line at the ingress of an interface.
fn drop_filter(index: i32) -> TcMessage {
    // From include/uapi/linux/pkt_cls.h, where the crate lacks it.
    const TCA_BPF_OPS_LEN: u16 = 4;
    const TCA_BPF_OPS: u16 = 5;
    const ETH_P_ALL: u16 = 3; // include/uapi/linux/if_ether.h
    const PRIORITY: u32 = 1;
    let program = drop_all();
    let instructions: u16 = 1;
    let other = |kind, value| TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(kind, value)));
    let options = vec![
        other(TCA_BPF_OPS_LEN, instructions.to_ne_bytes().to_vec()),
        other(TCA_BPF_OPS, program),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ];
    let header = TcHeader {
        index,
        handle: TcHandle { major: 0, minor: 1 },
        parent: TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS },
        info: (PRIORITY << 16) | u32::from(ETH_P_ALL.to_be()),
        ..TcHeader::default()
    };
    let attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned()), TcAttribute::Options(options)];
    TcMessage::from_parts(header, attributes)
}
