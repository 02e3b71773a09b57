//! Headers and bodies, byte by byte. All fields are little-endian here: so are both sides' machines.

/// Bytes of a header.
pub(super) const HEADER: usize = 16;

/// The longest message that we take; QEMU's longest is a version with its capabilities.
pub(super) const LONGEST: usize = 4096;

/// The commands of QEMU that we serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Version,
    DmaMap,
    DmaUnmap,
    DeviceInfo,
    RegionInfo,
    IrqInfo,
    SetIrqs,
    RegionRead,
    RegionWrite,
    Reset,
}

/// Writes guest memory; the only command that a server sends here.
pub(super) const DMA_WRITE: u16 = 12;

impl Command {
    pub(super) fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::DmaMap,
            3 => Self::DmaUnmap,
            4 => Self::DeviceInfo,
            5 => Self::RegionInfo,
            7 => Self::IrqInfo,
            8 => Self::SetIrqs,
            9 => Self::RegionRead,
            10 => Self::RegionWrite,
            13 => Self::Reset,
            _ => return None,
        })
    }
}

/// Flags of a header.
const TYPE: u32 = 0xf;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    /// A [`Command`]'s number, or an unknown one's.
    pub(super) command: u16,
    /// Of header and body.
    pub(super) size: usize,
    pub(super) flags: u32,
    pub(super) error: u32,
}

impl Header {
    pub(super) fn read(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            id: u16::from_le_bytes([bytes[0], bytes[1]]),
            command: u16::from_le_bytes([bytes[2], bytes[3]]),
            size: word(4) as usize,
            flags: word(8),
            error: word(12),
        }
    }

    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&self.id.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.command.to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.size as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_le_bytes());
        bytes[12..].copy_from_slice(&self.error.to_le_bytes());
        bytes
    }

    /// A command of ours that wants no answer.
    pub(super) fn posted(id: u16, command: u16, body: usize) -> Self {
        Self { id, command, size: HEADER + body, flags: NO_REPLY, error: 0 }
    }

    /// The header of the answer to this command.
    pub(super) fn reply(&self, body: usize) -> Self {
        Self { size: HEADER + body, flags: REPLY, error: 0, ..*self }
    }

    /// The header of a refusal, with an errno.
    pub(super) fn refusal(&self, errno: i32) -> Self {
        Self { size: HEADER, flags: REPLY | ERROR, error: errno.unsigned_abs(), ..*self }
    }

    /// Whether it asks, rather than answers.
    pub(super) fn is_command(&self) -> bool {
        self.flags & TYPE == 0
    }

    /// Whether the sender waits for an answer.
    pub(super) fn wants_reply(&self) -> bool {
        self.flags & NO_REPLY == 0
    }
}

/// Reads fields of a body, one after the other; `None` where it ends.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// What is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// Puts fields together.
#[derive(Debug, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    pub(super) fn u32s(mut self, values: &[u32]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    pub(super) fn u64s(mut self, values: &[u64]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_written() {
        let command = Header::posted(7, DMA_WRITE, 20);
        assert_eq!(Header::read(&command.bytes()), command);
        assert!(command.is_command() && !command.wants_reply());
        let refusal = command.refusal(22);
        assert_eq!(Header::read(&refusal.bytes()), refusal);
        assert!(!refusal.is_command());
        assert_eq!((refusal.id, refusal.command, refusal.size), (7, DMA_WRITE, HEADER));
    }

    #[test]
    fn a_body_that_ends_early_has_no_more_fields() {
        let mut fields = Fields(&[1, 0, 2, 0, 0, 0, 3]);
        assert_eq!((fields.u16(), fields.u32(), fields.u32()), (Some(1), Some(2), None));
        assert_eq!(fields.rest(), [3]);
    }
}
