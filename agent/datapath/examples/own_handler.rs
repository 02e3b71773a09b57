//! A handler of one's own, on a simulated queue: counts pings, and answers nothing.
//!
//! `cargo run -p datapath --example own_handler`

use std::time::Duration;

use datapath::sim::{SimConfig, SimPort};
use datapath::{PacketHandler, Verdict, Worker, WorkerConfig};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

/// The ten lines: state of one's own, and what to do with a frame.
struct CountPings(u64);

impl PacketHandler for CountPings {
    fn handle(&mut self, frame: &mut [u8]) -> Verdict {
        // IPv4 without options, ICMP, echo request.
        let is_ping =
            frame.len() > 34 && frame[12..15] == [0x08, 0x00, 0x45] && [frame[23], frame[34]] == [1, 8];
        self.0 += u64::from(is_ping);
        Verdict::Drop
    }
}

fn main() -> Result<(), String> {
    // A UMEM of 256 frames of 2 KiB, a pool of them, and a queue whose kernel is simulated.
    let layout = FrameLayout::new(2048, 256).map_err(|error| error.to_string())?;
    let pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
    let port = SimPort::new(layout, SimConfig::default());
    let mut worker = Worker::new(pool, port, CountPings(0), WorkerConfig::default());

    // The first turn fills the fill ring. Then ten packets arrive, every other one a ping.
    worker.poll_once(Duration::ZERO);
    for n in 0..10 {
        let mut packet = vec![0; 60];
        packet[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        (packet[23], packet[34]) = (1, if n % 2 == 0 { 8 } else { 0 });
        worker.port_mut().offer(packet);
    }
    worker.port_mut().napi_poll(64);
    worker.poll_once(Duration::ZERO);

    let pings = worker.handler().0;
    let report = worker.finish(Duration::ZERO);
    let received = report.snapshot.traffic.rx_packets;
    println!("{received} received, {pings} of them pings; every frame accounted for: {}", report.conserved);
    if (received, pings, report.conserved) == (10, 5, true) { Ok(()) } else { Err(format!("{report:?}")) }
}

#[test]
fn it_does_what_it_says() {
    main().unwrap();
}
