//! Who has AF_XDP sockets: sock_diag(7) for family AF_XDP, which `ss --xdp` asks too.

use std::{fs, io, path::Path};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// An AF_XDP socket of anybody's in this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The interface that it is bound to.
    pub ifindex: u32,
    /// The queue.
    pub queue: u32,
    /// The socket's inode, which /proc/PID/fd names.
    pub inode: u32,
}

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `XDP_SHOW_INFO` (linux/xdp_diag.h).
const SHOW_INFO: u32 = 1;
/// `XDP_DIAG_INFO`: an interface and a queue.
const INFO: u16 = 1;

/// All that are bound; `None` if this kernel cannot tell: it was built without `CONFIG_XDP_SOCKETS_DIAG`, or its
/// module is not loaded, which to ask would do.
///
/// # Errors
///
/// Those of the kernel.
pub fn users() -> io::Result<Option<Vec<User>>> {
    if !is_loaded() {
        return Ok(None);
    }
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut packet =
        NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(Message::request()));
    packet.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut users = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        match parse(&datagram, &mut users) {
            Ok(false) => {}
            Ok(true) => return Ok(Some(users)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The module that answers.
const MODULE: &str = "xsk_diag";

/// Whether the kernel can answer without loading a module for it.
fn is_loaded() -> bool {
    Path::new("/sys/module").join(MODULE).exists() || is_listed("modules.builtin")
}

/// Whether `modprobe xsk_diag` would make the kernel answer.
pub fn can_be_loaded() -> bool {
    is_listed("modules.dep")
}

/// Whether a list of the running kernel's modules has it (modules.dep(5)): one a line, a path first.
fn is_listed(list: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let text = fs::read_to_string(format!("/lib/modules/{release}/{list}")).unwrap_or_default();
    text.lines().any(|line| names(line, MODULE))
}

/// Whether the path at the beginning of a line is that of a module, compressed or not.
fn names(line: &str, module: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split_once(".ko").is_some_and(|(name, _)| name == module)
}

/// Reads a datagram; whether it is the last one.
fn parse(datagram: &[u8], users: &mut Vec<User>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<Message>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(inner) => users.extend(inner.user()),
            _ => {}
        }
        let length = message.header.length as usize;
        rest = rest.get(length.next_multiple_of(4)..).filter(|_| length > 0).unwrap_or_default();
    }
    Ok(false)
}

/// `struct xdp_diag_req`, or `struct xdp_diag_msg` and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message(Vec<u8>);

impl Message {
    fn request() -> Self {
        // Family, protocol, padding; then inode 0, what to show, and two words of a cookie.
        let mut bytes = vec![libc::AF_XDP as u8, 0, 0, 0];
        for word in [0, SHOW_INFO, 0, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        Self(bytes)
    }

    /// Whose socket it is; `None` if it is not bound.
    fn user(&self) -> Option<User> {
        const HEAD: usize = 16;
        let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let inode = word(&self.0, 4)?;
        let attributes = NlasIterator::new(self.0.get(HEAD..)?);
        let info = attributes.filter_map(Result::ok).find(|nla: &NlaBuffer<&[u8]>| nla.kind() == INFO)?;
        let (ifindex, queue) = (word(info.value(), 0)?, word(info.value(), 4)?);
        (ifindex != 0).then_some(User { ifindex, queue, inode })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(payload.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(inode: u32, ifindex: u32, queue: u32) -> Message {
        let mut bytes = vec![44, 3, 0, 0];
        for word in [inode, 0, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        // An attribute of four bytes before: XDP_DIAG_UID.
        for (kind, words) in [(2_u16, vec![0]), (INFO, vec![ifindex, queue])] {
            bytes.extend((4 + 4 * words.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(words.iter().flat_map(|word: &u32| word.to_ne_bytes()));
        }
        Message(bytes)
    }

    #[test]
    fn a_bound_socket_has_an_interface_and_a_queue() {
        assert_eq!(answer(77, 3, 1).user(), Some(User { ifindex: 3, queue: 1, inode: 77 }));
        assert_eq!(answer(77, 0, 0).user(), None);
        assert_eq!(Message::request().0.len(), 20);
    }

    #[test]
    fn a_module_is_found_in_the_kernels_lists() {
        assert!(names("kernel/net/xdp/xsk_diag.ko", MODULE), "modules.builtin");
        assert!(names("kernel/net/xdp/xsk_diag.ko.xz: kernel/net/core/x.ko.xz", MODULE), "modules.dep");
        assert!(!names("kernel/net/x.ko: kernel/net/xdp/xsk_diag.ko", MODULE), "what another one needs");
        assert!(!names("", MODULE));
    }

    #[test]
    fn the_kernel_answers_or_says_that_it_cannot() {
        users().unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Message(bytes.clone()).user();
            let _ = parse(&bytes, &mut Vec::new());
        }
    }
}
