//! Background tasks for Rust services on RabbitMQ.

mod clock;
mod envelope;
mod error;
mod handler;
mod lane;
mod message;
mod name;
mod outcome;
mod retry;
mod task;
#[doc(hidden)]
pub mod topology;
#[doc(hidden)]
pub mod transport;

pub use async_trait::async_trait;

pub use error::Error;
pub use error::Result;
pub use handler::TaskContext;
pub use handler::TaskError;
pub use handler::TaskHandler;
pub use lane::Priority;
pub use outcome::DeadReason;
pub use outcome::Outcome;
pub use retry::RetryPolicy;
pub use task::ParseTaskIdError;
pub use task::Task;
pub use task::TaskId;
