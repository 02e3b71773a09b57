//! What tcpdump runs for an expression, to the byte where a frame ends.
//!
//! tcpdump compiles an expression to a graph of tests. A load beyond the end of the frame ends it, and the frame does
//! not match, whatever an `or` still had to offer. So it counts in which order it looks, and which tests its
//! optimizer leaves out or moves ([`optimize`]). On a frame that ends within its headers, this is the only way to tell
//! what tcpdump says; on every other frame the order makes no difference.
//!
//! The graphs are those that `tcpdump -O -d` prints (libpcap's `gencode.c`), and after optimization those that
//! `tcpdump -d` prints, but for tests that are twice in them.

mod dominance;
mod optimize;

use umemd_common::key::End;
use umemd_common::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_RARP, IPPROTO_FRAGMENT, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP,
};

/// An expression, as it is put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    All,
    Test(Test),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// Looks at some bytes of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    look: Look,
    compare: Compare,
    with: u32,
}

/// What is looked at: a number in network byte order, and its bits that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    bytes: usize,
    at: usize,
    /// Where the byte is that says how long IPv4's header is, if what is looked at lies behind that.
    behind: Option<usize>,
    mask: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    Above,
    AtLeast,
    /// Any of these bits is 1.
    Bits,
}

impl Look {
    fn at(at: usize, bytes: usize) -> Self {
        Self { bytes, at, behind: None, mask: u32::MAX }
    }

    fn equal(self, with: u32) -> Tree {
        Tree::Test(Test { look: self, compare: Compare::Equal, with })
    }

    fn between(self, from: u16, to: u16) -> Tree {
        if from == to {
            return self.equal(from.into());
        }
        let test = |compare, with: u16| Tree::Test(Test { look: self, compare, with: with.into() });
        test(Compare::AtLeast, from).and(Tree::Not(test(Compare::Above, to).into()))
    }

    /// `None` if the frame ends before.
    fn number(&self, frame: &[u8]) -> Option<u32> {
        let header = match self.behind {
            Some(at) => usize::from(frame.get(at)? & 0x0f) * 4,
            None => 0,
        };
        let bytes = frame.get(self.at + header..)?.get(..self.bytes)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)) & self.mask)
    }
}

impl Tree {
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, tree) | (tree, Self::All) => tree,
            (a, b) => Self::And(a.into(), b.into()),
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (a, b) => Self::Or(a.into(), b.into()),
        }
    }

    /// The tests of both ends, put together as `direction` says.
    pub(super) fn ends(direction: Direction, of: impl Fn(End) -> Self) -> Self {
        match direction {
            Direction::Src => of(End::Src),
            Direction::Dst => of(End::Dst),
            Direction::Either => of(End::Src).or(of(End::Dst)),
            Direction::Both => of(End::Src).and(of(End::Dst)),
        }
    }

    pub(super) fn ether_proto(tags: usize, ether_proto: u16) -> Self {
        Look::at(12 + 4 * tags, 2).equal(ether_proto.into())
    }

    /// A VLAN tag, and its id.
    pub(super) fn vlan(tags: usize, id: Option<u16>) -> Self {
        let [first, second, third] = [0x8100, 0x88a8, 0x9100].map(|tag| Self::ether_proto(tags, tag));
        let tag = first.or(second).or(third);
        match id {
            Some(id) => {
                let tci = Look::at(14 + 4 * tags, 2);
                tag.and(Look { mask: 0x0fff, ..tci }.equal(id.into()))
            }
            None => tag,
        }
    }

    pub(super) fn ether_host(end: End, [a, b, c, d, e, f]: [u8; 6]) -> Self {
        let at = of(end, 6, 0);
        let low = Look::at(at + 2, 4).equal(u32::from_be_bytes([c, d, e, f]));
        low.and(Look::at(at, 2).equal(u16::from_be_bytes([a, b]).into()))
    }

    fn ip_proto(tags: usize, proto: u8) -> Self {
        Look::at(23 + 4 * tags, 1).equal(proto.into())
    }

    fn ip6_proto(tags: usize, proto: u8) -> Self {
        Look::at(20 + 4 * tags, 1).equal(proto.into())
    }

    /// `ip proto N`
    pub(super) fn v4_proto(tags: usize, proto: u8) -> Self {
        Self::ether_proto(tags, ETH_P_IP).and(Self::ip_proto(tags, proto))
    }

    /// `ip6 proto N`
    pub(super) fn v6_proto(tags: usize, proto: u8) -> Self {
        let behind =
            Self::ip6_proto(tags, IPPROTO_FRAGMENT).and(Look::at(54 + 4 * tags, 1).equal(proto.into()));
        Self::ether_proto(tags, ETH_P_IPV6).and(Self::ip6_proto(tags, proto).or(behind))
    }

    /// `[tcp|udp|sctp] portrange FROM-TO`
    pub(super) fn ports(
        tags: usize,
        transport: Option<u8>,
        direction: Direction,
        from: u16,
        to: u16,
    ) -> Self {
        let port = |start: usize, behind: Option<usize>| {
            Self::ends(direction, |end| {
                let look = Look::at(start + of(end, 0, 2) + 4 * tags, 2);
                Look { behind, ..look }.between(from, to)
            })
        };
        let later = Test { look: Look::at(20 + 4 * tags, 2), compare: Compare::Bits, with: 0x1fff };
        let v6 = |proto| Self::ip6_proto(tags, proto).and(port(54, None));
        let v4 = |proto| {
            let first = Self::Not(Self::Test(later).into());
            Self::ip_proto(tags, proto).and(first.and(port(14, Some(14 + 4 * tags))))
        };
        let each = |of: &dyn Fn(u8) -> Self| match transport {
            Some(transport) => of(transport),
            None => of(IPPROTO_SCTP).or(of(IPPROTO_TCP)).or(of(IPPROTO_UDP)),
        };
        let v6 = Self::ether_proto(tags, ETH_P_IPV6).and(each(&v6));
        v6.or(Self::ether_proto(tags, ETH_P_IP).and(each(&v4)))
    }

    /// `[ip|arp|rarp] net ADDRESS/MASK`
    pub(super) fn net4(
        tags: usize,
        network: Option<u16>,
        direction: Direction,
        address: [u8; 4],
        mask: [u8; 4],
    ) -> Self {
        let of_network = |network| {
            let (src, dst) = if network == ETH_P_IP { (26, 30) } else { (28, 38) };
            Self::ends(direction, |end| {
                let look =
                    Look { mask: u32::from_be_bytes(mask), ..Look::at(of(end, src, dst) + 4 * tags, 4) };
                Self::ether_proto(tags, network).and(look.equal(u32::from_be_bytes(address)))
            })
        };
        match network {
            Some(network) => of_network(network),
            None => of_network(ETH_P_IP).or(of_network(ETH_P_ARP)).or(of_network(ETH_P_RARP)),
        }
    }

    /// `ip6 net ADDRESS/MASK`
    pub(super) fn net6(tags: usize, direction: Direction, address: [u8; 16], mask: [u8; 16]) -> Self {
        let word = |bytes: [u8; 16], word: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|byte| bytes[4 * word + byte]);
            u32::from_be_bytes([a, b, c, d])
        };
        Self::ends(direction, |end| {
            (0..4).fold(Self::ether_proto(tags, ETH_P_IPV6), |tree, number| {
                let look = Look::at(of(end, 22, 38) + 4 * (tags + number), 4);
                let look = Look { mask: word(mask, number), ..look };
                tree.and(look.equal(word(address, number)))
            })
        })
    }
}

fn of(end: End, src: usize, dst: usize) -> usize {
    match end {
        End::Src => src,
        End::Dst => dst,
    }
}

/// Of which end something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Src,
    Dst,
    Either,
    Both,
}

/// Where a test leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    Test(usize),
    /// To the end: whether the frame matches.
    End(bool),
}

/// A test, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    test: Test,
    yes: Next,
    no: Next,
}

/// The graph that tcpdump runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    nodes: Vec<Node>,
    /// What is looked at before all else, whatever is there.
    first: Option<Look>,
    root: Next,
}

impl Filter {
    pub(super) fn compile(tree: &Tree) -> Self {
        let mut nodes = Vec::new();
        let root = lay(tree, Next::End(true), Next::End(false), &mut nodes);
        optimize::optimize(Self { nodes, first: None, root })
    }

    /// Whether tcpdump matches this frame.
    pub(super) fn matches(&self, frame: &[u8]) -> bool {
        if self.first.is_some_and(|look| look.number(frame).is_none()) {
            return false;
        }
        let mut next = self.root;
        loop {
            let node = match next {
                Next::End(matches) => return matches,
                Next::Test(number) => &self.nodes[number],
            };
            let Test { look, compare, with } = node.test;
            let Some(number) = look.number(frame) else { return false };
            let outcome = match compare {
                Compare::Equal => number == with,
                Compare::Above => number > with,
                Compare::AtLeast => number >= with,
                Compare::Bits => number & with != 0,
            };
            next = if outcome { node.yes } else { node.no };
        }
    }
}

/// Adds the tests of a tree, which go on to `yes` or `no`; where they begin.
fn lay(tree: &Tree, yes: Next, no: Next, nodes: &mut Vec<Node>) -> Next {
    match tree {
        Tree::All => yes,
        Tree::Test(test) => {
            nodes.push(Node { test: *test, yes, no });
            Next::Test(nodes.len() - 1)
        }
        Tree::Not(tree) => lay(tree, no, yes, nodes),
        Tree::And(a, b) => {
            let b = lay(b, yes, no, nodes);
            lay(a, b, no, nodes)
        }
        Tree::Or(a, b) => {
            let b = lay(b, yes, no, nodes);
            lay(a, yes, b, nodes)
        }
    }
}
