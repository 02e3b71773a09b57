//! A recycler of UMEM frames with the semantics of the kernel's page_pool.
//!
//! One thread owns a [`FramePool`] and takes frames from it; everybody else brings them home through its
//! [`Recycler`], or by dropping a [`HeldFrame`]. What lies idle waits in a small stack of hot frames, then
//! in a ring, and only what fits in neither goes back to the [`MemoryProvider`]. Order, counters and
//! shutdown are page_pool's, to the frame: `DESIGN.md` has the mapping and every deliberate difference.
//!
//! ```
//! use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};
//! use std::{thread, time::Duration};
//!
//! let provider = UmemProvider::new(FrameLayout::new(4096, 256)?);
//! let mut pool = FramePool::new(PoolConfig::default(), provider);
//!
//! // The owner's way, which costs no atomic read-modify-write.
//! let frame = pool.alloc().expect("256 frames are free");
//! pool.put_direct(frame);
//! assert_eq!(pool.stats().recycle.cached, 1);
//!
//! // A frame that ends on another thread.
//! let frame = pool.alloc().expect("it is the same one");
//! let held = pool.give(frame, Duration::ZERO).expect("nobody holds any yet");
//! thread::spawn(move || drop(held)).join().unwrap();
//! assert_eq!(pool.stats().recycle.ring, 1);
//!
//! // Each frame is in exactly one place.
//! assert_eq!(pool.places().total(), 256);
//! # Ok::<(), frame_pool::LayoutError>(())
//! ```
//!
//! A [`Frame`] is the right to a frame's bytes, and safe code can neither make nor copy one. What a kernel
//! ring gives back is a mere address, and a [`Ledger`] makes a right of it only if it has lent that frame
//! there.
#![forbid(unsafe_code)]

mod cache;
mod config;
#[cfg(all(test, not(frame_pool_loom)))]
mod counted;
mod frag;
mod frame;
mod held;
mod holds;
mod layout;
mod ledger;
mod pool;
mod provider;
mod recycler;
mod refs;
mod ring;
mod shared;
mod shutdown;
mod stats;
mod sync;
mod token;

pub use config::{Counting, PoolConfig};
pub use frag::{FragPage, Fragment};
pub use frame::{Frame, FramePin, FrameRef, PoolTag};
pub use held::HeldFrame;
pub use holds::{HOLD_BOUNDS, Held, HoldTimes, Holder};
pub use layout::{FrameAddr, FrameId, FrameLayout, LayoutError};
pub use ledger::{Fate, Ledger, Lent, Refused, RefusedCounts, Settled};
pub use pool::{FramePool, Phase};
pub use provider::{MemoryProvider, NUMA_NO_NODE, UmemProvider};
pub use recycler::Recycler;
pub use refs::{MAX_REFS, RefTable};
pub use shutdown::{RETRY_INTERVAL, Shutdown, Stalled, WARN_INTERVAL};
pub use stats::{AllocStats, ExtraStats, PoolPlaces, PoolStats, RecycleStats};
pub use token::{BadToken, Token};
