//! Expressions of the language: as words, and as what they mean, read off the bytes with no other code of ours.

use proptest::prelude::*;

use super::frames::{ETHERS, PORTS, PROTOS, TAG_TYPES, V4, v6};

/// An expression, to be written as words and to be asked directly.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A protocol by its name.
    Word(&'static str),
    /// `ip proto N`
    IpProto(u8),
    /// `ip6 proto N`
    Ip6Proto(u8),
    /// `ether proto N`
    EtherProto(u16),
    /// `vlan`, perhaps with an id.
    Vlan(Option<u16>),
    /// `port` or `portrange`.
    Port {
        /// `tcp`, `udp` or `sctp`.
        transport: Option<&'static str>,
        /// With a blank behind it, as all of these, or nothing.
        direction: &'static str,
        /// The first one.
        from: u16,
        /// The last one.
        to: u16,
    },
    /// `host` or `net` of IPv4.
    Net4 {
        /// `ip`, `arp` or `rarp`.
        network: &'static str,
        /// As in a port.
        direction: &'static str,
        /// Its address.
        address: [u8; 4],
        /// Bits of it that count.
        len: u32,
    },
    /// `host` or `net` of IPv6.
    Net6 {
        /// As in a port.
        direction: &'static str,
        /// Its address.
        address: [u8; 16],
        /// Bits of it that count.
        len: u32,
    },
    /// `ether src|dst|host`
    Mac {
        /// As in a port.
        direction: &'static str,
        /// The last byte of the address.
        last: u8,
    },
    /// Primitives that begin alike, said with that beginning only once.
    Values {
        /// Two or three of them.
        each: Vec<Self>,
        /// All of them, or any.
        all: bool,
        /// Where the parentheses are.
        form: u8,
    },
    /// Both.
    And(Box<Self>, Box<Self>),
    /// Either.
    Or(Box<Self>, Box<Self>),
}

const DIRECTIONS: [&str; 5] = ["", "src ", "dst ", "src or dst ", "dst and src "];

/// Where parentheses may be among values.
const FORMS: u8 = 5;

fn primitive() -> impl Strategy<Value = Expr> {
    let words = vec!["ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6"];
    let transports = vec![None, Some("tcp"), Some("udp"), Some("sctp")];
    let direction = || prop::sample::select(DIRECTIONS.to_vec());
    let select = prop::sample::select::<u8>;
    let ports = (prop::sample::select(PORTS.to_vec()), prop::sample::select(vec![0_u16, 0, 0, 1, 2, 8]));
    prop_oneof![
        3 => prop::sample::select(words).prop_map(Expr::Word),
        1 => select(PROTOS.to_vec()).prop_map(Expr::IpProto),
        1 => select(PROTOS.to_vec()).prop_map(Expr::Ip6Proto),
        1 => prop::sample::select(ETHERS.to_vec()).prop_map(Expr::EtherProto),
        1 => prop::option::of(prop::sample::select(vec![5_u16, 7])).prop_map(Expr::Vlan),
        3 => (prop::sample::select(transports), direction(), ports)
            .prop_map(|(transport, direction, (from, more))| Expr::Port { transport, direction, from, to: from + more }),
        3 => (prop::sample::select(vec!["", "", "ip ", "arp ", "rarp "]), direction(), 0_usize..4, prop::sample::select(vec![32_u32, 32, 24, 16, 8, 0]))
            .prop_map(|(network, direction, end, len)| {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                let address = (u32::from_be_bytes(V4[end]) & mask).to_be_bytes();
                Expr::Net4 { network, direction, address, len }
            }),
        2 => (direction(), 0_u8..4, prop::sample::select(vec![128_u32, 128, 96, 64, 48, 33, 8, 0]))
            .prop_map(|(direction, end, len)| {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let address = (u128::from_be_bytes(v6(end)) & mask).to_be_bytes();
                Expr::Net6 { direction, address, len }
            }),
        1 => (direction(), 0_u8..3).prop_map(|(direction, last)| Expr::Mac { direction, last }),
        2 => (prop_oneof![ports_alike(), hosts_alike()], any::<bool>(), 0..FORMS)
            .prop_map(|(each, all, form)| Expr::Values { each, all, form }),
    ]
}

fn ports_alike() -> impl Strategy<Value = Vec<Expr>> {
    let transports = prop::sample::select(vec![None, Some("tcp"), Some("udp")]);
    let ports = prop::collection::vec(prop::sample::select(PORTS.to_vec()), 2..4);
    (transports, prop::sample::select(DIRECTIONS.to_vec()), ports).prop_map(
        |(transport, direction, ports)| {
            ports.into_iter().map(|port| Expr::Port { transport, direction, from: port, to: port }).collect()
        },
    )
}

fn hosts_alike() -> impl Strategy<Value = Vec<Expr>> {
    let ends = prop::collection::vec(0_usize..4, 2..4);
    (prop::sample::select(vec!["", "ip "]), prop::sample::select(DIRECTIONS.to_vec()), ends).prop_map(
        |(network, direction, ends)| {
            let host = |end: usize| Expr::Net4 { network, direction, address: V4[end], len: 32 };
            ends.into_iter().map(host).collect()
        },
    )
}

/// Any expression of up to a dozen primitives.
pub fn expression() -> impl Strategy<Value = Expr> {
    primitive().prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expr::And(a.into(), b.into())),
            (inner.clone(), inner).prop_map(|(a, b)| Expr::Or(a.into(), b.into())),
        ]
    })
}

impl Expr {
    /// As tcpdump is told it.
    pub fn words(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::IpProto(number) => format!("ip proto {number}"),
            Self::Ip6Proto(number) => format!("ip6 proto {number:#x}"),
            Self::EtherProto(number) => format!("ether proto {number:#06x}"),
            Self::Vlan(None) => "vlan".to_owned(),
            Self::Vlan(Some(id)) => format!("vlan {id}"),
            Self::Port { transport, direction, from, to } => {
                let transport = transport.map(|name| format!("{name} ")).unwrap_or_default();
                if from == to {
                    format!("{transport}{direction}port {from}")
                } else {
                    format!("{transport}{direction}portrange {from}-{to}")
                }
            }
            Self::Net4 { network, direction, address: [a, b, c, d], len } => match len {
                32 => format!("{network}{direction}host {a}.{b}.{c}.{d}"),
                // The ways to write a network, one for each length.
                24 => format!("{network}{direction}net {a}.{b}.{c}"),
                16 => format!("{network}{direction}net {a}.{b}.{c}.{d}/020"),
                8 => format!("{network}{direction}net {a:#x}"),
                _ => format!("{network}{direction}net {a}.{b}.{c}.{d}/{len}"),
            },
            Self::Net6 { direction, address, len } => {
                let address = std::net::Ipv6Addr::from(*address);
                match len {
                    128 => format!("{direction}host {address}"),
                    _ => format!("ip6 {direction}net {address}/{len}"),
                }
            }
            Self::Mac { direction, last } => {
                let host = if direction.is_empty() { "host " } else { "" };
                format!("ether {direction}{host}02:00:00:00:00:{last:02x}")
            }
            Self::Values { each, all, form } => values(each, if *all { "and" } else { "or" }, *form),
            Self::And(a, b) => format!("{} and {}", a.words(), b.words_behind()),
            Self::Or(a, b) => format!("{} or {}", a.words(), b.words_behind()),
        }
    }

    /// Behind an `and` or `or`, which bind equally and from the left.
    fn words_behind(&self) -> String {
        match self {
            Self::And(..) | Self::Or(..) | Self::Values { form: 0 | 2, .. } => format!("({})", self.words()),
            _ => self.words(),
        }
    }

    /// Byte by byte, as `tcpdump -d` prints it; `vlans` is how often `vlan` has been said so far.
    pub fn matches(&self, frame: &[u8], vlans: &mut usize) -> bool {
        let shift = 4 * *vlans;
        let byte = |at: usize| frame.get(at).copied();
        let half = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
        let bytes = |at: usize, len: usize| frame.get(at..at + len);
        let ether = half(12 + shift);
        let v4 = |proto: u8| ether == Some(0x0800) && byte(23 + shift) == Some(proto);
        let v6 = |proto: u8| ether == Some(0x86dd) && byte(20 + shift) == Some(proto);
        let v6_or_fragment = |proto: u8| v6(proto) || (v6(44) && byte(54 + shift) == Some(proto));
        let number = |name: &str| match name {
            "tcp" => 6,
            "udp" => 17,
            _ => 132,
        };
        let directed = |direction: &str, src: bool, dst: bool| match direction {
            "src " => src,
            "dst " => dst,
            "dst and src " => src && dst,
            _ => src || dst,
        };
        match self {
            Self::Values { each, all: true, .. } => each.iter().all(|one| one.matches(frame, vlans)),
            Self::Values { each, .. } => each.iter().any(|one| one.matches(frame, vlans)),
            Self::Word("ip") => ether == Some(0x0800),
            Self::Word("ip6") => ether == Some(0x86dd),
            Self::Word("arp") => ether == Some(0x0806),
            Self::Word("rarp") => ether == Some(0x8035),
            Self::Word("icmp") => v4(1),
            Self::Word("icmp6") => v6_or_fragment(58),
            Self::Word(transport) => v4(number(transport)) || v6_or_fragment(number(transport)),
            Self::IpProto(proto) => v4(*proto),
            Self::Ip6Proto(proto) => v6_or_fragment(*proto),
            Self::EtherProto(proto) => ether == Some(*proto),
            Self::Vlan(id) => {
                *vlans += 1;
                ether.is_some_and(|ether| TAG_TYPES.contains(&ether))
                    && id.is_none_or(|id| half(14 + shift).is_some_and(|tci| tci & 0xfff == id))
            }
            Self::Port { transport, direction, from, to } => {
                let transports = transport.map_or(vec![6, 17, 132], |name| vec![number(name)]);
                let at = if transports.iter().any(|proto| v6(*proto)) {
                    54 + shift
                } else if transports.iter().any(|proto| v4(*proto))
                    && half(20 + shift).is_some_and(|f| f & 0x1fff == 0)
                {
                    14 + shift + usize::from(frame[14 + shift] & 15) * 4
                } else {
                    return false;
                };
                let hit = |at| half(at).is_some_and(|port| (*from..=*to).contains(&port));
                directed(direction, hit(at), hit(at + 2))
            }
            Self::Net4 { network, direction, address, len } => {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                let (src, dst) = match (ether, *network) {
                    (Some(0x0800), "" | "ip ") => (26, 30),
                    (Some(0x0806), "" | "arp ") | (Some(0x8035), "" | "rarp ") => (28, 38),
                    _ => return false,
                };
                let hit = |at: usize| {
                    let word = bytes(at + shift, 4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
                    word.is_some_and(|word| word & mask == u32::from_be_bytes(*address))
                };
                *len == 0 || directed(direction, hit(src), hit(dst))
            }
            Self::Net6 { direction, address, len } => {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let hit = |at: usize| {
                    // Four bytes at a time, and no more of them than the prefix has.
                    let used = (*len as usize).div_ceil(32) * 4;
                    let word = bytes(at + shift, used).map(|word| {
                        let mut whole = [0; 16];
                        whole[..used].copy_from_slice(word);
                        u128::from_be_bytes(whole)
                    });
                    word.is_some_and(|word| word & mask == u128::from_be_bytes(*address))
                };
                ether == Some(0x86dd) && (*len == 0 || directed(direction, hit(22), hit(38)))
            }
            Self::Mac { direction, last } => {
                let hit = |at| bytes(at, 6) == Some(&[2, 0, 0, 0, 0, *last]);
                directed(direction, hit(6), hit(0))
            }
            // Both sides, since what the second says may lie behind a tag of the first.
            Self::And(a, b) => a.matches(frame, vlans) & b.matches(frame, vlans),
            Self::Or(a, b) => a.matches(frame, vlans) | b.matches(frame, vlans),
        }
    }
}

/// The words of the first, and of the others only the last one.
fn values(each: &[Expr], join: &str, form: u8) -> String {
    let words: Vec<String> = each.iter().map(Expr::words).collect();
    let split: Vec<(&str, &str)> = words.iter().filter_map(|words| words.rsplit_once(' ')).collect();
    let (head, first) = split[0];
    let rest: Vec<&str> = split[1..].iter().map(|(_, value)| *value).collect();
    let rest = rest.join(&format!(" {join} "));
    match form {
        0 => format!("{head} {first} {join} {rest}"),
        1 => format!("{head} ({first} {join} {rest})"),
        2 => format!("{head} {first} {join} ({rest})"),
        3 => format!("{head} ({first} {join} ({rest}))"),
        // Of all values only numbers.
        _ if matches!(each[0], Expr::Port { .. }) => format!("{head} (({first}) {join} {rest})"),
        _ => format!("{head} ({first} {join} {rest})"),
    }
}
