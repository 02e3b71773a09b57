//! Generic netlink, as far as reading takes it: find a family, dump a command, read attributes.

use std::io;

use netlink_packet_core::{
    DecodeError, Emitable, NLA_F_NESTED, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla, NlaBuffer, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `GENL_ID_CTRL`: the family that knows the others (linux/genetlink.h).
const CTRL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const CTRL_GETFAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`.
const CTRL_FAMILY_ID: u16 = 1;
/// `CTRL_ATTR_FAMILY_NAME`.
const CTRL_FAMILY_NAME: u16 = 2;
/// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile, and the answer may lack something.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often an interrupted dump is repeated. The last one is taken as it is: a moment's picture of things that
/// come and go.
const ATTEMPTS: u32 = 3;

/// A socket, and the number of the family that it talks to.
#[derive(Debug)]
pub(crate) struct Genl {
    socket: Socket,
    family: u16,
}

impl Genl {
    /// Looks the family up; `None` if this kernel has none of that name.
    pub(crate) fn connect(family: &str) -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = Attribute { kind: CTRL_FAMILY_NAME, value: [family.as_bytes(), b"\0"].concat() };
        let mut genl = Self { socket, family: CTRL };
        genl.send(Message { command: CTRL_GETFAMILY, version: 1, attributes: Attributes(vec![name]) }, 0)?;
        let id = match genl.receive() {
            Ok(Batch { answers, .. }) => answers.iter().find_map(|answer| answer.uint(CTRL_FAMILY_ID)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let id = id.and_then(|id| u16::try_from(id).ok());
        genl.family = id.ok_or_else(|| invalid("a family without a number"))?;
        Ok(Some(genl))
    }

    /// Everything that `command` lists.
    ///
    /// # Errors
    ///
    /// Those of the kernel; `EOPNOTSUPP` if it does not know the command.
    pub(crate) fn dump(&self, command: u8) -> io::Result<Vec<Attributes>> {
        self.dump_all(command, &Attributes::default())
    }

    /// What `command` lists of the one whose number an attribute of this kind tells.
    ///
    /// # Errors
    ///
    /// As [`dump`](Self::dump), and those that the command has for who is not there.
    pub(crate) fn dump_of(&self, command: u8, kind: u16, number: u32) -> io::Result<Vec<Attributes>> {
        let number = Attribute { kind, value: number.to_ne_bytes().to_vec() };
        self.dump_all(command, &Attributes(vec![number]))
    }

    /// What `command` tells of the one whose number is an attribute of this kind in a nest of that one.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub(crate) fn get_of(
        &self,
        command: u8,
        nest: u16,
        kind: u16,
        number: u32,
    ) -> io::Result<Option<Attributes>> {
        let number = [Attribute { kind, value: number.to_ne_bytes().to_vec() }];
        let mut value = vec![0; number.as_slice().buffer_len()];
        number.as_slice().emit(&mut value);
        // Newer families insist on the flag.
        let nest = Attribute { kind: nest | NLA_F_NESTED, value };
        self.send(Message { command, version: 1, attributes: Attributes(vec![nest]) }, 0)?;
        Ok(self.receive()?.answers.into_iter().next())
    }

    fn dump_all(&self, command: u8, attributes: &Attributes) -> io::Result<Vec<Attributes>> {
        for attempt in 1.. {
            self.send(Message { command, version: 1, attributes: attributes.clone() }, NLM_F_DUMP)?;
            let (mut answers, mut interrupted) = (Vec::new(), false);
            loop {
                let batch = self.receive()?;
                answers.extend(batch.answers);
                interrupted |= batch.interrupted;
                if batch.done {
                    break;
                }
            }
            if !interrupted || attempt == ATTEMPTS {
                return Ok(answers);
            }
        }
        unreachable!("the last attempt returns")
    }

    fn send(&self, message: Message, flags: u16) -> io::Result<()> {
        let header = GenlHeader { cmd: message.command, version: message.version };
        let message = GenlMessage::new(header, message, self.family);
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = flags | NLM_F_REQUEST;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Batch> {
        let (datagram, _) = self.socket.recv_from_full()?;
        parse(&datagram)
    }
}

/// What one datagram brought.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    answers: Vec<Attributes>,
    /// Whether the dump ends with it.
    done: bool,
    /// Whether the dump may lack something.
    interrupted: bool,
}

/// Reads a datagram of the kernel's.
fn parse(datagram: &[u8]) -> io::Result<Batch> {
    let mut batch = Batch::default();
    let mut rest = datagram;
    while !rest.is_empty() && !batch.done {
        let message = NetlinkMessage::<GenlMessage<Message>>::deserialize(rest).map_err(invalid)?;
        batch.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            // A dump that fails on its way says so in its last message.
            NetlinkPayload::Done(done) if done.code < 0 => return Err(from_code(done.code)),
            NetlinkPayload::Done(_) => batch.done = true,
            NetlinkPayload::Error(error) if error.raw_code() != 0 => {
                return Err(from_code(error.raw_code()));
            }
            NetlinkPayload::InnerMessage(inner) => batch.answers.push(inner.into_parts().1.attributes),
            _ => {}
        }
        // Messages are aligned to 4 bytes (NLMSG_ALIGN); the last one of a datagram may not be.
        let length = message.header.length as usize;
        rest = rest.get(length.next_multiple_of(4)..).filter(|_| length > 0).unwrap_or_default();
    }
    Ok(batch)
}

fn from_code(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Attributes in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<Attribute>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    kind: u16,
    value: Vec<u8>,
}

impl Attributes {
    /// A number of 8, 16, 32 or 64 bits. What the specifications call `uint` is 32 bits long for as long as it
    /// fits, and 64 from then on (`nla_put_uint`).
    pub(crate) fn uint(&self, kind: u16) -> Option<u64> {
        match *self.value(kind)? {
            [byte] => Some(byte.into()),
            [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
            [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
            _ => None,
        }
    }

    /// An attribute that consists of attributes.
    pub(crate) fn nest(&self, kind: u16) -> Option<Self> {
        attributes(self.value(kind)?).ok()
    }

    /// Whether the attribute is there, whatever it says.
    pub(crate) fn has(&self, kind: u16) -> bool {
        self.value(kind).is_some()
    }

    fn value(&self, kind: u16) -> Option<&[u8]> {
        self.0.iter().find(|attribute| attribute.kind == kind).map(|attribute| &attribute.value[..])
    }
}

fn attributes(bytes: &[u8]) -> Result<Attributes, DecodeError> {
    let owned =
        |attribute: NlaBuffer<&[u8]>| Attribute { kind: attribute.kind(), value: attribute.value().to_vec() };
    NlasIterator::new(bytes).map(|attribute| attribute.map(owned)).collect::<Result<_, _>>().map(Attributes)
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        self.value.len()
    }

    fn kind(&self) -> u16 {
        self.kind
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.value);
    }
}

/// A message of any family: a command and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    command: u8,
    version: u8,
    attributes: Attributes,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        // Asked for by nobody: the number is looked up by name, at run time.
        ""
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        self.version
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self { command: header.cmd, version: header.version, attributes: attributes(bytes)? })
    }
}

/// Messages as the kernel writes them, for the tests of those who read them.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    /// An attribute.
    pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let attribute = Attribute { kind, value: value.to_vec() };
        let mut bytes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        bytes
    }

    /// A `uint`, as long as the kernel makes it.
    pub(crate) fn uint(kind: u16, value: u64) -> Vec<u8> {
        match u32::try_from(value) {
            Ok(value) => attribute(kind, &value.to_ne_bytes()),
            Err(_) => attribute(kind, &value.to_ne_bytes()),
        }
    }

    /// The attributes that these bytes are.
    pub(crate) fn parsed(parts: &[Vec<u8>]) -> Attributes {
        attributes(&parts.concat()).unwrap()
    }

    /// What a dump lists that is just this datagram.
    pub(crate) fn dumped(datagram: &[u8]) -> Vec<Attributes> {
        let batch = parse(datagram).unwrap();
        assert!(batch.done && !batch.interrupted, "{batch:?}");
        batch.answers
    }

    /// A message of `kind` (family, or NLMSG_*) around `payload`.
    pub(crate) fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = 16 + payload.len() as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
    use proptest::prelude::*;

    use super::{fixture::*, *};

    const FAMILY: u16 = 20;
    const MULTI: u16 = 2;

    fn answer(attributes: &[Vec<u8>]) -> Vec<u8> {
        message(FAMILY, MULTI, &[&[5, 1, 0, 0], attributes.concat().as_slice()].concat())
    }

    #[test]
    fn numbers_come_in_every_width() {
        let attributes = parsed(&[
            attribute(1, &[7]),
            attribute(2, &7_u16.to_ne_bytes()),
            uint(3, u64::from(u32::MAX)),
            uint(4, 5_000_000_000),
            attribute(5, &[1, 2, 3]),
        ]);
        assert_eq!(attributes.uint(1), Some(7));
        assert_eq!(attributes.uint(2), Some(7));
        assert_eq!(attributes.uint(3), Some(u64::from(u32::MAX)));
        assert_eq!(attributes.uint(4), Some(5_000_000_000), "past 32 bits the kernel sends 64");
        assert_eq!((attributes.uint(5), attributes.uint(6)), (None, None));
    }

    #[test]
    fn a_dump_is_many_messages_and_an_end() {
        let mut datagram = answer(&[uint(1, 17)]);
        datagram.extend(answer(&[uint(1, 18)]));
        assert!(!parse(&datagram).unwrap().done);
        datagram.extend(message(NLMSG_DONE, MULTI, &0_i32.to_ne_bytes()));
        let batch = parse(&datagram).unwrap();
        let ids: Vec<_> = batch.answers.iter().map(|answer| answer.uint(1)).collect();
        assert_eq!((ids, batch.done, batch.interrupted), (vec![Some(17), Some(18)], true, false));
    }

    #[test]
    fn a_dump_that_changed_meanwhile_is_marked() {
        let datagram = message(NLMSG_DONE, MULTI | NLM_F_DUMP_INTR, &0_i32.to_ne_bytes());
        assert!(parse(&datagram).unwrap().interrupted);
    }

    /// What Linux 6.18 without `CONFIG_PAGE_POOL_STATS` answers, recorded.
    #[test]
    fn a_refusal_is_an_error() {
        let mut refusal = (-libc::EOPNOTSUPP).to_ne_bytes().to_vec();
        refusal.extend([0x14, 0, 0, 0, 0x14, 0, 0x01, 0x03, 7, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0]);
        let error = parse(&message(NLMSG_ERROR, 0, &refusal)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        let error = parse(&message(NLMSG_DONE, MULTI, &(-libc::EPERM).to_ne_bytes())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn the_kernel_knows_the_family_of_families() {
        assert!(Genl::connect("nlctrl").unwrap().is_some());
        assert!(Genl::connect("no such family").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            if let Ok(attributes) = attributes(&bytes) {
                for kind in 0..32 {
                    let _ = (attributes.uint(kind), attributes.nest(kind), attributes.has(kind));
                }
            }
        }

        #[test]
        fn no_damage_to_a_message_makes_it_panic(
            values in proptest::collection::vec((0_u16..32, any::<u64>()), 0..8),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut: prop::sample::Index,
        ) {
            let parts: Vec<_> = values.iter().map(|(kind, value)| uint(*kind, *value)).collect();
            let mut datagram = answer(&[attribute(1, &parts.concat())]);
            datagram.extend(answer(&parts));
            datagram.extend(message(NLMSG_DONE, MULTI, &0_i32.to_ne_bytes()));
            for (at, byte) in damage {
                let at = at.index(datagram.len());
                datagram[at] = byte;
            }
            if let Ok(batch) = parse(&datagram[..cut.index(datagram.len() + 1)]) {
                for answer in batch.answers {
                    let _ = (answer.uint(1), answer.nest(1));
                }
            }
        }
    }
}
