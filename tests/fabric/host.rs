//! A host at the edge: a real TCP/IP stack behind a network card in memory.

use std::collections::VecDeque;

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::{tcp, udp},
    time::Instant,
    wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address},
};
use vswitch::addr::MacAddr;

/// A network card: two queues.
#[derive(Debug, Default)]
pub(crate) struct Nic {
    pub(crate) received: VecDeque<Vec<u8>>,
    pub(crate) sent: Vec<Vec<u8>>,
    /// Source addresses of all frames received so far.
    pub(crate) sources: Vec<MacAddr>,
}

/// A host with one IPv4 address.
pub(crate) struct Host {
    pub(crate) nic: Nic,
    pub(crate) mac: MacAddr,
    pub(crate) ip: Ipv4Address,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Host {
    /// The host 10.9.0.`id`, whose MAC address ends in `id` as well.
    pub(crate) fn new(id: u8, seed: u64) -> Self {
        let (mac, ip) = (MacAddr([2, 0x42, 10, 9, 0, id]), Ipv4Address::new(10, 9, 0, id));
        let mut nic = Nic::default();
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = seed + u64::from(id);
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ip.into(), 24)).expect("there is room for one");
        });
        Self { nic, mac, ip, interface, sockets: SocketSet::new(vec![]) }
    }

    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.listen(port).expect("a fresh socket may listen");
        self.sockets.add(socket)
    }

    pub(crate) fn connect(&mut self, to: Ipv4Address, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.connect(self.interface.context(), (to, port), 40_000).expect("a fresh socket may connect");
        self.sockets.add(socket)
    }

    pub(crate) fn bind(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 256 * 1472]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a fresh socket may be bound");
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, socket: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    pub(crate) fn send_to(&mut self, socket: SocketHandle, data: &[u8], to: Ipv4Address, port: u16) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(socket);
        socket.send_slice(data, IpEndpoint::new(to.into(), port)).expect("the queue has room");
    }

    pub(crate) fn receive_from(&mut self, socket: SocketHandle) -> Option<Vec<u8>> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(socket);
        socket.recv().ok().map(|(data, _)| data.to_vec())
    }

    /// Sends a gratuitous ARP, as a hypervisor does for a virtual machine that has moved.
    pub(crate) fn announce(&mut self) {
        let ip = self.ip.octets();
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &self.mac.0, &ip, &[0; 6], &ip].concat();
        self.nic.sent.push([&[0xff; 6][..], &self.mac.0, &[8, 6], &arp].concat());
    }

    pub(crate) fn poll(&mut self, now: u64) {
        self.interface.poll(instant(now), &mut self.nic, &mut self.sockets);
    }

    /// When it must be polled next if nothing is received.
    pub(crate) fn next(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        u64::try_from(at.total_millis()).ok()
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
    tcp::Socket::new(buffer(), buffer())
}

fn instant(millis: u64) -> Instant {
    Instant::from_millis(i64::try_from(millis).expect("no test takes that long"))
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        // All checksums, both ways: whatever the fabric corrupts must show.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}

#[derive(Debug)]
pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

#[derive(Debug)]
pub(crate) struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}
