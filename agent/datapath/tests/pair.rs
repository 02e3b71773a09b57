//! Two queues that frames cross between.

mod common;

use std::time::Duration;

use common::{CHUNK, lawful, numbered, small_rings};
use datapath::handlers::Forward;
use datapath::sim::{SimConfig, SimPort, SimUmem};
use datapath::{Kick, Pair, WorkerConfig};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

/// Two queues that frames cross between, and each has frames to receive into.
fn pair() -> Pair<SimPort, Forward> {
    // A pool takes 64 at once.
    let layout = FrameLayout::new(CHUNK, 128).unwrap();
    let (umem, provider) = (SimUmem::new(layout), UmemProvider::new(layout));
    let side = |seed| {
        let port = SimPort::on(&umem, SimConfig { seed, ..small_rings(16, 16, 16, 16) });
        (FramePool::new(PoolConfig::default(), provider.clone()), port)
    };
    let mut pair = Pair::new([side(0), side(1)], Forward, (), WorkerConfig::default());
    pair.poll_once(Duration::ZERO);
    pair
}

/// The kernel's redirect: a frame that another interface sent goes home to the pool that it came from, through
/// that pool's ring.
#[test]
fn a_frame_that_the_other_interface_sent_comes_home_to_its_own_pool() {
    let mut pair = pair();
    for n in 0..8 {
        pair.ports_mut()[0].offer(numbered(n));
    }
    pair.ports_mut()[0].napi_poll(64);
    pair.poll_once(Duration::ZERO);
    let [a, b] = pair.snapshots();
    assert_eq!((a.places.tx, b.places.tx), (8, 0), "the first side's frames, on the second side's ring");
    assert_eq!((a.traffic.tx_packets, b.traffic.tx_packets), (0, 8));
    pair.ports_mut()[1].complete_sent(8);
    pair.poll_once(Duration::ZERO);
    let [a, b] = pair.snapshots();
    assert_eq!((a.pool.recycle.ring, b.pool.recycle.ring), (8, 0));
    assert_eq!((a.pool.extras.foreign_put, b.pool.extras.foreign_put), (0, 0));
    [a, b].iter().for_each(lawful);
    assert_eq!(a.total + b.total, 128, "every frame once");
    let sent = pair.ports()[1].sent().to_vec();
    assert_eq!(sent, (0..8).map(numbered).collect::<Vec<_>>());
}

/// Who may sleep for long while an interface is down must not while the other one sends: nothing wakes it.
#[test]
fn an_interface_that_is_down_holds_up_no_completion_of_the_other() {
    let mut pair = pair();
    for port in pair.ports_mut() {
        port.offer(numbered(0));
        port.napi_poll(1);
    }
    pair.ports_mut()[0].set_up(false);
    let turn = pair.poll_once(Duration::ZERO);
    assert_eq!((turn.transmitted, turn.kick), (2, Kick::Done), "one of them is waited for");
    let [a, b] = pair.snapshots();
    assert_eq!((a.traffic.kicks_down, b.traffic.kicks_done), (1, 1));
    pair.ports_mut()[1].complete_sent(1);
    let turn = pair.poll_once(Duration::ZERO);
    assert_eq!((turn.completed, turn.kick), (1, Kick::Down), "nothing more completes");
    pair.ports_mut()[0].set_up(true);
    assert_eq!(pair.poll_once(Duration::ZERO).kick, Kick::Done);
    pair.snapshots().iter().for_each(lawful);
}
