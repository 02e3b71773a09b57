//! The handlers that come with the crate.

mod checksum;
pub mod drop;
pub mod reflect;

pub use self::drop::Drop;
pub use self::reflect::Reflect;
