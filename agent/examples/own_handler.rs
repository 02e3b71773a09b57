//! A handler of one's own on a network interface: answers pings, before the kernel's stack sees them.
//!
//! It takes the flags of `umemd run`, and does all else that this does: attach, steer, recycle, count, report.
//!
//! ```sh
//! cargo build --example own_handler
//! sudo target/debug/examples/own_handler --iface eth0 --steer icmp
//! ```

use clap::Parser;
use datapath::{PacketHandler, Verdict};
use umemd::{cli::RunArgs, config::RunConfig, control, outlet::Outlet};

/// All that has to be written: what becomes of a packet.
struct Pong;

impl PacketHandler for Pong {
    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        // IPv4 without options, ICMP, echo request.
        if packet.len() < 42 || packet[12..15] != [8, 0, 0x45] || packet[23] != 1 || packet[34] != 8 {
            return Verdict::Drop;
        }
        packet[..12].rotate_left(6); // who sent it by Ethernet, and to whom
        packet[26..34].rotate_left(4); // the same by IP
        packet[34] = 0; // an echo reply: 8 less, so that its checksum is that much more (RFC 1624)
        let (sum, carry) = u16::from_be_bytes([packet[36], packet[37]]).overflowing_add(0x0800);
        packet[36..38].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
        Verdict::Transmit
    }
}

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> anyhow::Result<()> {
    let config = RunConfig::try_from(Args::parse().run)?;
    control::run_with(config, Outlet::new("report", std::io::stdout())?, |_queue| Pong).map(drop)
}
