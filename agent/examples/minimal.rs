//! What one would write with xsk-rs and nothing else: no pool, no ledger, no counters, no law. umemd is measured
//! beside it (`cargo xtask bench datapath`), to see what its accounting costs.
//!
//! `minimal IFACE drop|reflect`, as root, takes UDP to port 7 on queue 0 of a veth, and ends when its stdin does.

#![expect(unsafe_code, reason = "xsk-rs leaves to its caller which frames the kernel has")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "all have the same obligation, named once in main")]

use std::{
    env,
    error::Error,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use datapath::{
    PacketHandler as _, Verdict,
    handlers::{Drop, Reflect},
};
use rustix::event::{PollFd, PollFlags, poll};
use umemd::{
    ebpf::{LoadOptions, Mode, Program},
    nic, steer,
};
use xsk_rs::{
    FrameDesc, Socket, Umem,
    config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

/// What umemd takes at once, and the size of its rings.
const BATCH: usize = 64;
const RING: u32 = 2048;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().collect();
    let [_, interface, handler] = &args[..] else { return Err("minimal IFACE drop|reflect".into()) };
    let reflect = handler == "reflect";

    let mut program = Program::load(LoadOptions::default())?;
    program.set_rules(&steer::compile(&["udp dst port 7".to_owned()])?)?;
    program.attach(nic::find(&nic::links()?, interface, None)?, Mode::Native)?;

    let ring = QueueSize::new(RING)?;
    let umem_config = UmemConfig::builder().fill_queue_size(ring).comp_queue_size(ring).build()?;
    let (umem, mut free) = Umem::new(umem_config, (2 * RING).try_into()?, false)?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_COPY)
        .build();
    // SAFETY: the only socket of this UMEM.
    let (mut tx, mut rx, rings) = unsafe { Socket::new(config, &umem, &interface.parse()?, 0) }?;
    let (mut fill, mut completion) = rings.ok_or("no fill ring")?;
    // SAFETY: `rx` owns the descriptor, and lives to the end of main.
    let socket = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };

    // SAFETY, here and below: each frame's descriptor is in `free`, or in a list of this turn, or the kernel's.
    unsafe { fill.produce(&free[..RING as usize]) };
    free.drain(..RING as usize);
    program.set_socket(0, socket)?;

    let stdin = io::stdin();
    let mut batch = [FrameDesc::default(); BATCH];
    let mut send = Vec::with_capacity(BATCH);
    let mut recycle = Vec::with_capacity(BATCH);
    let mut packets: u64 = 0;
    loop {
        if reflect {
            loop {
                let sent = unsafe { completion.consume(&mut batch) };
                free.extend_from_slice(&batch[..sent]);
                if sent < BATCH {
                    break;
                }
            }
        }
        let received = unsafe { rx.consume(&mut batch) };
        if received == 0 {
            let mut fds = [
                PollFd::from_borrowed_fd(socket, PollFlags::IN),
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            ];
            poll(&mut fds, None)?;
            if !fds[1].revents().is_empty() {
                break;
            }
            continue;
        }
        packets += received as u64;
        for descriptor in &mut batch[..received] {
            let verdict = {
                let mut data = unsafe { umem.data_mut(descriptor) };
                if reflect { Reflect.handle(data.contents_mut()) } else { Drop.handle(data.contents_mut()) }
            };
            match verdict {
                Verdict::Transmit => send.push(*descriptor),
                Verdict::Drop => recycle.push(*descriptor),
            }
        }
        if !send.is_empty() {
            // All or nothing; what does not fit is dropped.
            if unsafe { tx.produce(&send) } == 0 {
                free.extend_from_slice(&send);
            }
            send.clear();
            if tx.needs_wakeup() {
                tx.wakeup()?;
            }
        }
        // As many frames go onto the fill ring as came off the RX ring.
        while recycle.len() < received
            && let Some(frame) = free.pop()
        {
            recycle.push(frame);
        }
        unsafe { fill.produce(&recycle) };
        recycle.clear();
    }
    println!("{packets}");
    Ok(())
}
