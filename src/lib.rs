//! Background tasks for Rust services on RabbitMQ.

mod broker;
mod clock;
mod consumer;
mod envelope;
mod error;
mod handler;
mod lane;
mod message;
mod name;
mod outcome;
mod producer;
mod reply;
mod retry;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
#[doc(hidden)]
pub mod topology;
#[doc(hidden)]
pub mod transport;

pub use async_trait::async_trait;

pub use broker::Broker;
pub use broker::BrokerBuilder;
pub use consumer::Consumer;
pub use consumer::ConsumerBuilder;
pub use consumer::Fate;
pub use consumer::QueueSettings;
pub use consumer::ShutdownEntry;
pub use consumer::ShutdownReceipt;
pub use error::Error;
pub use error::Result;
pub use handler::TaskContext;
pub use handler::TaskError;
pub use handler::TaskHandler;
pub use lane::Priority;
pub use outcome::DeadReason;
pub use outcome::Outcome;
pub use producer::Enqueue;
pub use producer::EnqueueAll;
pub use producer::Enqueued;
pub use producer::Producer;
pub use producer::ProducerBuilder;
pub use retry::RetryPolicy;
pub use task::ParseTaskIdError;
pub use task::Task;
pub use task::TaskId;
pub use topology::Replication;
