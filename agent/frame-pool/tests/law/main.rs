//! The law: every frame is in exactly one place, the places add up, and the pool is in every respect where
//! page_pool's rules say it is. Stated by an oracle, and checked after every operation on a pool and on
//! everything that holds frames around it.
#![cfg(not(frame_pool_loom))]

mod histories;
mod model;
mod oracle;
mod world;
