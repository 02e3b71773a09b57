//! The three dumps of rtnetlink(7) that the agent needs: links, addresses, routes.

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
    },
    route::{RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

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
    /// The bridge, bond or DSA conduit's master that it belongs to.
    pub master: Option<u32>,
    /// The device below it: for a VLAN, the one that carries the tagged frames.
    pub lower: Option<u32>,
    /// The id of its tag, if it is a VLAN.
    pub vlan: Option<u16>,
    /// `IFLA_NUM_RX_QUEUES`: allocated, not necessarily active.
    pub rx_queues: u32,
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
    /// The address.
    pub ip: IpAddr,
}

/// As much of a route as the lock-out guard needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether it matches every destination.
    pub is_default: bool,
    /// The interface that it leaves by.
    pub output: Option<u32>,
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
                addresses.push(Address { index: message.header.index, ip });
            }
        }
    })?;
    Ok(addresses)
}

/// All routes, of IPv4 and IPv6 (`RTM_GETROUTE`).
pub fn routes() -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                routes.push(Route {
                    is_default: message.header.destination_prefix_length == 0,
                    output: message.attributes.iter().find_map(|a| match a {
                        RouteAttribute::Oif(index) => Some(*index),
                        _ => None,
                    }),
                });
            }
        })?;
    }
    Ok(routes)
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
        master: None,
        lower: None,
        vlan: None,
        rx_queues: 1,
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.passive |= infos.contains(&LinkInfo::Kind(InfoKind::Dummy));
                link.vlan = infos.iter().find_map(vlan_id);
            }
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.lower = Some(*index),
            LinkAttribute::NumRxQueues(n) => link.rx_queues = *n,
            LinkAttribute::Xdp(xdp) => link.xdp = attachment(xdp),
            _ => {}
        }
    }
    link
}

fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(attributes)) = info else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
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
}
