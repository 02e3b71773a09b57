//! What the end-to-end tests are made of: a lab of network namespaces, a running agent, sockets that send and
//! receive in the lab, and a few things that stand in an agent's way.
//!
//! Each guard owns one thing of the machine's and takes it away when it is dropped. The drawing of the lab is
//! in the README beside this crate.

pub mod agent;
pub mod board;
pub mod command;
pub mod exit;
pub mod foreign;
pub mod full;
pub mod http;
pub mod huge;
pub mod lab;
pub mod metrics;
pub mod netns;
pub mod ping;
pub mod privilege;
pub mod thread;
pub mod veth;
pub mod wait;
pub mod wire;
