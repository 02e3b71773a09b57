//! What the XDP program and the agent share: how a frame is read, what a rule is, how a frame is judged,
//! and which maps lie between the two.
//!
//! The program and the host run this very code, so that what the host predicts (the lock-out guard), tests
//! and fuzzes is what the kernel does. It therefore allocates nothing, cannot panic on any frame, and makes
//! no access that is not bounds-checked.

#![no_std]

pub mod decision;
pub mod key;
pub mod maps;
pub mod packet;
pub mod rule;
pub mod search;

pub use decision::Decision;
pub use key::Key;
pub use packet::{View, parse};
pub use rule::Rule;
pub use search::judge;
