//! Background tasks for Rust services on RabbitMQ.

mod clock;
mod error;
mod lane;
mod message;
mod name;
#[cfg(feature = "testing")]
pub mod testing;
#[doc(hidden)]
pub mod topology;
#[doc(hidden)]
pub mod transport;

pub use error::Error;
pub use error::Result;
