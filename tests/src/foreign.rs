//! What belongs to others and stands in the agent's way: an XDP program, an AF_XDP socket.

use std::{env, fs, os::fd::OwnedFd, process::Command};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt,
    xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags},
};

use crate::{
    command::{ip, run},
    netns::NetNs,
    veth::VethEnd,
};

/// An XDP program on an interface that no process holds, attached by netlink as `ip link` and xdp-loader do it.
/// Whoever replaces or removes it there needs no permission of its owner.
#[derive(Debug)]
pub struct ForeignProgram {
    netns: String,
    interface: String,
    id: u64,
}

impl ForeignProgram {
    /// Attaches one that passes everything.
    ///
    /// # Panics
    ///
    /// If this `ip` cannot load programs, or the kernel refuses.
    #[track_caller]
    pub fn attach(netns: &NetNs, end: &VethEnd) -> Self {
        let object = env::temp_dir().join(format!("{}-pass.o", netns.name()));
        fs::write(&object, elf()).unwrap_or_else(|error| panic!("{}: {error}", object.display()));
        let mut attach = Command::new("ip");
        attach.args(["-netns", netns.name(), "link", "set", "dev", &end.name, "xdpdrv"]);
        let attached = run(attach.arg("object").arg(&object).args(["section", "xdp"]), "");
        let _ = fs::remove_file(&object);
        attached.unwrap_or_else(|error| panic!("{error}"));
        let id = end.xdp_program().expect("`ip` attached a program");
        Self { netns: netns.name().into(), interface: end.name.clone(), id }
    }

    /// The kernel's id of it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Takes it away.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn detach(self) {
        ip(&["-netns", &self.netns, "link", "set", "dev", &self.interface, "xdpdrv", "off"]);
    }
}

/// `return XDP_PASS;` as an object file that libbpf takes: a null section, the program, its name and the names
/// of the sections.
fn elf() -> Vec<u8> {
    const HEADER: usize = 64;
    const PROGRAM: [u8; 16] = [
        0xb7, 0, 0, 0, 2, 0, 0, 0, // r0 = 2 (XDP_PASS)
        0x95, 0, 0, 0, 0, 0, 0, 0, // exit
    ];
    const STRINGS: &[u8] = b"\0xdp\0.symtab\0.strtab\0pass\0\0\0\0\0\0\0";
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();

    let program_at = HEADER;
    let symbols_at = program_at + PROGRAM.len();
    // Elf64_Sym: name, info (global function), section 1, address, size; the first one is always null.
    let mut symbols = vec![0; 24];
    symbols.extend(21_u32.to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend(words(&[0, PROGRAM.len() as u64]));
    let strings_at = symbols_at + symbols.len();
    let sections_at = strings_at + STRINGS.len();

    // Elf64_Ehdr: 64 bits, little-endian; relocatable, for BPF.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, 0, sections_at as u64]));
    file.extend([0, 0, 0, 0, HEADER as u8, 0, 0, 0, 0, 0, 64, 0, 4, 0, 3, 0]);
    file.extend(PROGRAM);
    file.extend(symbols);
    file.extend(STRINGS);
    // Elf64_Shdr: name and type, flags, address, offset, size, link and info, alignment, size of an entry.
    let section =
        |name: u32, kind: u32, flags: u64, at: usize, size: usize, link: u64, align: u64, entry: u64| {
            let name_and_type = u64::from(name) | u64::from(kind) << 32;
            words(&[name_and_type, flags, 0, at as u64, size as u64, link, align, entry])
        };
    file.extend([0; 64]);
    file.extend(section(1, 1, 6, program_at, PROGRAM.len(), 0, 8, 0));
    // The symbols' strings are section 3, and the first one that is not local is number 1.
    file.extend(section(5, 2, 0, symbols_at, 48, 3 | 1 << 32, 8, 24));
    file.extend(section(13, 3, 0, strings_at, STRINGS.len(), 0, 1, 0));
    file
}

/// An AF_XDP socket that is bound to a queue and never moves a frame.
#[derive(Debug)]
pub struct ForeignSocket {
    _fd: OwnedFd,
    _umem: Box<[Page]>,
}

/// The kernel wants a UMEM that starts at a page.
#[derive(Clone, Copy, Debug)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "nobody reads a UMEM without traffic")] [u8; 4096]);

impl ForeignSocket {
    /// Binds one.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn bind(netns: &NetNs, end: &VethEnd, queue: u32) -> Self {
        let index = end.index();
        netns.run(|| Self::open(index, queue)).unwrap_or_else(|e| panic!("{} queue {queue}: {e}", end.name))
    }

    fn open(index: u32, queue: u32) -> rustix::io::Result<Self> {
        let umem = vec![Page([0; 4096]); 16].into_boxed_slice();
        // Whoever is started meanwhile would keep it.
        let fd = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let region = XdpUmemReg {
            addr: umem.as_ptr().addr() as u64,
            len: size_of_val(&*umem) as u64,
            chunk_size: 4096,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        // The fill ring is never written, so the kernel is given no frame that it could write into.
        sockopt::set_xdp_umem_reg(&fd, region)?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, 16)?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, 16)?;
        sockopt::set_xdp_rx_ring_size(&fd, 16)?;
        bind(&fd, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, index, queue))?;
        Ok(Self { _fd: fd, _umem: umem })
    }
}
