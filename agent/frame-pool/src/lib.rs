//! A recycler of UMEM frames with the semantics of the kernel's page_pool.
#![forbid(unsafe_code)]

mod cache;
mod frag;
mod frame;
mod held;
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

pub use frag::{FragPage, Fragment};
pub use frame::{Frame, PoolTag};
pub use held::HeldFrame;
pub use layout::{FrameAddr, FrameId, FrameLayout, LayoutError};
pub use ledger::{Ledger, Lent, Refused, RefusedCounts};
pub use pool::{Counting, FramePool, Phase, PoolConfig};
pub use provider::{MemoryProvider, NUMA_NO_NODE, UmemProvider};
pub use recycler::Recycler;
pub use refs::{FramePin, FrameRef, MAX_REFS, RefTable};
pub use shutdown::{RETRY_INTERVAL, Shutdown, Stalled, WARN_INTERVAL};
pub use stats::{AllocStats, ExtraStats, PoolPlaces, PoolStats, RecycleStats};
pub use token::{BadToken, Token};
