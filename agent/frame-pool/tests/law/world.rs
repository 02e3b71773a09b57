//! A pool, everything that holds its frames, and the oracle beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use frame_pool::{
    BadToken, Frame, FrameAddr, FrameId, FrameLayout, FramePin, FramePool, FrameRef, HeldFrame, Ledger, Lent,
    MemoryProvider, PoolConfig, PoolPlaces, RETRY_INTERVAL, Recycler, RefTable, Token, UmemProvider,
};

use crate::oracle::{FIRST_COUNT, Oracle, Sizes, node};

mod rings;

pub(crate) use rings::Answer;
use rings::Loan;

/// What can be done. Numbers choose among what is there, modulo how much that is; an operation without
/// anything to choose from does nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Alloc,
    AllocBulk(u8),
    Put { which: u8, direct: bool },
    PutBulk { n: u8, direct: bool },
    Share { which: u8, refs: u8 },
    Unshare(u8),
    Split { which: u8, refs: u8 },
    Charge { which: u8, refs: u8 },
    PutRef { which: u8, direct: bool },
    PutRefsBulk { n: u8, direct: bool },
    Pin(u8),
    Unpin(u8),
    Mark(u8),
    MarkAlone(u8),
    AllocFrag(u16),
    Give(u8),
    CloneHeld(u8),
    DropHeld(u8),
    UnholdHeld(u8),
    GiveToken(u8),
    Redeem(u8),
    RedeemAgain(u8),
    Lend { which: u8, tx: bool },
    LendRef(u8),
    LendGuest { tx: bool },
    Settle { which: u8, offset: u16 },
    SettleWrong(u8),
    PassRun { which: u8, n: u8, room: u8, tx: bool, answers: [Answer; 4] },
    TurnOver { which: u8, n: u8, room: u8 },
    Reclaim,
    PutForeign { direct: bool },
    ProviderGives(u8),
    ProviderLies,
    GiveToProvider(u8),
    UpdateNid(bool),
    Destroy,
    Retry,
}

/// A provider that gives no more than it is in the mood for, and not always what it should.
#[derive(Debug)]
struct Moody {
    slab: Arc<UmemProvider>,
    mood: AtomicUsize,
    /// Another UMEM, with frames of the same names.
    stranger: Arc<UmemProvider>,
    lies: AtomicBool,
    nodes: bool,
}

impl MemoryProvider for Moody {
    fn refs(&self) -> &Arc<RefTable> {
        self.slab.refs()
    }

    fn alloc_bulk(&self, frames: &mut Vec<Frame>, n: usize, nid: i32) -> usize {
        let n = n.min(self.mood.load(Ordering::Relaxed));
        let strange = if n > 0 && self.lies.swap(false, Ordering::Relaxed) {
            self.stranger.alloc_bulk(frames, 1, nid)
        } else {
            0
        };
        strange + self.slab.alloc_bulk(frames, n - strange, nid)
    }

    fn release(&self, frames: &mut dyn Iterator<Item = Frame>) {
        self.slab.release(frames);
    }

    fn free(&self) -> u32 {
        self.slab.free()
    }

    fn has_nodes(&self) -> bool {
        self.nodes
    }

    fn node_of(&self, frame: FrameId) -> i32 {
        node(frame)
    }
}

/// Frames of the other UMEM, so that there is one for most lies.
const STRANGERS: u32 = 16;

pub(crate) struct World {
    pool: FramePool,
    recycler: Recycler,
    /// Another pool of the same UMEM. What the ledger lends of it are guests; it keeps no idle frame.
    neighbour: FramePool,
    provider: Arc<Moody>,
    ledger: Ledger,
    oracle: Oracle,
    frames: Vec<Frame>,
    bundles: Vec<FrameRef>,
    pins: Vec<FramePin>,
    held: Vec<HeldFrame>,
    tokens: Vec<Token>,
    spent_tokens: Vec<Token>,
    lent: Vec<Loan>,
    quarantined: Vec<FrameId>,
    /// Frames that were given to the provider while they were out: nobody has them any more.
    lost: Vec<FrameId>,
    refused_tokens: u64,
    refused_settles: u64,
    now: Duration,
}

/// Takes one of a vector, if there is one.
fn choose<T>(from: &mut Vec<T>, which: u8) -> Option<T> {
    let at = (which as usize).checked_rem(from.len())?;
    Some(from.remove(at))
}

fn one<T>(of: &mut [T], which: u8) -> Option<&mut T> {
    let at = (which as usize).checked_rem(of.len())?;
    of.get_mut(at)
}

impl World {
    pub(crate) fn new(sizes: Sizes) -> Self {
        let layout = FrameLayout::new(4096, sizes.frames).unwrap();
        let provider = Arc::new(Moody {
            slab: UmemProvider::new(layout),
            mood: AtomicUsize::new(usize::MAX),
            stranger: UmemProvider::new(FrameLayout::new(4096, STRANGERS).unwrap()),
            lies: AtomicBool::new(false),
            nodes: sizes.nodes,
        });
        let config = PoolConfig {
            ring_size: sizes.ring,
            cache_size: sizes.cache as u32,
            refill: sizes.refill as u32,
            nid: 0,
            tokens: true,
            first_count: FIRST_COUNT,
            ..PoolConfig::default()
        };
        let pool = FramePool::new(config, Arc::clone(&provider));
        let single = PoolConfig { ring_size: 1, cache_size: 1, refill: 1, ..PoolConfig::default() };
        let neighbour = FramePool::new(single, Arc::clone(&provider.slab));
        Self {
            recycler: pool.recycler(),
            pool,
            neighbour,
            provider,
            ledger: Ledger::new(layout),
            oracle: Oracle::new(sizes, layout, 0),
            frames: Vec::new(),
            bundles: Vec::new(),
            pins: Vec::new(),
            held: Vec::new(),
            tokens: Vec::new(),
            spent_tokens: Vec::new(),
            lent: Vec::new(),
            quarantined: Vec::new(),
            lost: Vec::new(),
            refused_tokens: 0,
            refused_settles: 0,
            now: Duration::ZERO,
        }
    }

    /// Whether the pool lets one more frame be held: a quarter of the UMEM's, and at least one.
    fn may_hold(&self) -> bool {
        let limit = (self.oracle.sizes.frames as usize / 4).max(1);
        self.held.len() + self.tokens.len() < limit
    }

    /// Does one thing, to the pool and to the oracle, and checks the law. Panics if it does not hold.
    pub(crate) fn apply(&mut self, op: Op) {
        self.perform(op);
        self.check(op);
    }

    /// Returns everything, destroys the pool, and checks that no frame is missing.
    pub(crate) fn end(mut self) {
        self.apply(Op::Reclaim);
        while !self.frames.is_empty() {
            self.apply(Op::Put { which: 0, direct: true });
        }
        self.apply(Op::Destroy);
        for op in [Op::PutRef { which: 0, direct: false }, Op::Unpin(0), Op::DropHeld(0), Op::Redeem(0)] {
            for _ in 0..self.bundles.len() + self.pins.len() + self.held.len() + self.tokens.len() {
                self.apply(op);
            }
        }
        while !self.frames.is_empty() {
            self.apply(Op::Put { which: 0, direct: false });
        }
        self.apply(Op::Retry);
        let gone = self.quarantined.len() + self.lost.len();
        assert_eq!(self.pool.inflight() as usize, gone - self.oracle.guests.len());
        assert_eq!(self.provider.free() as usize, self.oracle.sizes.frames as usize - gone);
    }

    fn perform(&mut self, op: Op) {
        let may_hold = self.may_hold();
        let Self { pool, recycler, oracle, frames, bundles, .. } = self;
        match op {
            Op::Alloc => {
                let frame = pool.alloc();
                assert_eq!(frame.as_ref().map(Frame::id), oracle.alloc());
                frames.extend(frame);
            }
            Op::AllocBulk(n) => {
                let mut bulk = Vec::with_capacity(n.into());
                let got = pool.alloc_bulk(&mut bulk, usize::MAX);
                // A bulk ends with the first allocation that fails.
                let mut expected: Vec<_> = (0..bulk.capacity()).map_while(|_| oracle.alloc()).collect();
                let mut ids: Vec<_> = bulk.iter().map(Frame::id).collect();
                assert_eq!(got, expected.len());
                ids.sort();
                expected.sort();
                assert_eq!(ids, expected);
                frames.append(&mut bulk);
            }
            Op::Put { which, direct } => {
                if let Some(frame) = choose(frames, which) {
                    oracle.put(frame.id(), 1, direct);
                    if direct { pool.put_direct(frame) } else { recycler.put(frame) }
                }
            }
            Op::PutBulk { n, direct } => {
                let mut bulk = frames.split_off(frames.len().saturating_sub(n.into()));
                let rights: Vec<_> = bulk.iter().map(|frame| (frame.id(), 1)).collect();
                oracle.put_bulk(&rights, direct);
                if direct {
                    pool.put_direct_bulk(&mut bulk)
                } else {
                    recycler.put_bulk(&mut bulk)
                }
                assert!(bulk.is_empty());
            }
            Op::Share { which, refs } => {
                if let Some(frame) = choose(frames, which) {
                    let id = frame.id();
                    match recycler.share(frame, refs.into()) {
                        Ok(bundle) => {
                            oracle.out.get_mut(&id).unwrap().refs = refs.into();
                            bundles.push(bundle);
                        }
                        Err(frame) => {
                            assert_eq!(refs, 0);
                            frames.push(frame);
                        }
                    }
                }
            }
            Op::Unshare(which) => {
                if let Some(bundle) = choose(bundles, which) {
                    let rights = oracle.out[&bundle.id()];
                    let alone = rights.refs == bundle.count() && rights.pins == 0 && !rights.current;
                    match recycler.unshare(bundle) {
                        Ok(frame) => {
                            assert!(alone);
                            oracle.out.get_mut(&frame.id()).unwrap().refs = 1;
                            frames.push(frame);
                        }
                        Err(bundle) => {
                            assert!(!alone);
                            bundles.push(bundle);
                        }
                    }
                }
            }
            Op::Split { which, refs } => {
                let part = one(bundles, which).and_then(|bundle| bundle.split(refs.into()));
                bundles.extend(part);
            }
            Op::Charge { which, refs } => {
                if let Some(bundle) = one(bundles, which) {
                    assert!(recycler.charge(bundle, refs.into()));
                    oracle.out.get_mut(&bundle.id()).unwrap().refs += u32::from(refs);
                }
            }
            Op::PutRef { which, direct } => {
                if let Some(bundle) = choose(bundles, which) {
                    oracle.put(bundle.id(), bundle.count(), direct);
                    if direct { pool.put_ref_direct(bundle) } else { recycler.put_ref(bundle) }
                }
            }
            Op::PutRefsBulk { n, direct } => {
                let mut bulk = bundles.split_off(bundles.len().saturating_sub(n.into()));
                let rights: Vec<_> = bulk.iter().map(|bundle| (bundle.id(), bundle.count())).collect();
                oracle.put_bulk(&rights, direct);
                if direct {
                    pool.put_refs_direct_bulk(&mut bulk)
                } else {
                    recycler.put_refs_bulk(&mut bulk)
                }
                assert!(bulk.is_empty());
            }
            Op::Pin(which) => {
                if let Some(bundle) = one(bundles, which)
                    && let Some(pin) = recycler.pin(bundle)
                {
                    oracle.out.get_mut(&bundle.id()).unwrap().pins += 1;
                    self.pins.push(pin);
                }
            }
            Op::Unpin(which) => {
                if let Some(pin) = choose(&mut self.pins, which) {
                    oracle.unpin(pin.id());
                    recycler.unpin(pin).unwrap();
                }
            }
            Op::Mark(which) => {
                if let Some(bundle) = one(bundles, which) {
                    recycler.set_pfmemalloc(bundle);
                    oracle.out.get_mut(&bundle.id()).unwrap().marked = true;
                }
            }
            // The mark stays with a right that is sole again.
            Op::MarkAlone(which) => {
                if let Some(frame) = choose(frames, which) {
                    let bundle = recycler.share(frame, 1).unwrap();
                    recycler.set_pfmemalloc(&bundle);
                    let frame = recycler.unshare(bundle).unwrap();
                    oracle.out.get_mut(&frame.id()).unwrap().marked = true;
                    frames.push(frame);
                }
            }
            Op::AllocFrag(size) => {
                let piece = pool.alloc_frag(size.into());
                let expected = oracle.alloc_frag(size.into());
                assert_eq!(piece.as_ref().map(|piece| (piece.right.id(), piece.offset)), expected);
                bundles.extend(piece.map(|piece| piece.right));
            }
            Op::Give(which) => {
                if let Some(frame) = choose(frames, which) {
                    match pool.give(frame, self.now) {
                        Ok(held) => {
                            assert!(may_hold);
                            self.held.push(held);
                        }
                        Err(frame) => {
                            assert!(!may_hold);
                            oracle.stats.extras.held_refused += 1;
                            frames.push(frame);
                        }
                    }
                }
            }
            Op::CloneHeld(which) => {
                if let Some(held) = one(&mut self.held, which) {
                    let clone = held.try_clone().unwrap();
                    oracle.out.get_mut(&held.id()).unwrap().refs += 1;
                    self.held.push(clone);
                }
            }
            Op::DropHeld(which) => {
                if let Some(held) = choose(&mut self.held, which) {
                    oracle.put(held.id(), 1, false);
                    drop(held);
                }
            }
            Op::UnholdHeld(which) => {
                if let Some(held) = choose(&mut self.held, which) {
                    let alone = oracle.out[&held.id()].refs == 1;
                    match held.try_into_frame() {
                        Ok(frame) => {
                            assert!(alone);
                            frames.push(frame);
                        }
                        Err(held) => {
                            assert!(!alone);
                            self.held.push(held);
                        }
                    }
                }
            }
            Op::GiveToken(which) => {
                if let Some(frame) = choose(frames, which) {
                    match pool.give_token(frame) {
                        Ok(token) => {
                            assert!(may_hold);
                            self.spent_tokens.retain(|spent| *spent != token);
                            self.tokens.push(token);
                        }
                        Err(frame) => {
                            assert!(!may_hold);
                            oracle.stats.extras.held_refused += 1;
                            frames.push(frame);
                        }
                    }
                }
            }
            Op::Redeem(which) => {
                if let Some(token) = choose(&mut self.tokens, which) {
                    frames.push(recycler.redeem(token).unwrap());
                    self.spent_tokens.push(token);
                }
            }
            Op::RedeemAgain(which) => {
                if let Some(token) = one(&mut self.spent_tokens, which) {
                    assert_eq!(recycler.redeem(*token), Err(BadToken::NotOut));
                    self.refused_tokens += 1;
                }
            }
            Op::Lend { which, tx } => {
                if let Some(frame) = choose(frames, which) {
                    self.lend(frame, tx);
                }
            }
            Op::LendRef(which) => {
                if let Some(bundle) = choose(bundles, which) {
                    self.lend_ref(bundle);
                }
            }
            Op::LendGuest { tx } => self.lend_guest(tx),
            Op::Settle { which, offset } => {
                if let Some(loan) = choose(&mut self.lent, which) {
                    self.settle(loan, offset);
                }
            }
            Op::SettleWrong(which) => {
                if let Some(loan) = choose(&mut self.lent, which) {
                    self.settle_wrong(loan);
                }
            }
            Op::PassRun { which, n, room, tx, answers } => self.pass_run(which, n, room, tx, answers),
            Op::TurnOver { which, n, room } => self.turn_over(which, n, room),
            Op::Reclaim => self.reclaim(),
            Op::PutForeign { direct } => {
                let config = PoolConfig { ring_size: 1, ..PoolConfig::default() };
                let mut stranger = FramePool::new(config, UmemProvider::new(pool.layout()));
                let frame = stranger.alloc().unwrap();
                if direct {
                    pool.put_direct(frame)
                } else {
                    recycler.put(frame)
                }
                oracle.stats.extras.foreign_put += 1;
                if let Some(frame) = stranger.alloc() {
                    let bundle = stranger.recycler().share(frame, 1).unwrap();
                    if direct {
                        pool.put_ref_direct(bundle)
                    } else {
                        recycler.put_ref(bundle)
                    }
                    oracle.stats.extras.foreign_put += 1;
                }
            }
            Op::ProviderGives(n) => {
                let mood = if n % 4 == 3 { usize::MAX } else { n.into() };
                self.provider.mood.store(mood, Ordering::Relaxed);
                oracle.mood = mood;
            }
            // The next batch from the provider begins with a frame of another UMEM.
            Op::ProviderLies => {
                if self.provider.stranger.free() > 0 {
                    self.provider.lies.store(true, Ordering::Relaxed);
                    oracle.lie = true;
                }
            }
            // Past the pool; and with it one of another UMEM.
            Op::GiveToProvider(which) => {
                if let Some(frame) = choose(frames, which) {
                    self.lost.push(frame.id());
                    self.provider.release(&mut Some(frame).into_iter());
                }
                let mut strange = Vec::new();
                UmemProvider::new(pool.layout()).alloc_bulk(&mut strange, 1, 0);
                self.provider.release(&mut strange.into_iter());
            }
            Op::UpdateNid(nid) => {
                pool.update_nid(nid.into());
                oracle.update_nid(nid.into());
            }
            Op::Destroy => {
                self.now += RETRY_INTERVAL;
                let _ = pool.destroy(self.now);
                oracle.destroy();
            }
            Op::Retry => {
                self.now += RETRY_INTERVAL;
                let _ = pool.retry(self.now);
                oracle.retry();
            }
        }
    }

    fn check(&self, op: Op) {
        let Self { pool, oracle, .. } = self;
        // Every frame is in exactly one place.
        let all: Vec<_> = oracle.everywhere().iter().map(|id| id.index()).collect();
        assert_eq!(all, (0..oracle.sizes.frames as usize).collect::<Vec<_>>(), "after {op:?}");
        assert!(pool.cache_frames().eq(oracle.cache.iter().copied()), "cache after {op:?}");
        assert!(pool.ring_frames().eq(oracle.ring.iter().copied()), "ring after {op:?}");
        let places = PoolPlaces {
            slab: oracle.slab.len() as u32,
            cache: oracle.cache.len() as u32,
            ring: oracle.ring.len() as u32,
            out: oracle.out.len() as u32,
            detached: oracle.detached.len() as u32,
        };
        assert_eq!(pool.places(), places, "after {op:?}");
        let guests = oracle.guests.len() as u32;
        assert_eq!(places.total() + guests, oracle.sizes.frames, "after {op:?}");
        // What is out, of this pool or of the other one, is what somebody holds.
        let mut holders: Vec<_> = self.frames.iter().map(Frame::id).collect();
        holders.extend(self.bundles.iter().map(FrameRef::id));
        holders.extend(self.held.iter().map(HeldFrame::id));
        holders.extend(self.lent.iter().map(|loan| loan.id));
        holders.extend(self.quarantined.iter().chain(&self.lost));
        holders.extend(pool.frag_page().map(|page| page.id));
        holders.extend(self.tokens.iter().map(|token| {
            let addr = FrameAddr(u64::from(token.0 as u32) * 4096);
            pool.layout().frame_of(addr).unwrap()
        }));
        holders.sort();
        holders.dedup();
        let mut out: Vec<_> = oracle.out.keys().chain(&oracle.guests).copied().collect();
        out.sort();
        assert_eq!(holders, out, "after {op:?}: {:?}", oracle.out);
        // Counters, by the kernel's rules.
        let mut stats = oracle.stats;
        stats.extras.double_put = self.refused_tokens;
        assert_eq!(pool.stats(), stats, "after {op:?}");
        assert_eq!((pool.hold(), pool.release()), (oracle.hold, oracle.release), "after {op:?}");
        let inside = places.cache + places.ring + places.out;
        assert_eq!(pool.inflight(), inside as i32, "after {op:?}");
        assert_eq!((pool.phase(), pool.ring_stale()), (oracle.phase, oracle.stale), "after {op:?}");
        assert_eq!(pool.frag_page(), oracle.frag, "after {op:?}");
        assert_eq!(pool.held() as usize, self.held.len() + self.tokens.len(), "after {op:?}");
        // What is lent, to each ring.
        for lent in [Lent::Fill, Lent::Tx] {
            let expected = self.lent.iter().filter(|loan| loan.lent == lent).count();
            assert_eq!(self.ledger.lent(lent) as usize, expected, "lent for {lent:?} after {op:?}");
        }
        let quarantined: u32 = [Lent::Fill, Lent::Tx].map(|lent| self.ledger.quarantined(lent)).iter().sum();
        assert_eq!(quarantined as usize, self.quarantined.len(), "after {op:?}");
        assert_eq!(self.ledger.refused().total(), self.refused_settles, "after {op:?}");
    }
}
