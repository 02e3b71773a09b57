//! What one would write with xsk-rs and nothing else: no pool, no ledger, no counters, no law. umemd is measured
//! beside it (`cargo xtask bench datapath`), to see what its accounting costs.
//!
//! `minimal IFACE drop|reflect|generate` and `minimal IFACE forward IFACE`, as root, use queue 0 of a veth. They
//! take UDP to port 7, or send UDP as fast as they can; and they end when their stdin does.

#![expect(unsafe_code, reason = "xsk-rs leaves to its caller which frames the kernel has")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "all have the same obligation, named once in main")]

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use datapath::{
    PacketHandler as _, Verdict,
    handlers::{Drop, Forward, Reflect},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use umemd::{
    ebpf::{LoadOptions, Mode, Program},
    nic, steer,
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

/// What umemd takes at once, and the size of its rings.
const BATCH: usize = 64;
const RING: u32 = 2048;

/// What is generated: to nobody's MAC, so that who gets it throws it away.
const PACKET: [u8; 60] = *b"\x02\0\0\0\0\x99\x02\0\0\0\0\x01\x08\0\
    \x45\0\0\x2e\0\0\x40\0\x40\x11\xae\x97\xc6\x12\0\x01\xc6\x12\0\x02\0\x09\0\x09\0\x1a\0\0\
    as a person would.";

/// The rings of one socket.
struct Port {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

impl Port {
    fn bind(umem: &Umem, interface: &str, ring: QueueSize) -> Result<Self, Box<dyn Error>> {
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_COPY)
            .build();
        // SAFETY: the only socket of this UMEM on this queue.
        let (tx, rx, rings) = unsafe { Socket::new(config, umem, &interface.parse()?, 0) }?;
        let (fill, completion) = rings.ok_or("no fill ring")?;
        Ok(Port { tx, rx, fill, completion })
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: `rx` owns the descriptor, and is borrowed as long.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Takes home what was sent.
    fn reap(&mut self, free: &mut Vec<FrameDesc>) {
        let mut batch = [FrameDesc::default(); BATCH];
        loop {
            let sent = unsafe { self.completion.consume(&mut batch) };
            free.extend_from_slice(&batch[..sent]);
            if sent < BATCH {
                break;
            }
        }
    }

    /// Sends all, or says that there was no room.
    fn send(&mut self, frames: &[FrameDesc]) -> io::Result<bool> {
        let fits = unsafe { self.tx.produce(frames) } > 0;
        // In copy mode the kernel sends 32 packets a call (TX_BATCH_SIZE in net/xdp/xsk.c).
        for _ in 0..frames.len().div_ceil(32) {
            if self.tx.needs_wakeup() {
                self.tx.wakeup()?;
            }
        }
        Ok(fits)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (interface, handler, to) = match args[..] {
        [interface, handler @ ("drop" | "reflect" | "generate")] => (interface, handler, None),
        [interface, "forward", to] => (interface, "forward", Some(to)),
        _ => return Err("minimal IFACE drop|reflect|generate, or minimal IFACE forward IFACE".into()),
    };

    let ring = QueueSize::new(RING)?;
    let umem_config = UmemConfig::builder().fill_queue_size(ring).comp_queue_size(ring).build()?;
    let (umem, mut free) = Umem::new(umem_config, (2 * RING).try_into()?, false)?;

    let mut program = Program::load(LoadOptions::default())?;
    program.set_rules(&steer::compile(&["udp dst port 7".to_owned()])?)?;
    program.attach(nic::find(&nic::links()?, interface, None)?, Mode::Native)?;
    let mut ports = vec![Port::bind(&umem, interface, ring)?];
    if let Some(to) = to {
        ports.push(Port::bind(&umem, to, ring)?);
    }

    // SAFETY, here and elsewhere: each frame's descriptor is in `free`, or in a list of this turn, or the kernel's.
    unsafe { ports[0].fill.produce(&free[..RING as usize]) };
    free.drain(..RING as usize);
    program.set_socket(0, ports[0].socket())?;

    let packets = match handler {
        "drop" => receive(&umem, &mut ports, free, |bytes| Drop.handle(bytes)),
        "reflect" => receive(&umem, &mut ports, free, |bytes| Reflect.handle(bytes)),
        "forward" => receive(&umem, &mut ports, free, |bytes| Forward.handle(bytes)),
        _ => generate(&umem, &mut ports[0], free),
    }?;
    println!("{packets}");
    Ok(())
}

/// Receives on the first port and sends on the last one, until stdin ends. How many were received.
fn receive(
    umem: &Umem,
    ports: &mut [Port],
    mut free: Vec<FrameDesc>,
    mut handle: impl FnMut(&mut [u8]) -> Verdict,
) -> Result<u64, Box<dyn Error>> {
    let to = ports.len() - 1;
    let stdin = io::stdin();
    let mut batch = [FrameDesc::default(); BATCH];
    let mut send = Vec::with_capacity(BATCH);
    let mut recycle = Vec::with_capacity(BATCH);
    let mut packets: u64 = 0;
    let mut sends = false;
    loop {
        if sends {
            ports[to].reap(&mut free);
        }
        let received = unsafe { ports[0].rx.consume(&mut batch) };
        if received == 0 {
            let mut fds = [
                PollFd::from_borrowed_fd(ports[0].socket(), PollFlags::IN),
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            ];
            poll(&mut fds, None)?;
            if !fds[1].revents().is_empty() {
                return Ok(packets);
            }
            continue;
        }
        packets += received as u64;
        for descriptor in &mut batch[..received] {
            match handle(unsafe { umem.data_mut(descriptor) }.contents_mut()) {
                Verdict::Transmit => send.push(*descriptor),
                Verdict::Drop => recycle.push(*descriptor),
            }
        }
        if !send.is_empty() {
            sends = true;
            // All or nothing; what does not fit is dropped.
            if !ports[to].send(&send)? {
                free.extend_from_slice(&send);
            }
            send.clear();
        }
        // As many frames go onto the fill ring as came off the RX ring.
        while recycle.len() < received
            && let Some(frame) = free.pop()
        {
            recycle.push(frame);
        }
        unsafe { ports[0].fill.produce(&recycle) };
        recycle.clear();
    }
}

/// Sends as fast as it can until stdin ends. How many were sent.
fn generate(umem: &Umem, port: &mut Port, mut free: Vec<FrameDesc>) -> Result<u64, Box<dyn Error>> {
    for descriptor in &mut free {
        unsafe { umem.data_mut(descriptor) }.cursor().write_all(&PACKET)?;
    }
    let stdin = io::stdin();
    let mut packets: u64 = 0;
    for turn in 0_u64.. {
        port.reap(&mut free);
        let from = free.len() - free.len().min(BATCH);
        for descriptor in &mut free[from..] {
            // A completion knows no length. The bytes are still there.
            unsafe { umem.data_mut(descriptor) }.cursor().set_pos(PACKET.len());
        }
        if port.send(&free[from..])? {
            packets += (free.len() - from) as u64;
            free.truncate(from);
        }
        if turn % 1024 == 0 {
            let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
                break;
            }
        }
    }
    Ok(packets)
}
