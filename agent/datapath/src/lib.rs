//! Moves frames between a queue's AF_XDP rings, a [`frame_pool`] and a handler.
//!
//! A [`Worker`] owns one of each. It is moved on by [`Worker::poll_once`], one turn at a time, on
//! whatever thread its owner chose; there is no thread, clock, lock, log or system call on
//! its way. The rings are behind [`QueuePort`]: the agent's port is an AF_XDP socket, and
//! [`sim::SimPort`] is the kernel's side in memory, seeded, with its corners.
//!
//! # A frame's way through a turn
//!
//! ```text
//!            FramePool                                              QueuePort            kernel
//!  slab - ring - cache
//!            ^   |
//!            |   | alloc_bulk           2 refill, in 64s
//!            |   +----------------------------------------- fill ---> fill ring ------> takes one
//!            |                                                                            | writes
//!            |                          3 receive, <= 64                                  v
//!            |            +------------------------------- receive <- RX ring <-------- gives back
//!            |            |
//!            |            | 4 handle, one by one: bytes -> PacketHandler -> Verdict
//!            |            |
//!            | put_direct |
//!            +--- Drop ---+--- Transmit --> [ backlog ]
//!            |                                   | 5 transmit, what the ring has room for
//!            +---- what exceeds the backlog -----+-------- transmit -> TX ring ----+
//!            |                                                                     | 6 kick
//!            |                                                                     v
//!            +<-- 1 complete ------------------------------ complete <- comp ring <- sends
//!                                        7 publish, once in a millisecond: where every frame is now
//! ```
//!
//! The square brackets are the only place where the worker itself keeps frames between two turns, but for the
//! beginning of a packet whose other frames have not arrived. That is checked against the pool's accounting in
//! every [`Snapshot`]: see [`Snapshot::conserved`].
//!
//! Steps 1 and 2 come first and depend on nothing: completions are reaped and the fill ring is
//! refilled whether or not anything was received, because a queue that only sends receives nothing,
//! and one whose fill ring is empty never will.
//!
//! # Short ways
//!
//! Most packets of a full batch need no more than a [glance](PacketHandler::glance). They go from the RX ring to the
//! TX ring as they came, or home, in one small loop ([`QueuePort::pass`]); from the first other one on it is the same
//! loop with a closer look. One in several frames, and what is behind it, takes steps 3 to 5. Frames that were sent and
//! are missing on the fill ring go there from the completion ring ([`QueuePort::turn_over`]), counted as if they had
//! passed by the pool. Either way the ledger recognises each address.
//!
//! # Beside the way
//!
//! * A [`Pair`] is two of these with one handler: what is received on one side goes into the other's backlog.
//!   The ports share a UMEM, the pools a provider, and a frame that was sent goes home through the ring of
//!   the pool that it came from.
//! * An [`Observer`] sees each packet between steps 4 and 5, when nobody writes to it any more. What it keeps of
//!   a packet that goes home is the frame; of one that is sent, a reference. [`capture`](mod@capture) is one.
//! * A handler may send packets of its own ([`PacketHandler::due`]): their frames come from the pool in step 4.
//!   [`Generate`](handlers::Generate) does nothing else.
//! * A packet may have several frames: they are handled with the last one, sent all or none, and go home
//!   together.
//!
//! A handler of one's own on the simulated port is in `examples/own_handler.rs`.
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod capture;
pub mod descriptor;
pub mod fragments;
pub mod handler;
pub mod handlers;
pub mod holder;
pub mod memory;
mod notice;
pub mod observer;
mod outbox;
pub mod packet;
pub mod pair;
pub mod port;
pub mod publish;
pub mod right;
mod ring;
mod rings;
mod seqlock;
pub mod shutdown;
mod side;
pub mod sim;
pub mod snapshot;
mod sync;
mod through;
mod vec;
pub mod worker;

pub use self::arrivals::{Arrivals, Assembly, WORTH_PASSING, pass};
pub use self::capture::{Capture, CaptureReader, Captured, HeldBytes, NothingCaptured};
pub use self::descriptor::Descriptor;
pub use self::fragments::Fragments;
pub use self::handler::{Due, PacketHandler, Verdict};
pub use self::holder::HeldBy;
pub use self::memory::MemoryPort;
pub use self::observer::{Home, Observer, ObserverCounts, Seen};
pub use self::packet::Packet;
pub use self::pair::Pair;
pub use self::port::{FrameBytes, Glance, Kick, Occupancy, PacketSink, Passed, PortPlaces, QueuePort};
pub use self::publish::{Pending, Published, Publisher};
pub use self::right::Right;
pub use self::shutdown::{Drain, FinalReport};
pub use self::snapshot::{Places, Snapshot, Traffic};
pub use self::worker::{Turn, Worker, WorkerConfig};
