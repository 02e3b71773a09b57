//! The three dumps of rtnetlink(7) that the agent needs: links, addresses, routes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        InfoBridge, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
        VlanProtocol, XdpAttached,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::steer::guard::{Prefix, Tag};

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `IFF_UP`: whether it was brought up, not whether there is a carrier.
    pub up: bool,
    /// `IFF_LOWER_UP`: whether there is a carrier.
    pub carrier: bool,
    /// Whether frames arrive on other interfaces only, for its addresses too: loopback and dummy devices.
    pub passive: bool,
    /// Its hardware address, if it is an Ethernet one.
    pub mac: Option<[u8; 6]>,
    /// Largest packet without the Ethernet header, bytes.
    pub mtu: u32,
    /// The largest that it may have, if its driver has set one.
    pub max_mtu: Option<u32>,
    /// The bridge, bond or DSA conduit's master that it belongs to.
    pub master: Option<u32>,
    /// The device below it, if that is in this network namespace: for a VLAN, the one that carries the tagged frames.
    pub lower: Option<u32>,
    /// The other end of a veth, if that is in this network namespace.
    pub peer: Option<u32>,
    /// Its tag, if it is a VLAN.
    pub vlan: Option<Tag>,
    /// What announces the VLAN tags that it gives frames and takes off, if it is a bridge that does.
    pub filters_vlans: Option<u16>,
    /// `IFLA_NUM_RX_QUEUES`: allocated, not necessarily active.
    pub rx_queues: u32,
    /// `IFLA_NUM_TX_QUEUES`: the same of those to send.
    pub tx_queues: u32,
    /// The XDP program on it.
    pub xdp: Option<XdpAttachment>,
}

/// `IFLA_XDP`: which XDP program is attached, and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    /// `native`, `skb`, `hardware` or `several`.
    pub mode: &'static str,
    /// The kernel's id of the program; `bpftool prog show id N` says more. 0 if several are attached.
    pub program_id: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address, and how many of its leading bits its neighbours have in common.
    pub prefix: Prefix,
    /// Not `IFA_F_PERMANENT`: it ends unless somebody prolongs it, a DHCP server or a router.
    pub dynamic: bool,
}

/// As much of a route as the lock-out guard needs; one with several next hops is as many routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Prefix,
    /// The neighbour that takes the packets, unless their destination is one itself.
    pub gateway: Option<IpAddr>,
    /// The interface that it leaves by.
    pub output: u32,
}

/// All interfaces of this thread's network namespace (`RTM_GETLINK`).
pub fn links() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        if let RouteNetlinkMessage::NewLink(message) = message {
            links.push(read(&message));
        }
    })?;
    Ok(links)
}

/// The interface with this index in this thread's network namespace, if there is one.
pub fn link(index: u32) -> io::Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    let mut found = None;
    let answer = ask(RouteNetlinkMessage::GetLink(request), 0, |message| {
        if let RouteNetlinkMessage::NewLink(message) = message {
            found = Some(read(&message));
        }
    });
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// All addresses of all interfaces (`RTM_GETADDR`).
pub fn addresses() -> io::Result<Vec<Address>> {
    let mut addresses = Vec::new();
    dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
        if let RouteNetlinkMessage::NewAddress(message) = message {
            // On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL, where present, is ours.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            if let Some(ip) = local.or(any) {
                addresses.push(Address {
                    index: message.header.index,
                    prefix: Prefix { ip, bits: message.header.prefix_len },
                    dynamic: !message.header.flags.contains(AddressHeaderFlags::Permanent),
                });
            }
        }
    })?;
    Ok(addresses)
}

/// All unicast routes, of IPv4 and IPv6 (`RTM_GETROUTE`).
pub fn routes() -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                routes.extend(next_hops(&message));
            }
        })?;
    }
    Ok(routes)
}

/// The route by each of its next hops: the one that it names itself, or those of `RTA_MULTIPATH` (ECMP).
fn next_hops(message: &RouteMessage) -> Vec<Route> {
    if message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let everywhere = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_of(address),
        _ => None,
    });
    let bits = message.header.destination_prefix_length;
    let destination = Prefix { ip: ip.unwrap_or(everywhere), bits };
    let mut routes = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(output) => {
                routes.push(Route { destination, gateway: gateway(&message.attributes), output: *output });
            }
            RouteAttribute::MultiPath(hops) => routes.extend(hops.iter().map(|hop| Route {
                destination,
                gateway: gateway(&hop.attributes),
                output: hop.interface_index,
            })),
            _ => {}
        }
    }
    routes
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        // Of the other family: IPv4 by an IPv6 neighbour.
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        passive: message.header.flags.contains(LinkFlags::Loopback),
        mac: None,
        mtu: 0,
        max_mtu: None,
        master: None,
        lower: None,
        peer: None,
        vlan: None,
        filters_vlans: None,
        rx_queues: 1,
        tx_queues: 1,
        xdp: None,
    };
    // An index counts in the network namespace that it is of, and two may have the same one.
    let (mut linked, mut pair, mut elsewhere) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            // 0 is the kernel's word for none.
            LinkAttribute::MaxMtu(most) => link.max_mtu = Some(*most).filter(|most| *most > 0),
            LinkAttribute::LinkInfo(infos) => {
                pair = infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit)));
                link.passive |= infos.contains(&LinkInfo::Kind(InfoKind::Dummy));
                link.vlan = infos.iter().find_map(tag);
                link.filters_vlans = infos.iter().find_map(filters_vlans);
            }
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => linked = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::NumRxQueues(n) => link.rx_queues = *n,
            LinkAttribute::NumTxQueues(n) => link.tx_queues = *n,
            LinkAttribute::Xdp(xdp) => link.xdp = attachment(xdp),
            _ => {}
        }
    }
    let here = linked.filter(|_| !elsewhere);
    *(if pair { &mut link.peer } else { &mut link.lower }) = here;
    link
}

/// Of a bridge that gives frames tags and takes them off, by port and id (`IFLA_BR_VLAN_FILTERING`): those of which
/// protocol (`IFLA_BR_VLAN_PROTOCOL`).
fn filters_vlans(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Bridge(attributes)) = info else { return None };
    let protocol = attributes.iter().find_map(|attribute| match attribute {
        InfoBridge::VlanProtocol(protocol) => Some(*protocol),
        _ => None,
    });
    let filters = attributes.contains(&InfoBridge::VlanFiltering(true));
    filters.then(|| protocol.unwrap_or(VlanProtocol::Ieee8021Q).into())
}

fn tag(info: &LinkInfo) -> Option<Tag> {
    let LinkInfo::Data(InfoData::Vlan(attributes)) = info else { return None };
    let id = attributes.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let protocol = attributes.iter().find_map(|attribute| match attribute {
        InfoVlan::Protocol(protocol) => Some(*protocol),
        _ => None,
    });
    Some(Tag { tpid: protocol.unwrap_or(VlanProtocol::Ieee8021Q).into(), id: Some(id) })
}

fn attachment(attributes: &[LinkXdp]) -> Option<XdpAttachment> {
    let mode = attributes.iter().find_map(|a| match a {
        LinkXdp::Attached(XdpAttached::None) => None,
        LinkXdp::Attached(XdpAttached::Driver) => Some("native"),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some("skb"),
        LinkXdp::Attached(XdpAttached::Hardware) => Some("hardware"),
        LinkXdp::Attached(_) => Some("several"),
        _ => None,
    })?;
    let program_id = attributes.iter().find_map(|a| match a {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    Some(XdpAttachment { mode, program_id: program_id.unwrap_or(0) })
}

/// Sends a dump request and hands each answer to `each`.
pub(super) fn dump(request: RouteNetlinkMessage, each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    ask(request, NLM_F_DUMP, each)
}

/// Sends a request and hands each answer to `each`: one, unless it is for a dump.
fn ask(
    request: RouteNetlinkMessage,
    flags: u16,
    mut each: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    packet.header.flags = flags | NLM_F_REQUEST;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = &received[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) => {
                    each(inner);
                    if flags & NLM_F_DUMP == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
            // Messages are aligned to 4 bytes (NLMSG_ALIGN); the last one of a datagram may not be.
            match rest.get(length.next_multiple_of(4)..) {
                Some(next) if length > 0 => rest = next,
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Parseable as _;
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    #[test]
    fn the_kernel_lists_the_loopback_interface() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").expect("every namespace has lo");
        assert!(lo.index > 0 && lo.rx_queues >= 1 && lo.xdp.is_none(), "{lo:?}");
        assert_eq!(link(lo.index).unwrap().as_ref(), Some(lo), "asked for alone");
        assert_eq!(link(i32::MAX as u32).unwrap(), None);
    }

    #[test]
    fn addresses_and_routes_can_be_dumped() {
        addresses().unwrap();
        routes().unwrap();
    }

    /// What the kernel sends for `default proto static nexthop via 10.0.0.1 dev 2 nexthop via inet6 fe80::1 dev 3`.
    #[test]
    fn each_next_hop_of_a_route_is_a_route() {
        let hop = |interface_index, attribute| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop.attributes.push(attribute);
            hop
        };
        let (one, other) = (Ipv4Addr::new(10, 0, 0, 1), "fe80::1".parse().unwrap());
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::MultiPath(vec![
            hop(2, RouteAttribute::Gateway(RouteAddress::Inet(one))),
            hop(3, RouteAttribute::Via(RouteVia::Inet6(other))),
        ])];
        let destination = Prefix { ip: Ipv4Addr::UNSPECIFIED.into(), bits: 0 };
        let ecmp = [
            Route { destination, gateway: Some(one.into()), output: 2 },
            Route { destination, gateway: Some(other.into()), output: 3 },
        ];
        assert_eq!(next_hops(&message), ecmp);

        message.header.destination_prefix_length = 8;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 0))),
            RouteAttribute::Oif(4),
        ];
        let destination = Prefix { ip: Ipv4Addr::new(10, 0, 0, 0).into(), bits: 8 };
        assert_eq!(next_hops(&message), [Route { destination, gateway: None, output: 4 }]);
        message.header.kind = RouteType::Unreachable;
        assert_eq!(next_hops(&message), []);
    }

    /// An attribute as the kernel lays it out (struct nlattr), nested ones in its value.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A link with these attributes, as the kernel sends it.
    fn sent(attributes: &[Vec<u8>]) -> Link {
        let mut bytes = vec![0; 16];
        bytes[4..8].copy_from_slice(&2_u32.to_ne_bytes());
        bytes.extend(attributes.concat());
        read(&LinkMessage::parse(&bytes).unwrap())
    }

    const IFLA_LINK: u16 = 5;
    const IFLA_LINK_NETNSID: u16 = 37;

    /// `IFLA_LINKINFO`: what kind of device, and what is particular to it.
    fn info(kind: &str, data: &[Vec<u8>]) -> Vec<u8> {
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_INFO_KIND: u16 = 1;
        const IFLA_INFO_DATA: u16 = 2;
        let kind = attribute(IFLA_INFO_KIND, &[kind.as_bytes(), b"\0"].concat());
        // Left away if there is nothing.
        let data = if data.is_empty() { Vec::new() } else { attribute(IFLA_INFO_DATA, &data.concat()) };
        attribute(IFLA_LINKINFO, &[kind, data].concat())
    }

    #[test]
    fn a_bridge_that_filters_vlans_has_their_protocol() {
        const IFLA_BR_VLAN_FILTERING: u16 = 7;
        const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
        let bridge = |filters: u8, protocol: u16| {
            let filters = attribute(IFLA_BR_VLAN_FILTERING, &[filters]);
            let protocol = attribute(IFLA_BR_VLAN_PROTOCOL, &protocol.to_be_bytes());
            sent(&[info("bridge", &[filters, protocol])]).filters_vlans
        };
        assert_eq!(bridge(1, 0x8100), Some(0x8100));
        assert_eq!(bridge(1, 0x88a8), Some(0x88a8));
        assert_eq!(bridge(0, 0x8100), None);
        assert_eq!(sent(&[info("dummy", &[])]).filters_vlans, None);
    }

    #[test]
    fn what_is_below_in_another_namespace_or_at_the_other_end_is_not_below_here() {
        let link = || attribute(IFLA_LINK, &7_u32.to_ne_bytes());
        let elsewhere = || attribute(IFLA_LINK_NETNSID, &0_i32.to_ne_bytes());
        for (attributes, lower, peer) in [
            (vec![link(), info("vlan", &[])], Some(7), None),
            (vec![link(), info("vlan", &[]), elsewhere()], None, None),
            (vec![link(), info("veth", &[])], None, Some(7)),
            (vec![link(), info("veth", &[]), elsewhere()], None, None),
            (vec![info("dummy", &[])], None, None),
        ] {
            let link = sent(&attributes);
            assert_eq!((link.lower, link.peer), (lower, peer), "{attributes:?}");
        }
    }

    #[test]
    fn a_vlan_has_the_tag_of_its_protocol() {
        let tag_of = |attributes| tag(&LinkInfo::Data(InfoData::Vlan(attributes)));
        let inner = vec![InfoVlan::Id(7)];
        assert_eq!(tag_of(inner), Some(Tag { tpid: 0x8100, id: Some(7) }));
        let outer = vec![InfoVlan::Protocol(VlanProtocol::Ieee8021Ad), InfoVlan::Id(5)];
        assert_eq!(tag_of(outer), Some(Tag { tpid: 0x88a8, id: Some(5) }));
        assert_eq!(tag_of(Vec::new()), None);
    }
}
