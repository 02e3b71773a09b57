//! The handlers that come with the crate.

mod checksum;
pub mod drop;
pub mod forward;
pub mod generate;
mod partial;
pub mod reflect;

pub use self::drop::Drop;
pub use self::forward::Forward;
pub use self::generate::{Generate, GenerateError, Pace};
pub use self::partial::complete_checksum;
pub use self::reflect::Reflect;
