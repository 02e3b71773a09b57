//! [`Connection`]: one QEMU device, from its first message to its last.

use std::{
    fmt,
    fs::File,
    io::{self, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use super::{
    config::{self, ConfigSpace},
    message::{Body, Command, DMA_WRITE, Fields, HEADER, Header, LONGEST},
};
use crate::{memory::GuestMemory, nic::Nic};

/// Regions of a VFIO PCI device: six BARs, ROM, configuration space, VGA.
const BARS: u32 = 6;
const CONFIG: u32 = 7;
const REGIONS: u32 = 9;
/// Kinds of interrupts: INTx, MSI, MSI-X, errors, requests. There is none of any kind: interrupts are raised by
/// writing to the guest's GICv2m frame.
const IRQS: u32 = 5;

/// `VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI`
const DEVICE_FLAGS: u32 = 1 | 2;
/// `VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE`
const REGION_FLAGS: u32 = 1 | 2;

/// Why a connection is over.
#[derive(Debug)]
pub enum Error {
    /// QEMU has gone.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// What came is not vfio-user; where the next message begins is not known either.
    Malformed(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("QEMU closed the connection"),
            Self::Io(error) => write!(f, "vfio-user socket: {error}"),
            Self::Malformed(what) => write!(f, "not vfio-user: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// A connected QEMU device.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// What the device reaches by DMA.
    pub memory: GuestMemory,
    config: ConfigSpace,
    bars: &'static [u32],
    next_id: u16,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    /// For a device with BARs of these sizes.
    pub fn new(stream: UnixStream, bars: &'static [u32]) -> Self {
        let config = ConfigSpace::new(bars);
        Self { stream, memory: GuestMemory::default(), config, bars, next_id: 0 }
    }

    /// Serves the next message.
    ///
    /// # Errors
    ///
    /// When the connection is over. What is merely wrong is refused with an errno, and the next one served.
    pub fn serve(&mut self, nic: &mut dyn Nic) -> Result<(), Error> {
        let mut start = [0; HEADER];
        let files = self.receive(&mut start)?;
        let header = Header::read(&start);
        if !(HEADER..=LONGEST).contains(&header.size) {
            return Err(Error::Malformed("a message of an impossible size"));
        }
        let mut buffer = [0; LONGEST];
        let body = &mut buffer[..header.size - HEADER];
        self.stream.read_exact(body)?;
        if !header.is_command() {
            return Err(Error::Malformed("an answer to a question that was not asked"));
        }
        let answer = match Command::from_number(header.command) {
            Some(command) => self.obey(command, body, files, nic),
            None => Err(Errno::NOSYS),
        };
        if !header.wants_reply() {
            return Ok(());
        }
        match answer {
            Ok(Body(body)) => self.send(header.reply(body.len()), &body),
            Err(errno) => self.send(header.refusal(errno.raw_os_error()), &[]),
        }
    }

    /// Writes a word to guest memory through QEMU's bus, which is how it reaches the interrupt controller.
    ///
    /// # Errors
    ///
    /// When the connection is over.
    pub fn write_bus(&mut self, address: u64, value: u32) -> Result<(), Error> {
        let Body(body) = Body::default().u64s(&[address, 4]).u32s(&[value]);
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.send(Header::posted(id, DMA_WRITE, body.len()), &body)
    }

    fn obey(&mut self, command: Command, body: &[u8], files: Vec<OwnedFd>, nic: &mut dyn Nic) -> Answer {
        let fields = Fields(body);
        match command {
            Command::Version => version(fields),
            Command::DmaMap => self.map(fields, files),
            Command::DmaUnmap => self.unmap(fields),
            Command::DeviceInfo => Ok(Body::default().u32s(&[16, DEVICE_FLAGS, REGIONS, IRQS])),
            Command::RegionInfo => self.region_info(fields),
            Command::IrqInfo => irq_info(fields),
            // There is no interrupt to set.
            Command::SetIrqs => Err(Errno::INVAL),
            Command::RegionRead => self.read(fields, nic),
            Command::RegionWrite => self.write(fields, nic),
            Command::Reset => {
                nic.reset();
                Ok(Body::default())
            }
        }
    }

    fn map(&mut self, mut fields: Fields<'_>, files: Vec<OwnedFd>) -> Answer {
        let _argsz = fields.u32().ok_or(Errno::INVAL)?;
        let _flags = fields.u32().ok_or(Errno::INVAL)?;
        let [offset, address, size] = [fields.u64(), fields.u64(), fields.u64()];
        let (Some(offset), Some(address), Some(size)) = (offset, address, size) else {
            return Err(Errno::INVAL);
        };
        // Memory without a file is a ROM or the like, which no driver gives to a NIC.
        let Some(file) = files.into_iter().next() else { return Ok(Body::default()) };
        let mapped = self.memory.map(address, size, File::from(file), offset);
        mapped.then(Body::default).ok_or(Errno::INVAL)
    }

    fn unmap(&mut self, mut fields: Fields<'_>) -> Answer {
        let [argsz, flags] = [fields.u32(), fields.u32()];
        let [address, size] = [fields.u64(), fields.u64()];
        let (Some(argsz), Some(flags), Some(address), Some(size)) = (argsz, flags, address, size) else {
            return Err(Errno::INVAL);
        };
        self.memory.unmap(address, size);
        Ok(Body::default().u32s(&[argsz, flags]).u64s(&[address, size]))
    }

    fn region_info(&self, mut fields: Fields<'_>) -> Answer {
        let (_argsz, _flags) = (fields.u32(), fields.u32());
        let index = fields.u32().filter(|index| *index < REGIONS).ok_or(Errno::INVAL)?;
        let size = match index {
            CONFIG => config::SIZE as u64,
            BARS.. => 0,
            bar => self.bars.get(bar as usize).copied().map_or(0, u64::from),
        };
        let flags = if size > 0 { REGION_FLAGS } else { 0 };
        Ok(Body::default().u32s(&[32, flags, index, 0]).u64s(&[size, 0]))
    }

    fn read(&mut self, fields: Fields<'_>, nic: &mut dyn Nic) -> Answer {
        let access = Access::parse(fields, self.bars)?;
        let mut reply = access.echo();
        match access.place {
            Place::Config => {
                let bytes = self.config.read(access.offset as usize, access.count).ok_or(Errno::INVAL)?;
                reply.0.extend(bytes);
                Ok(reply)
            }
            Place::Register(bar) => Ok(reply.u32s(&[nic.read(bar, access.offset)])),
        }
    }

    fn write(&mut self, fields: Fields<'_>, nic: &mut dyn Nic) -> Answer {
        let access = Access::parse(fields, self.bars)?;
        if access.data.len() != access.count {
            return Err(Errno::INVAL);
        }
        match (access.place, access.data.try_into()) {
            (Place::Config, _) if !self.config.write(access.offset as usize, access.data) => {
                Err(Errno::INVAL)
            }
            (Place::Register(bar), Ok(bytes)) => {
                nic.write(bar, access.offset, u32::from_le_bytes(bytes), &self.memory);
                Ok(access.echo())
            }
            _ => Ok(access.echo()),
        }
    }

    /// Reads a header, and the files that came with it.
    fn receive(&self, header: &mut [u8; HEADER]) -> Result<Vec<OwnedFd>, Error> {
        const FILES: usize = 8;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(header)];
        let received = recvmsg(&self.stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|errno| Error::from(io::Error::from(errno)))?;
        let files = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let files = files.flatten().collect();
        match received.bytes {
            0 => return Err(Error::Closed),
            HEADER => {}
            some => (&self.stream).read_exact(&mut header[some..])?,
        }
        Ok(files)
    }

    fn send(&mut self, header: Header, body: &[u8]) -> Result<(), Error> {
        let mut message = [0; LONGEST];
        message[..HEADER].copy_from_slice(&header.bytes());
        message[HEADER..header.size].copy_from_slice(body);
        // In one piece: QEMU reads a header at once or not at all.
        Ok(self.stream.write_all(&message[..header.size])?)
    }
}

/// The body of an answer, or why there is none.
type Answer = Result<Body, Errno>;

/// What an access is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Config,
    /// Of that BAR; one register, whole.
    Register(usize),
}

/// An access to a region: `offset u64, region u32, count u32`, then data.
#[derive(Debug)]
struct Access<'a> {
    place: Place,
    region: u32,
    offset: u32,
    count: usize,
    data: &'a [u8],
}

impl<'a> Access<'a> {
    fn parse(mut fields: Fields<'a>, bars: &[u32]) -> Result<Self, Errno> {
        let (offset, region, count) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(offset), Some(region), Some(count)) = (offset, region, count) else {
            return Err(Errno::INVAL);
        };
        let offset = u32::try_from(offset).map_err(|_| Errno::INVAL)?;
        let count = count as usize;
        if region == CONFIG {
            let fits = count <= config::SIZE;
            return if fits {
                Ok(Self { place: Place::Config, region, offset, count, data: fields.rest() })
            } else {
                Err(Errno::INVAL)
            };
        }
        let bar = region as usize;
        let size = bars.get(bar).ok_or(Errno::INVAL)?;
        // The drivers use readl and writel; anything else is a mistake in a model, better seen than guessed at.
        if count != 4 || !offset.is_multiple_of(4) || offset >= *size {
            return Err(Errno::INVAL);
        }
        Ok(Self { place: Place::Register(bar), region, offset, count, data: fields.rest() })
    }

    /// What an answer begins with.
    fn echo(&self) -> Body {
        Body::default().u64s(&[self.offset.into()]).u32s(&[self.region, self.count as u32])
    }
}

/// Version 0.anything, and no capability: the limits that hold without are more than enough.
fn version(mut fields: Fields<'_>) -> Answer {
    let (Some(major), Some(minor)) = (fields.u16(), fields.u16()) else { return Err(Errno::INVAL) };
    if major != 0 {
        return Err(Errno::NOTSUP);
    }
    let mut body = Body::default();
    body.0.extend(0_u16.to_le_bytes());
    body.0.extend(minor.to_le_bytes());
    body.0.extend(b"{\"capabilities\":{}}\0");
    Ok(body)
}

fn irq_info(mut fields: Fields<'_>) -> Answer {
    let (_argsz, _flags) = (fields.u32(), fields.u32());
    let index = fields.u32().filter(|index| *index < IRQS).ok_or(Errno::INVAL)?;
    Ok(Body::default().u32s(&[16, 0, index, 0]))
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, mem::MaybeUninit, os::fd::AsFd as _};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    /// One BAR of storage.
    #[derive(Default)]
    struct Storage([u32; 4]);

    impl Nic for Storage {
        fn bars(&self) -> &'static [u32] {
            &[16]
        }
        fn read(&mut self, _: usize, offset: u32) -> u32 {
            self.0[offset as usize / 4]
        }
        fn write(&mut self, _: usize, offset: u32, value: u32, _: &GuestMemory) {
            self.0[offset as usize / 4] = value;
        }
        fn receive(&mut self, _: usize, _: &[u8], _: &GuestMemory) {}
        fn take_sent(&mut self) -> Option<(usize, Vec<u8>)> {
            None
        }
        fn interrupts(&self) -> u64 {
            0
        }
        fn reset(&mut self) {
            *self = Self::default();
        }
    }

    /// QEMU's end, and ours.
    struct Pair {
        qemu: UnixStream,
        ours: Connection,
        nic: Storage,
    }

    impl Pair {
        fn new() -> Self {
            let (qemu, ours) = UnixStream::pair().unwrap();
            qemu.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            Self { qemu, ours: Connection::new(ours, &[16]), nic: Storage::default() }
        }

        fn send(&mut self, command: u16, flags: u32, body: &[u8]) {
            let header = message(command, flags, HEADER + body.len());
            self.qemu.write_all(&[&header[..], body].concat()).unwrap();
        }

        /// The answer to a command: its body, or an errno.
        fn ask(&mut self, command: u16, body: &[u8]) -> Result<Vec<u8>, u32> {
            self.send(command, 0, body);
            self.ours.serve(&mut self.nic).unwrap();
            let mut start = [0; HEADER];
            self.qemu.read_exact(&mut start).unwrap();
            let header = Header::read(&start);
            assert_eq!((header.id, header.command), (0x1234, command));
            assert!(!header.is_command());
            let mut body = vec![0; header.size - HEADER];
            self.qemu.read_exact(&mut body).unwrap();
            if header.error == 0 { Ok(body) } else { Err(header.error) }
        }
    }

    fn message(command: u16, flags: u32, size: usize) -> [u8; HEADER] {
        Header { id: 0x1234, command, size, flags, error: 0 }.bytes()
    }

    fn access(offset: u64, region: u32, count: u32) -> Vec<u8> {
        Body::default().u64s(&[offset]).u32s(&[region, count]).0
    }

    const EINVAL: u32 = 22;
    const ENOSYS: u32 = 38;

    #[test]
    fn registers_are_read_as_written() {
        let mut pair = Pair::new();
        let write = [access(8, 0, 4), 0xdead_beef_u32.to_le_bytes().to_vec()].concat();
        assert_eq!(pair.ask(10, &write), Ok(access(8, 0, 4)));
        assert_eq!(pair.ask(9, &access(8, 0, 4)), Ok(write));
        assert_eq!(pair.ask(13, &[]), Ok(vec![]));
        assert_eq!(pair.nic.0, [0; 4], "reset");
    }

    #[test]
    fn a_posted_write_is_not_answered() {
        let mut pair = Pair::new();
        pair.send(10, 1 << 4, &[access(0, 0, 4), vec![7, 0, 0, 0]].concat());
        pair.ours.serve(&mut pair.nic).unwrap();
        assert_eq!(pair.nic.0[0], 7);
        pair.qemu.set_nonblocking(true).unwrap();
        assert_eq!(pair.qemu.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_device_has_its_bars_a_configuration_space_and_no_interrupt() {
        let mut pair = Pair::new();
        let info = pair.ask(4, &[0; 16]).unwrap();
        assert_eq!(info, Body::default().u32s(&[16, 3, 9, 5]).0);
        let size = |pair: &mut Pair, index: u32| {
            let reply = pair.ask(5, &Body::default().u32s(&[32, 0, index, 0]).u64s(&[0, 0]).0)?;
            Ok(u64::from_le_bytes(reply[16..24].try_into().unwrap()))
        };
        assert_eq!(
            [0, 1, 6, 7, 8, 9].map(|index| size(&mut pair, index)),
            [Ok(16), Ok(0), Ok(0), Ok(256), Ok(0), Err(EINVAL)]
        );
        let irq = pair.ask(7, &Body::default().u32s(&[16, 0, 0, 0]).0).unwrap();
        assert_eq!(irq[12..], [0; 4]);
        assert_eq!(pair.ask(9, &access(0, CONFIG, 2)).unwrap()[16..], [0xab, 0x11]);
    }

    #[test]
    fn accesses_that_no_driver_makes_are_refused_and_the_next_one_served() {
        let mut pair = Pair::new();
        for body in [
            access(0, 0, 2),
            access(2, 0, 4),
            access(16, 0, 4),
            access(u64::MAX - 3, 0, 4),
            access(0, 1, 4),
            access(0, 6, 4),
            access(0, 99, 4),
            access(254, CONFIG, 4),
            access(0, CONFIG, u32::MAX),
            access(0, 0, 4)[..15].to_vec(),
            vec![],
        ] {
            assert_eq!(pair.ask(9, &body), Err(EINVAL), "read {body:?}");
            assert_eq!(pair.ask(10, &body), Err(EINVAL), "write {body:?}");
        }
        assert_eq!(pair.ask(10, &[access(0, 0, 4), vec![1; 5]].concat()), Err(EINVAL), "more data than said");
        assert_eq!(pair.ask(6, &[0; 32]), Err(ENOSYS), "region descriptors: we have none");
        assert_eq!(pair.ask(0xffff, &[]), Err(ENOSYS));
        assert!(pair.ask(9, &access(0, 0, 4)).is_ok());
    }

    #[test]
    fn only_version_0_is_spoken() {
        let mut pair = Pair::new();
        let reply = pair.ask(1, &[0, 0, 1, 0, b'{', b'}', 0]).unwrap();
        assert_eq!(reply[..4], [0, 0, 1, 0]);
        assert_eq!(reply.last(), Some(&0), "a C string");
        assert_eq!(pair.ask(1, &[1, 0, 0, 0]), Err(95));
        assert_eq!(pair.ask(1, &[0, 0]), Err(EINVAL));
    }

    #[test]
    fn memory_is_mapped_by_its_file_and_unmapped() {
        let mut pair = Pair::new();
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 0x3000).unwrap();
        rustix::io::pwrite(&file, b"here", 0x2000).unwrap();
        let body = Body::default().u32s(&[32, 3]).u64s(&[0x2000, 0x4000_0000, 0x1000]).0;

        let message = [&message(2, 0, HEADER + body.len())[..], &body].concat();
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(&pair.qemu, &[IoSlice::new(&message)], &mut control, SendFlags::empty()).unwrap();
        pair.ours.serve(&mut pair.nic).unwrap();
        pair.qemu.read_exact(&mut [0; HEADER]).unwrap();

        let mut bytes = [0; 4];
        pair.ours.memory.read(0x4000_0000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"here");
        let range = Body::default().u32s(&[24, 0]).u64s(&[0x4000_0000, 0x1000]).0;
        assert_eq!(pair.ask(3, &range), Ok(range));
        assert!(pair.ours.memory.read(0x4000_0000, &mut bytes).is_err());
        assert_eq!(pair.ask(3, &[0; 8]), Err(EINVAL));
        assert_eq!(pair.ask(2, &[0; 31]), Err(EINVAL));
    }

    #[test]
    fn an_interrupt_is_a_posted_write() {
        let mut pair = Pair::new();
        pair.ours.write_bus(0x0802_0040, 80).unwrap();
        let mut bytes = [0; HEADER + 20];
        pair.qemu.read_exact(&mut bytes).unwrap();
        let header = Header::read(bytes.first_chunk().unwrap());
        assert_eq!((header.command, header.wants_reply()), (12, false));
        assert_eq!(bytes[HEADER..], Body::default().u64s(&[0x0802_0040, 4]).u32s(&[80]).0);
    }

    #[test]
    fn what_is_no_message_ends_the_connection() {
        for (command, flags, size) in
            [(9, 0, 0), (9, 0, HEADER - 1), (9, 0, LONGEST + 1), (9, 0, u32::MAX as usize), (9, 1, HEADER)]
        {
            let mut pair = Pair::new();
            pair.qemu.write_all(&message(command, flags, size)).unwrap();
            let result = pair.ours.serve(&mut pair.nic);
            assert!(matches!(result, Err(Error::Malformed(_))), "{size} {flags}: {result:?}");
        }
    }

    #[test]
    fn an_end_in_the_middle_is_an_end() {
        for cut in [0, 1, HEADER - 1, HEADER, HEADER + 3] {
            let mut pair = Pair::new();
            let whole = [&message(9, 0, HEADER + 16)[..], &access(0, 0, 4)].concat();
            pair.qemu.write_all(&whole[..cut]).unwrap();
            drop(pair.qemu);
            let result = pair.ours.serve(&mut pair.nic);
            assert!(matches!(result, Err(Error::Closed)), "{cut}: {result:?}");
        }
    }
}
