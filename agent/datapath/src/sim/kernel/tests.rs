use frame_pool::{FramePool, Lent, PoolConfig, UmemProvider};

use super::*;
use crate::handler::Verdict;
use crate::packet::Packet;
use crate::port::{FrameBytes, PacketSink, QueuePort as _};

const FRAMES: u32 = 8;

/// Decides nothing, so that the packets are in the list.
struct Keep;

impl PacketSink for Keep {
    fn decide(&mut self, _: &mut Packet, _: &mut impl FrameBytes) -> Option<Verdict> {
        None
    }

    fn take(&mut self, _: Packet, _: Verdict) {}
}

fn port(config: SimConfig) -> (SimPort, FramePool) {
    let layout = FrameLayout::new(2048, FRAMES).unwrap();
    (SimPort::new(layout, config), FramePool::new(PoolConfig::default(), UmemProvider::new(layout)))
}

#[test]
fn an_address_outside_the_umem_is_swallowed_and_the_next_one_used() {
    let (mut port, mut pool) = port(SimConfig::default());
    let outside = port.rings.layout.byte_len();
    port.rings.fill.put(outside);
    port.fill(&mut vec![pool.alloc().unwrap()]);
    for packet in 0..2 {
        port.offer(vec![packet; 60]);
    }
    port.napi_poll(2);
    assert_eq!(port.delivered(), [[0; 60]]);
    let told = XdpStatistics {
        fill_invalid_descs: 1,
        rx_dropped: 1,
        rx_fill_ring_empty_descs: 1,
        ..XdpStatistics::default()
    };
    assert_eq!(port.statistics(), told);
    assert_eq!((port.rings.fill.len(), port.places().rx), (0, 1), "nobody is told");
}

/// Of two that lie in one frame the later one is all that there is, and it is told twice.
#[test]
fn a_frame_twice_on_the_fill_ring_gets_two_packets_and_is_believed_once() {
    let (mut port, mut pool) = port(SimConfig::default());
    let frame = pool.alloc().unwrap();
    let addr = port.rings.layout.addr_of(frame.id());
    port.fill(&mut vec![frame]);
    port.rings.fill.put(addr.0);
    port.rings.fill.submit();
    for packet in 1..=2 {
        port.offer(vec![packet; 60]);
    }
    port.napi_poll(2);
    let mut packets = Vec::with_capacity(2);
    assert_eq!(port.receive(&mut packets, 2, &mut Keep), 1);
    port.bytes().with(&packets[0], |bytes| assert_eq!(bytes, [2; 60]));
    assert_eq!((port.refused().not_lent, port.refused().total()), (1, 1));
}

#[test]
fn what_goes_elsewhere_is_in_no_counter_of_the_socket() {
    let (mut port, mut pool) = port(SimConfig::default());
    port.fill(&mut vec![pool.alloc().unwrap()]);
    for redirect in [Redirect::OtherQueue, Redirect::EmptySlot, Redirect::EmptySlot] {
        port.set_redirect(redirect);
        port.offer(vec![0; 60]);
        port.napi_poll(1);
    }
    assert_eq!((port.misdirected(), port.passed()), (1, 2));
    assert_eq!((port.statistics(), port.rings.fill.len()), (XdpStatistics::default(), 1));

    port.set_redirect(Redirect::Here);
    port.offer(vec![0; 60]);
    port.napi_poll(1);
    assert_eq!(port.delivered().len(), 1);

    // As after a process has died: the slot is empty, whoever has been there.
    port.close();
    port.set_redirect(Redirect::Here);
    port.offer(vec![0; 60]);
    port.napi_poll(1);
    assert_eq!((port.delivered().len(), port.passed()), (1, 3));
}

#[test]
fn a_umem_outlives_its_first_socket() {
    let (first, mut pool) = port(SimConfig::default());
    let mut second = SimPort::on(&first.umem, SimConfig::default());
    let mut ports = [first];
    ports[0].fill(&mut vec![pool.alloc().unwrap()]);
    second.fill(&mut vec![pool.alloc().unwrap()]);
    let (mut frames, mut references) = (Vec::new(), Vec::new());
    ports[0].close();
    assert_eq!((ports[0].reclaim(&mut frames, &mut references), frames.len()), (1, 1));
    let [first] = ports;
    std::mem::drop(first);

    second.offer(vec![7; 60]);
    second.napi_poll(1);
    let mut packets = Vec::with_capacity(1);
    assert_eq!(second.receive(&mut packets, 1, &mut Keep), 1);
    second.bytes().with(&packets[0], |bytes| assert_eq!(bytes, [7; 60]));
}

/// `xskq_cons_read_desc()` releases it in an old kernel; since 6.13 it is completed as if it was sent.
#[test]
fn a_bad_descriptor_is_completed_by_a_new_kernel_and_kept_by_an_old_one() {
    let outside = FrameAddr(u64::from(FRAMES) * 2048);
    for bad in [(FrameAddr(0), 0), (FrameAddr(0), 2049), (FrameAddr(2000), 60), (outside, 60)] {
        for old_kernel in [false, true] {
            let (mut port, mut pool) = port(SimConfig { old_kernel, ..SimConfig::default() });
            let (addr, len) = bad;
            let good = port.rings.ledger.lend(pool.alloc().unwrap(), Lent::Tx);
            port.rings.tx.put(Descriptor::new(addr, len, false));
            port.rings.tx.put(Descriptor::new(port.rings.layout.addr_of(good), 60, false));
            port.rings.tx.submit();
            assert_eq!(port.kick(), Kick::Done);
            port.complete_sent(2);
            let completed = if old_kernel { 1 } else { 2 };
            assert_eq!(port.rings.completion.waiting(), completed, "{bad:?} {old_kernel}");
            assert_eq!(port.statistics().tx_invalid_descs, 1, "{bad:?} {old_kernel}");
            assert_eq!(port.sent().len(), 1, "{bad:?} {old_kernel}");
        }
    }
}
