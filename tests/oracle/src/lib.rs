//! Frames, expressions in tcpdump's words, and what those mean, read off the bytes: the plain oracle that parser,
//! compiler and tables are compared with, so it shares no code with them.
//!
//! Both are made of few values, so that an expression often meets a frame that it matches. Whoever generates them
//! chooses the randomness: proptest's own, a fixed seed, or the bytes of a fuzzer.

#![forbid(unsafe_code)]

mod capture;
mod expressions;
mod frames;

pub use capture::{Format, capture};
pub use expressions::{Expr, expression};
pub use frames::{Ether, Extension, Frame, Wrapping, any_frame};
