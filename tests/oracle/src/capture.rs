//! Captures of frames, in each format that tcpdump knows.

/// How a capture is written.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// pcapng instead of pcap.
    pub ng: bool,
    /// In network byte order.
    pub big_endian: bool,
    /// Time stamps of nanoseconds in a pcap; in a pcapng, the Packet Blocks from before the Enhanced ones.
    pub other: bool,
    /// What it says of the longest packet.
    pub snaplen: u32,
}

impl Format {
    /// A pcap with time stamps of microseconds, in the byte order of a PC.
    pub const PLAIN: Self = Self { ng: false, big_endian: false, other: false, snaplen: 65535 };
}

/// The frames as a capture file (pcap-savefile(5), or draft-ietf-opsawg-pcapng), in which each was longer once. Their
/// time stamps count them, in seconds.
#[must_use]
pub fn capture(frames: &[Vec<u8>], format: Format) -> Vec<u8> {
    let mut file = Vec::new();
    let word = |file: &mut Vec<u8>, word: u32| {
        file.extend(if format.big_endian { word.to_be_bytes() } else { word.to_le_bytes() });
    };
    let halves = |a: u16, b: u16| match format.big_endian {
        true => u32::from(a) << 16 | u32::from(b),
        false => u32::from(b) << 16 | u32::from(a),
    };
    let header: &[u32] = if format.ng {
        let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, halves(1, 0), u32::MAX, u32::MAX, 28];
        let interface = [1, 20, halves(1, 0), format.snaplen, 20];
        &[&section[..], &interface].concat()
    } else {
        let magic = if format.other { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        &[magic, halves(2, 4), 0, 0, format.snaplen, 1]
    };
    header.iter().for_each(|value| word(&mut file, *value));
    for (number, frame) in (0..).zip(frames) {
        let [len, padded] = [frame.len() as u32, frame.len().next_multiple_of(4) as u32];
        if format.ng {
            // Of microseconds, since it is not said otherwise.
            let time = u64::from(number) * 1_000_000;
            // The same words, but for the type, and the drops beside the interface.
            let (kind, interface) = if format.other { (2, halves(0, 7)) } else { (6, 0) };
            let block = [kind, 32 + padded, interface, (time >> 32) as u32, time as u32, len, len + 100];
            block.iter().for_each(|value| word(&mut file, *value));
            file.extend(frame);
            file.resize(file.len() + (padded - len) as usize, 0);
            word(&mut file, 32 + padded);
        } else {
            [number, 0, len, len + 100].iter().for_each(|value| word(&mut file, *value));
            file.extend(frame);
        }
    }
    file
}
